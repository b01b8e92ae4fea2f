//! Policy over the kernel boundary: who may reach which memory, and where.
//!
//! An [`AddressSpace`](space::AddressSpace) maps memory for devices, over iommufd and type1 alike. On it stand buffers and
//! pools of buffers ([`buffer`], [`pool`], [`bounce`]), demand-paged DMA ([`demand`]), dirty tracking ([`dirty`]), nesting ([`nested`]) and
//! groups that share a space ([`group`]). Its parts can be used alone: the IOVA [`allocator`], the [`lookup`] table, [`prefault`].
//!
//! Nothing here is `unsafe`, and nothing waits: what blocks is a call of the kernel.
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
