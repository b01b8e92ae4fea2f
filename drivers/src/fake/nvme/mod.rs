//! An NVMe controller in memory.
//!
//! [`Nvme`] is a device for [`FakeBacking`](super::FakeBacking) and a handle on it: a clone stays with the test, and makes things go wrong
//! ([`Nvme::inject`]), looks at the blocks of a namespace, or says what the driver did that no driver may do ([`Nvme::mistakes`]).
//!
//! A write of a register only records. When the device is poked, it does in order what was written, fetches commands, does those that are due and posts how
//! they ended; so time passes in pokes, and what a driver costs is the driver's own. It has all of a controller's DMA go over the bus, where the IOMMU sees it.
//!
//! ```
//! use drivers::Backing;
//! use drivers::fake::FakeBacking;
//! use drivers::fake::nvme::{Fault, Nvme, Options, When};
//! let nvme = Nvme::new(Options::default());
//! let backing = FakeBacking::new(nvme.clone())?;
//! backing.start()?;
//! let registers = backing.map_bar(0, 0..0x4000)?;
//! assert_eq!(registers.read_u32(0x08), Some(0x0002_0000), "NVMe 2.0");
//! nvme.inject(When::Now, Fault::AllOnes(None));
//! backing.poke();
//! assert_eq!(registers.read_u32(0x08), Some(u32::MAX));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Follows NVM Express Base 2.0, NVM Command Set 1.0 and PCIe Transport 1.0. Not there: protection information, reservations, zones,
//! firmware updates, power states beyond the first, arbitration other than round robin, interrupt coalescing (the feature is kept, and does nothing), NSSR.

mod admin;
mod bytes;
mod chance;
mod command;
mod controller;
mod events;
mod fault;
mod features;
mod host;
mod identify;
mod io;
mod log;
mod manage;
mod namespace;
mod options;
mod queue;
mod registers;
mod subsystem;
#[cfg(test)]
mod tests;
mod transfer;
mod virtualization;

pub use command::Status;
pub use events::Event;
pub use fault::{Fault, When};
pub use namespace::{Format, NamespaceOptions};
pub use options::{Abilities, Interrupts, Options};

use controller::Controller;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use subsystem::Subsystem;
use vfio_core::fake::{Bus, Description, Device, Region};

/// A controller. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Nvme {
    controller: Arc<Mutex<Controller>>,
    subsystem: Arc<Mutex<Subsystem>>,
}

/// What a controller has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Admin commands that were fetched.
    pub admin: u64,
    /// I/O commands that were fetched.
    pub io: u64,
    /// Completions.
    pub completions: u64,
    /// Interrupts.
    pub interrupts: u64,
    /// Doorbells that were rung.
    pub doorbells: u64,
    /// Reads that ended well.
    pub reads: u64,
    /// Writes that ended well.
    pub writes: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Their bytes.
    pub bytes_written: u64,
}

const SERIAL: &str = "FAKE0001";
const NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000001";
/// Where the table of MSI-X is in BAR 0.
const TABLE: u32 = 0xc000;

impl Nvme {
    /// A controller, the primary one if there are virtual functions.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let options = options.sound();
        let subsystem = Arc::new(Mutex::new(Subsystem::new(&options)));
        let controller = Controller::new(0, options, Arc::clone(&subsystem));
        Self {
            controller: Arc::new(Mutex::new(controller)),
            subsystem,
        }
    }

    /// The device of a virtual function, counted from 1; its controller has the same number. `None` if there are not so many.
    #[must_use]
    pub fn function(&self, number: u16) -> Option<Self> {
        let options = self.controller().options.clone();
        if number == 0 || number > options.functions {
            return None;
        }
        let controller = Controller::new(number, options, Arc::clone(&self.subsystem));
        Some(Self {
            controller: Arc::new(Mutex::new(controller)),
            subsystem: Arc::clone(&self.subsystem),
        })
    }

    /// Makes something go wrong, once.
    pub fn inject(&self, when: When, fault: Fault) {
        self.controller().script.add(when, fault, false);
    }

    /// Makes something go wrong each time, from then on.
    pub fn inject_always(&self, when: When, fault: Fault) {
        self.controller().script.add(when, fault, true);
    }

    /// Makes commands go wrong by chance, so many of 1000.
    pub fn chaos(&self, seed: u64, permille: u32) {
        self.controller().script.chaos(seed, permille);
    }

    /// Forgets the faults that are to come, and heals the controller's own from its next reset on.
    pub fn heal(&self) {
        let mut controller = self.controller();
        controller.script.clear();
        controller.registers.heal();
    }

    /// Tells of an event, once the host asks for one.
    pub fn report(&self, event: Event) {
        self.controller().report(event);
    }

    /// A namespace gets another number of blocks, as if another host had done it; its controllers tell of it. False if it is not there.
    pub fn resize(&self, namespace: u32, blocks: u64) -> bool {
        let mut subsystem = self.subsystem();
        let Some(resized) = subsystem.namespaces.get_mut(&namespace) else {
            return false;
        };
        resized.blocks = blocks;
        resized.clear(blocks, u64::MAX);
        let attached = resized.attached.clone();
        subsystem.notice(attached, namespace);
        true
    }

    /// The blocks of a namespace, each with its metadata behind it; `None` outside of it.
    #[must_use]
    pub fn blocks(&self, namespace: u32, lba: u64, count: u64) -> Option<Vec<u8>> {
        let subsystem = self.subsystem();
        let namespace = subsystem.namespaces.get(&namespace)?;
        namespace.has(lba, count).then(|| namespace.read(lba, count))
    }

    /// Replaces blocks of a namespace, each with its metadata behind it; `None` outside of it.
    pub fn set_blocks(&self, namespace: u32, lba: u64, blocks: &[u8]) -> Option<()> {
        let mut subsystem = self.subsystem();
        let namespace = subsystem.namespaces.get_mut(&namespace)?;
        let count = (blocks.len() / namespace.stored_bytes()) as u64;
        namespace.has(lba, count).then(|| namespace.write(lba, blocks))
    }

    /// What the driver did that no driver may do, in words: doorbells that cannot be, identifiers used twice, registers written at the
    /// wrong time, queues deleted in the wrong order.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        self.controller().mistakes.clone()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.controller().counts
    }

    /// I/O queues that there are: submission and completion queues.
    #[must_use]
    pub fn queues(&self) -> (usize, usize) {
        let controller = self.controller();
        (
            controller.submissions.keys().filter(|id| **id != 0).count(),
            controller.completions.keys().filter(|id| **id != 0).count(),
        )
    }

    /// Submission queues that are in the controller memory buffer.
    #[must_use]
    pub fn queues_in_buffer(&self) -> usize {
        let controller = self.controller();
        let queues = controller.submissions.values();
        queues.filter(|queue| controller.in_buffer(queue.base, 1).0).count()
    }

    /// Whether it says that it has failed (CSTS.CFS).
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.controller().is_fatal()
    }

    fn controller(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subsystem(&self) -> MutexGuard<'_, Subsystem> {
        self.subsystem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Nvme {
    fn description(&self) -> Description {
        let controller = self.controller();
        let options = &controller.options;
        let mut description = Description::new(0x1b36, 0x0010)
            .class(0x01_0802)
            .region(Region::bar(0, 64 << 10));
        if options.buffer != 0 {
            description = description.region(Region::bar(2, options.buffer));
        }
        match options.interrupts {
            Interrupts::Msix(_) => description.msix(options.vectors(), 0, TABLE),
            Interrupts::Msi(_) => description.msi(options.vectors().into()),
            Interrupts::Intx => description.intx(),
            Interrupts::None => description,
        }
    }

    fn read(&mut self, region: u32, offset: u64, width: u32, _bus: &Bus<'_>) -> u64 {
        let mut controller = self.controller();
        if region == 0 {
            return controller.read_register(offset, width);
        }
        let part = controller.buffer().get(bytes::size(offset)..).unwrap_or_default();
        let part = part.get(..bytes::size(width.into())).unwrap_or_default();
        part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn write(&mut self, region: u32, offset: u64, width: u32, value: u64, _bus: &Bus<'_>) {
        let mut controller = self.controller();
        if region == 0 {
            return controller.write_register(offset, width, value);
        }
        let value = value.to_le_bytes();
        let part = value.get(..bytes::size(width.into())).unwrap_or_default();
        bytes::put(controller.buffer(), bytes::size(offset), part);
    }

    fn reset(&mut self) {
        self.controller().reset();
    }

    fn poke(&mut self, bus: &Bus<'_>) {
        self.controller().poke(bus);
    }
}
