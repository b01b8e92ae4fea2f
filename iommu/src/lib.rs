//! Policy over the kernel boundary: who may reach which memory, and where.
#![forbid(unsafe_code)]

pub mod allocator;
mod error;
pub mod lookup;
pub mod prefault;
mod sync;

pub use error::{Error, Result};
pub use vfio_core::{Iova, IovaRange};
