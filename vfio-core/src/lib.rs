//! The kernel boundary: VFIO and iommufd as safe types.
//!
//! Everything begins with a [`System`], the running kernel or (feature `fake`) one in memory. What it opens are kernel objects that
//! hold alive what they need and are closed or destroyed when dropped. This crate decides nothing: it chooses no IOVA,
//! retries nothing, and prefers neither of the kernel's two interfaces.
//!
//! All `unsafe` code of the workspace is in `sys`; everything above it is safe by these rules:
//!
//! - Memory that a device may reach implements [`StableMemory`], an `unsafe` trait. It is lent: mapping it takes a share in it, which goes
//!   when the kernel has unmapped it and never before. That is decided in `sys` too (`sys/space`), and no code above it can map in another way.
//! - Such memory is read and written by opaque copies or through atomics, never through a `&[u8]` or `&mut [u8]`.
//! - A file descriptor is owned ([`OwnedFd`](std::os::fd::OwnedFd)) or borrowed, never a number.
//!
//! A child of `fork(2)` shares the kernel objects but not the memory that is mapped for devices: what it drops would be unmapped, detached
//! and destroyed for its parent. It must drop nothing of this crate, so let it `exec` at once, as [`std::process::Command`] does. Until then it holds
//! copies of all descriptors, and what was closed meanwhile may still be busy.
//!
//! # Features
//!
//! `fake`: a machine in memory with devices, an IOMMU that faults, and calls that fail in turn. `kvm`: KVM's VFIO device. `noiommu`: devices without an
//! IOMMU, through `unsafe` constructors. `selftest`: the kernel's mock IOMMU.
//!
//! Follows the kernel's `include/uapi/linux/vfio.h` and `include/uapi/linux/iommufd.h` of Linux 7.3.

mod attach;
mod backend;
mod cdev;
mod config;
mod device;
mod dirty;
mod dma_logging;
mod error;
mod event;
mod exec;
#[cfg(feature = "fake")]
pub mod fake;
mod feature;
mod hot_reset;
pub mod info;
mod ioeventfd;
pub mod iommufd;
mod iova;
mod irq;
#[cfg(feature = "kvm")]
mod kvm;
pub mod legacy;
mod memory;
pub mod migration;
pub mod mmio;
mod recent_map;
mod region;
mod sys;
mod system;
mod token;
mod unguarded;
mod viability;

/// Order between memory and a device.
pub mod fence {
    pub use crate::sys::fence::{dma, dma_read, dma_write};
}

pub use attach::{Attachment, Pasid};
pub use backend::Backend;
pub use cdev::CdevFile;
pub use config::Config;
pub use device::{BoundDevice, IommufdDevice};
pub use dirty::{DirtyBitmap, DirtyRanges};
pub use dma_logging::DmaLogging;
pub use error::{Error, ErrorKind, Step};
pub use event::{EventFd, EventSet, wait_any, wait_either};
pub use exec::close_on_exec;
pub use feature::{Feature, FeatureAccess, FeatureSet};
pub use hot_reset::{Affected, HotResetSet, Owner};
pub use info::{DeviceInfo, RegionIndex, RegionInfo};
pub use ioeventfd::{IoEventFd, Width};
pub use iova::{Iova, IovaRange};
pub use irq::{Interrupts, IrqFlags, IrqIndex, IrqInfo};
#[cfg(feature = "kvm")]
pub use kvm::{KvmFile, KvmVfio};
pub use legacy::{AttachedGroup, Container, ContainerPath, Group, GroupStatus, IommuType, LegacyMapping};
pub use memory::{Access, Backing, Memory, MemoryOptions, NumaNode, PageSize, StableMemory};
pub use migration::Migration;
pub use mmio::Mmio;
pub use recent_map::RecentMap;
pub use region::{Region, RegionMap, RegionMapOptions};
pub use rustix::io::Errno;
pub use sys::words::Words;
pub use system::System;
pub use token::{ParseVfTokenError, VfToken};
