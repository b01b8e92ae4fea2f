//! What a controller is built as.

use super::namespace::{Format, NamespaceOptions};
use std::ops::Range;

/// What a controller is built as. The default has one namespace of 1 GiB and all that is optional but virtual functions.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most entries of a queue (CAP.MQES + 1).
    pub entries: u32,
    /// Doorbells are 4 << this bytes apart (CAP.DSTRD), at most 6.
    pub stride: u8,
    /// Worst time to get ready, in units of 500 ms (CAP.TO).
    pub timeout: u8,
    /// Memory pages of 4096 << this bytes at least (CAP.MPSMIN).
    pub page_min: u8,
    /// Memory pages of 4096 << this bytes at most (CAP.MPSMAX).
    pub page_max: u8,
    /// Most bytes of a transfer: the smallest page << this; 0 is no limit (MDTS).
    pub max_transfer: u8,
    /// I/O queue pairs.
    pub queues: u16,
    /// Interrupts.
    pub interrupts: Interrupts,
    /// Pokes from the enable bit to being ready, from its clearing to not being ready, and for a shutdown.
    pub ready: u64,
    /// Pokes that a command takes. With more than one value commands overtake one another.
    pub latency: Range<u64>,
    /// Pokes that a sanitize operation takes.
    pub sanitize: u64,
    /// For all that is left to chance.
    pub seed: u64,
    /// What it can do.
    pub abilities: Abilities,
    /// Bytes of the controller memory buffer in BAR 2; 0 for none.
    pub buffer: u64,
    /// What CMBLOC and CMBSZ say of the buffer instead of the truth.
    pub buffer_told: Option<(u32, u32)>,
    /// Asynchronous Event Requests at a time (AERL + 1).
    pub event_requests: u8,
    /// Bytes in all namespaces together.
    pub capacity: u64,
    /// Formats that a namespace can have, at most 64.
    pub formats: Vec<Format>,
    /// Namespaces 1, 2, …
    pub namespaces: Vec<NamespaceOptions>,
    /// Virtual functions, which are secondary controllers.
    pub functions: u16,
}

/// Which interrupts a controller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupts {
    /// MSI-X with so many vectors.
    Msix(u16),
    /// MSI with so many vectors, a power of two of at most 32.
    Msi(u16),
    /// A pin.
    Intx,
    /// None.
    None,
}

bitflags::bitflags! {
    /// What a controller can do beyond what every one can.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Abilities: u32 {
        /// SGLs.
        const SGL = 1;
        /// Shadow doorbells (Doorbell Buffer Config).
        const DOORBELL_BUFFERS = 2;
        /// Fused compare and write.
        const FUSED = 4;
        /// Namespace Management and Attachment.
        const NAMESPACES = 8;
        /// Format NVM.
        const FORMAT = 16;
        /// Sanitize.
        const SANITIZE = 32;
        /// Compare.
        const COMPARE = 64;
        /// Dataset Management.
        const DSM = 128;
        /// Write Zeroes.
        const WRITE_ZEROES = 256;
        /// Verify.
        const VERIFY = 512;
        /// A volatile write cache, so that Flush means something.
        const CACHE = 1024;
    }
}

impl Default for Options {
    fn default() -> Self {
        let format = |lba_bytes, metadata| Format { lba_bytes, metadata };
        Self {
            entries: 1024,
            stride: 0,
            timeout: 4,
            page_min: 0,
            page_max: 4,
            max_transfer: 7,
            queues: 16,
            interrupts: Interrupts::Msix(17),
            ready: 3,
            latency: 1..2,
            sanitize: 50,
            seed: 1,
            abilities: Abilities::all(),
            buffer: 0,
            buffer_told: None,
            event_requests: 4,
            capacity: 16 << 30,
            formats: vec![format(512, 0), format(4096, 0), format(512, 8), format(4096, 64)],
            namespaces: vec![NamespaceOptions {
                blocks: 2 << 20,
                format: 0,
                extended: false,
            }],
            functions: 0,
        }
    }
}

impl Options {
    /// What a specification or the layout of its BAR does not allow is brought to the nearest that they do.
    pub(super) fn sound(mut self) -> Self {
        self.entries = self.entries.clamp(2, 65536);
        self.stride = self.stride.min(6);
        self.page_min = self.page_min.min(15);
        self.page_max = self.page_max.clamp(self.page_min, 15);
        self.queues = self.queues.clamp(1, 63);
        if self.interrupts == Interrupts::Intx {
            // The pin's level follows the heads, which the controller does not look at all the time when they lie in memory.
            self.abilities.remove(Abilities::DOORBELL_BUFFERS);
        }
        self.event_requests = self.event_requests.max(1);
        self.latency = self.latency.start..self.latency.end.max(self.latency.start.saturating_add(1));
        self.formats
            .retain(|format| format.lba_bytes.is_power_of_two() && format.lba_bytes >= 512);
        self.formats.truncate(64);
        if self.formats.is_empty() {
            self.formats = Self::default().formats;
        }
        self
    }

    pub(super) fn vectors(&self) -> u16 {
        match self.interrupts {
            Interrupts::Msix(vectors) => vectors.clamp(1, 1024),
            Interrupts::Msi(vectors) => vectors.clamp(1, 32).next_power_of_two(),
            Interrupts::Intx | Interrupts::None => 1,
        }
    }

    pub(super) fn can(&self, ability: Abilities) -> bool {
        self.abilities.contains(ability)
    }

    pub(super) fn format(&self, index: u8) -> Option<Format> {
        self.formats.get(usize::from(index)).copied()
    }
}
