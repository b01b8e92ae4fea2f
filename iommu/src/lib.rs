//! Policy over the kernel boundary: who may reach which memory, and where.
//!
//! An [`AddressSpace`](space::AddressSpace) maps memory for devices, over iommufd and type1 alike. On it stand buffers and
//! pools of buffers ([`buffer`], [`pool`], [`bounce`]), demand-paged DMA ([`demand`]), dirty tracking ([`dirty`]), nesting ([`nested`]) and
//! groups that share a space ([`group`]). [`open`](open()) opens a device with a space of its own, by the best way that there is. Its parts can be used alone: the IOVA [`allocator`], the [`lookup`] table, [`prefault`].
//!
//! Nothing here is `unsafe`. Looking up an IOVA never waits, nor does taking a buffer of a pool that needs no new chunk, or returning one.
//! Mapping and unmapping wait for each other while one of them notes what it does, and both for an unmapping of a whole range.
//! [`prefault`] waits for its threads.
//!
//! A device of the fake machine copies memory; with `System::host()` and the path of a real device it is the same program:
//!
//! ```
//! use iommu::space::{AddressSpace, MapOptions};
//! use std::{sync::Arc, time::Duration};
//! use vfio_core::fake::{Copier, Machine};
//! use vfio_core::{Access, CdevFile, EventFd, IrqIndex, Memory, MemoryOptions, RegionIndex, iommufd::Iommufd, wait_any};
//!
//! let bdf = "0000:01:00.0".parse()?;
//! let machine = Machine::builder().device(bdf, pci::GroupId(7), Copier::new()).build();
//! let system = machine.system();
//!
//! // The device, and the only memory that it will ever reach. Attached first: it narrows which IOVAs are allowed.
//! let iommufd = Iommufd::open(&system)?;
//! let device = CdevFile::open(&system, machine.cdev_path(bdf).ok_or("no such device")?)?.bind(&iommufd, None)?;
//! let space = AddressSpace::iommufd(&iommufd)?;
//! let _attached = space.attach(&device)?;
//! let memory = Arc::new(Memory::new(8192, MemoryOptions::default())?);
//! let mapping = space.map(&memory, 0..8192, MapOptions::new(Access::READ | Access::WRITE))?;
//!
//! // Without bus mastering it neither reads memory nor sends interrupts.
//! device.config()?.set_memory_decode(true)?;
//! device.config()?.set_bus_master(true)?;
//! let event = EventFd::new()?;
//! let interrupts = device.interrupts(IrqIndex::Msix)?;
//! interrupts.enable(0, &[Some(&event)])?;
//!
//! // Its registers: source, target, length, vector 0, go.
//! memory.write(0, b"to be copied").ok_or("outside the memory")?;
//! let bar = device.region(RegionIndex::BAR0)?;
//! let registers = bar.map(0..bar.size())?;
//! let iova = mapping.iova().0;
//! for (offset, value) in [(0x08, iova), (0x10, iova + 4096), (0x18, 12)] {
//!     registers.write_u64(offset, value).ok_or("outside the BAR")?;
//! }
//! registers.write_u32(0x24, 1 << 31).ok_or("outside the BAR")?;
//! registers.write_u32(0x28, 1).ok_or("outside the BAR")?;
//! assert_eq!(wait_any(&[&event], Some(Duration::from_secs(5)))?.len(), 1);
//! let mut copy = [0; 12];
//! memory.read(4096, &mut copy).ok_or("outside the memory")?;
//! assert_eq!(&copy, b"to be copied");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod allocator;
pub mod bounce;
pub mod buffer;
pub mod demand;
pub mod dirty;
mod error;
pub mod group;
pub mod lookup;
pub mod nested;
mod open;
pub mod pool;
pub mod prefault;
pub mod space;
mod sync;

pub use error::{Error, Obstacle, Result};
pub use open::{OpenOptions, open};
pub use vfio_core::{Iova, IovaRange};
