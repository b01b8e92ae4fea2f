//! Policy over the kernel boundary: who may reach which memory, and where.
//!
//! An [`AddressSpace`](space::AddressSpace) maps memory for devices, over iommufd and type1 alike. On it stand buffers and
//! pools of buffers ([`buffer`], [`pool`], [`bounce`]), demand-paged DMA ([`demand`]), dirty tracking ([`dirty`]), nesting ([`nested`]) and
//! groups that share a space ([`group`]). Its parts can be used alone: the IOVA [`allocator`], the [`lookup`] table, [`prefault`].
//!
//! Nothing here is `unsafe`. Looking up an IOVA never waits, nor does taking a buffer of a pool that needs no new chunk, or returning one.
//! Mapping and unmapping wait for each other while one of them notes what it does, and both for an unmapping of a whole range.
//! [`prefault`] waits for its threads.
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
pub mod pool;
pub mod prefault;
pub mod space;
mod sync;

pub use error::{Error, Result};
pub use vfio_core::{Iova, IovaRange};
