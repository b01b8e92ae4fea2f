//! The kernel boundary: VFIO and iommufd as safe types.
//!
//! Everything begins with a [`System`], the running kernel or (feature `fake`) one in memory. What it opens are kernel objects that
//! hold alive what they need and are closed or destroyed when dropped. This crate decides nothing: it chooses no IOVA,
//! retries nothing, and prefers neither of the kernel's two interfaces.
//!
//! All `unsafe` code of the workspace is in `sys`; everything above it is safe by these rules:
//!
//! - Memory that a device may reach implements [`StableMemory`], an `unsafe` trait, and is held alive by whatever maps it.
//! - Such memory is read and written by copy or through atomics, never through a `&[u8]` or `&mut [u8]`.
//! - A file descriptor is owned ([`OwnedFd`](std::os::fd::OwnedFd)) or borrowed, never a number.
//!
//! Follows the kernel's `include/uapi/linux/vfio.h` and `include/uapi/linux/iommufd.h` of Linux 7.3.

mod dirty;
mod error;
pub mod iommufd;
mod iova;
mod memory;
mod sys;
mod system;

pub use dirty::{DirtyBitmap, DirtyRanges};
pub use error::{Error, ErrorKind, Step};
pub use iova::{Iova, IovaRange};
pub use memory::{Access, Backing, Memory, MemoryOptions, PageSize, StableMemory};
pub use system::System;
