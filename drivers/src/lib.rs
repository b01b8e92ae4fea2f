//! Userspace drivers: a process owns a PCI function and talks to it with no kernel on the data path.
//!
//! A driver is generic over a [`Backing`], which is all that it needs of hardware: registers, memory that the device may reach, interrupts,
//! reset, and word of removal. [`VfioBacking`] is a real function, through iommufd or type1 alike; `FakeBacking` (feature `fake`) is a device in
//! memory. What a driver touches besides is `iommu`'s buffers and pools.
//!
//! Nothing here is `unsafe`, and no driver can be made so: a device reaches what is mapped for it and nothing else, a mapping holds its memory,
//! and bytes that a device may change are copied or atomic. A wrong address in a descriptor is a fault that the IOMMU stops.
//!
//! A driver that is dropped leaves a quiet device: its queues are deleted before their memory goes, then bus mastering is switched off and the
//! function reset. If the process is killed, the kernel does the last two.
//!
//! # Features
//!
//! `fake`: devices in memory, for tests. `smoltcp`: network devices for that TCP/IP stack.
#![forbid(unsafe_code)]

mod backing;
pub mod edu;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod igbvf;
pub mod nvme;
mod removal;
mod vfio;
pub mod virtio;
pub mod wait;

pub use backing::Backing;
pub use error::{Error, ErrorKind, Result};
pub use removal::{Presence, Removal};
pub use vfio::{Quiet, Registers, VectorKind, Vectors, VfioBacking};
pub use wait::Woken;
