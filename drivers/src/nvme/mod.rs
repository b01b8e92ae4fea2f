//! NVMe: a controller, and as many queue pairs as it has, each owned by one thread.
//!
//! Follows the specifications named in [`spec`].

mod command;
mod data;
mod doorbell;
mod epoch;
mod memory;
mod namespace;
mod payload;
mod queue;
mod registered;
pub mod regs;
mod ring;
mod shared;
pub mod spec;

pub use command::Command;
pub use data::DataForm;
pub use namespace::Namespace;
pub use payload::{Payload, Piece, WithMetadata};
pub use queue::{Completion, Interrupt, Policy, QueueOptions, QueuePair, Refused, Tag};
pub use registered::{Part, Registered};
