//! Policy over the kernel boundary: who may reach which memory, and where.
#![forbid(unsafe_code)]

pub mod allocator;
pub mod buffer;
pub mod demand;
mod error;
pub mod lookup;
pub mod pool;
pub mod prefault;
pub mod space;
mod sync;

pub use error::{Error, Result};
pub use vfio_core::{Iova, IovaRange};
