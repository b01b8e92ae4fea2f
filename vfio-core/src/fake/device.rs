//! What a device of the fake machine is.

use super::bus::{Bus, PageResponse};
use std::fmt::Debug;
use std::ops::Range;

/// A device: registers, and what happens when they are touched.
///
/// A register access and what it sets off are one step: the device has the bus until it returns. It must not call the program under
/// test, which may wait for that very device.
pub trait Device: Debug + Send {
    /// What it is; asked once, when the machine is built.
    fn description(&self) -> Description;

    /// A read of 1, 2, 4 or 8 bytes of a region.
    fn read(&mut self, region: u32, offset: u64, width: u32, bus: &Bus<'_>) -> u64;

    /// A write of 1, 2, 4 or 8 bytes of a region.
    fn write(&mut self, region: u32, offset: u64, width: u32, value: u64, bus: &Bus<'_>);

    /// A reset: registers go back to what they were.
    fn reset(&mut self) {}

    /// The answer to a group of its page requests.
    fn page_response(&mut self, response: PageResponse, bus: &Bus<'_>) {
        let (_, _) = (response, bus);
    }

    /// Something outside the bus happened to it: whatever [`Machine::poke`](super::Machine::poke) was called for.
    fn poke(&mut self, bus: &Bus<'_>) {
        let _ = bus;
    }

    /// Its state for migration, in bytes of its own format.
    fn save(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes over a state; false if the bytes make no sense.
    fn restore(&mut self, state: &[u8]) -> bool {
        state.is_empty()
    }
}

/// What a device has.
#[derive(Debug, Clone)]
pub struct Description {
    pub(super) vendor: u16,
    pub(super) device: u16,
    pub(super) class: u32,
    pub(super) regions: Vec<Region>,
    abilities: Abilities,
    pub(super) msi: u32,
    pub(super) msix: Option<Msix>,
    pub(super) pasid_bits: u8,
    pub(super) migration: Option<MigrationSupport>,
    /// Identifier, and what follows the pointer to the next one.
    pub(super) capabilities: Vec<(u8, Vec<u8>)>,
}

bitflags::bitflags! {
    /// What a device has or has not.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Abilities: u32 {
        const INTX = 1;
        const PAGE_REQUESTS = 2;
        const RESET = 4;
        const DMA_LOGGING = 8;
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Msix {
    pub(super) vectors: u16,
    pub(super) bar: u8,
    pub(super) offset: u32,
    pub(super) dynamic: bool,
}

/// What migration of a device can do beside stop and copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MigrationSupport {
    /// It can stop its own DMA while others still reach it.
    pub p2p: bool,
    /// It can save while it runs.
    pub pre_copy: bool,
}

/// A region of a device.
#[derive(Debug, Clone)]
pub struct Region {
    pub(super) index: u32,
    pub(super) size: u64,
    pub(super) write: bool,
    pub(super) mmap: bool,
    pub(super) sparse: Vec<Range<u64>>,
    pub(super) kind: Option<(u32, u32)>,
}

impl Description {
    /// A device with these ids, of class 0xff0000, with a function reset and nothing else.
    #[must_use]
    pub fn new(vendor: u16, device: u16) -> Self {
        Self {
            vendor,
            device,
            class: 0xff_0000,
            regions: Vec::new(),
            abilities: Abilities::RESET,
            msi: 0,
            msix: None,
            pasid_bits: 0,
            migration: None,
            capabilities: Vec::new(),
        }
    }

    /// Sets the class code, 24 bits.
    #[must_use]
    pub fn class(self, class: u32) -> Self {
        Self { class, ..self }
    }

    /// Adds a region.
    #[must_use]
    pub fn region(mut self, region: Region) -> Self {
        self.regions.push(region);
        self
    }

    /// Adds an INTx pin.
    #[must_use]
    pub fn intx(self) -> Self {
        self.with(Abilities::INTX, true)
    }

    /// Adds MSI with `vectors` vectors, rounded up to a power of two of at most 32.
    #[must_use]
    pub fn msi(self, vectors: u32) -> Self {
        let msi = vectors.clamp(1, 32).next_power_of_two();
        Self { msi, ..self }
    }

    /// Adds MSI-X with `vectors` vectors, at most 2048, whose table is at `offset` in a BAR.
    #[must_use]
    pub fn msix(self, vectors: u16, bar: u8, offset: u32) -> Self {
        let vectors = vectors.clamp(1, 2048);
        let msix = Some(Msix {
            vectors,
            bar: bar.min(5),
            offset: offset & !7,
            dynamic: true,
        });
        Self { msix, ..self }
    }

    /// The kernel cannot add vectors of MSI-X while it is enabled.
    #[must_use]
    pub fn without_dynamic_msix(mut self) -> Self {
        if let Some(msix) = &mut self.msix {
            msix.dynamic = false;
        }
        self
    }

    /// Adds process address space IDs of so many bits, at most 20.
    #[must_use]
    pub fn pasid(self, bits: u8) -> Self {
        Self {
            pasid_bits: bits.min(20),
            ..self
        }
    }

    /// Adds page requests (ATS and PRI).
    #[must_use]
    pub fn page_requests(self) -> Self {
        self.with(Abilities::PAGE_REQUESTS, true)
    }

    /// Takes away the function reset.
    #[must_use]
    pub fn without_reset(self) -> Self {
        self.with(Abilities::RESET, false)
    }

    /// Adds migration.
    #[must_use]
    pub fn migration(self, support: MigrationSupport) -> Self {
        Self {
            migration: Some(support),
            ..self
        }
    }

    /// Adds a capability behind those that the other calls here add, read-only: `body` is what follows its identifier and the pointer to the
    /// next one. What does not fit in 256 bytes is cut off.
    #[must_use]
    pub fn capability(mut self, id: u8, body: &[u8]) -> Self {
        self.capabilities.push((id, body.to_vec()));
        self
    }

    /// Adds a log of the pages that the device wrote.
    #[must_use]
    pub fn dma_logging(self) -> Self {
        self.with(Abilities::DMA_LOGGING, true)
    }

    fn with(mut self, ability: Abilities, on: bool) -> Self {
        self.abilities.set(ability, on);
        self
    }

    pub(super) fn has(&self, ability: Abilities) -> bool {
        self.abilities.contains(ability)
    }
}

impl Region {
    /// A BAR of `size` bytes, a power of two of at least a page, that can be mapped.
    #[must_use]
    pub fn bar(index: u8, size: u64) -> Self {
        let size = size.max(16).next_power_of_two();
        Self {
            index: index.min(5).into(),
            size,
            write: true,
            mmap: size >= 4096,
            sparse: Vec::new(),
            kind: None,
        }
    }

    /// An expansion ROM.
    #[must_use]
    pub fn rom(size: u64) -> Self {
        Self {
            index: 6,
            size: size.next_power_of_two(),
            write: false,
            mmap: false,
            sparse: Vec::new(),
            kind: None,
        }
    }

    /// A region of its own kind behind those of PCI: `nth` counts from 0.
    #[must_use]
    pub fn special(nth: u32, size: u64, kind: u32, subtype: u32) -> Self {
        Self {
            index: nth.saturating_add(9),
            size,
            write: true,
            mmap: false,
            sparse: Vec::new(),
            kind: Some((kind, subtype)),
        }
    }

    /// It can be read and written only.
    #[must_use]
    pub fn without_mmap(self) -> Self {
        Self { mmap: false, ..self }
    }

    /// Only these parts can be mapped.
    #[must_use]
    pub fn sparse(self, parts: Vec<Range<u64>>) -> Self {
        Self { sparse: parts, ..self }
    }
}
