//! A machine in memory that answers as the kernel does: iommufd, VFIO and the devices behind them.
//!
//! A [`Machine`] is built with its IOMMU and its devices; [`Machine::system`] is the [`System`](crate::System) that a program opens its files from,
//! and everything above works on it unchanged. A device is a [`Device`]: registers that are read and written,
//! and a [`Bus`] on which it does DMA, raises interrupts and requests pages. [`Plain`] is a register file with hooks, [`Copier`] an engine that
//! copies memory.
//!
//! A program that looks into `/sys` before it opens anything, as [`CdevFile::open_bdf`](crate::CdevFile::open_bdf), [`Backend::probe`](crate::Backend::probe)
//! and the crate `pci` do, gets the machine as files from [`Machine::write_tree`]: a [`Sysfs`](pci::Sysfs), and a system that names the function in its
//! errors and explains its refusals with what is there. The one of [`Machine::system`] knows no `/sys`.
//!
//! Nothing runs by itself: no threads, no clocks. A device acts when it is touched, or when a test says so ([`Machine::poke`]).
//! What the kernel would do later because an eventfd was signalled (unmasking INTx, an ioeventfd's write) is done by the next call,
//! register access, or [`Machine::settle`].
//!
//! For tests of cleaning up: [`Machine::fail_nth`] makes one call fail, [`Machine::leaks`] says what is still open and
//! [`Machine::abandoned`] what only the closing of a file has ended, [`Machine::mistakes`] what was destroyed twice or too early. DMA that the IOMMU stopped is in [`Machine::faults`].
//!
//! ```
//! use vfio_core::fake::{Copier, Machine};
//! let bdf = "0000:01:00.0".parse()?;
//! let machine = Machine::builder().device(bdf, pci::GroupId(7), Copier::new()).build();
//! let system = machine.system();
//! // ... open files of `system`, then drop everything ...
//! # drop(system);
//! assert_eq!(machine.leaks(), Vec::<String>::new());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Follows Linux 7.3: `drivers/iommu/iommufd`, `drivers/vfio`. Not there: the mock devices of `CONFIG_IOMMUFD_TEST`, real
//! descriptors for files of the kernel (`try_clone_fd` answers that there is none), addresses of mapped regions.

mod builder;
mod bus;
mod copier;
mod device;
mod dma;
mod files;
mod gate;
mod iommu;
mod machine;
mod options;
mod plain;
mod state;
mod tree;
mod vfio;

pub use crate::sys::mem::Parting;
pub use builder::Builder;
pub use bus::{Bus, DmaFault, FaultReason, PageRequest, PageResponse, Refused};
pub use copier::Copier;
pub use device::{Description, Device, MigrationSupport, Region};
pub use machine::Machine;
pub use options::Iommu;
pub use plain::{Plain, Registers, Write};
