//! NVMe: a controller, and as many queue pairs as it has, each owned by one thread.
//!
//! Follows the specifications named in [`spec`].

mod doorbell;
mod epoch;
mod memory;
mod namespace;
mod payload;
pub mod regs;
mod ring;
mod shared;
pub mod spec;

pub use namespace::Namespace;
pub use payload::Payload;
