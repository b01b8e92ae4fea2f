//! NVMe: a controller, and as many queue pairs as it has, each owned by one thread.
//!
//! Follows the specifications named in [`spec`].

mod admin;
mod command;
mod controller;
mod data;
mod doorbell;
mod epoch;
mod event;
mod feature;
mod format;
mod function;
mod identify;
mod log;
mod manage;
mod memory;
mod memory_buffer;
mod namespace;
mod owners;
mod payload;
mod queue;
mod registered;
pub mod regs;
mod ring;
mod shared;
pub mod spec;
mod virtualization;

pub use command::Command;
pub use controller::{Controller, Options};
pub use data::DataForm;
pub use event::{Event, EventConfiguration};
pub use feature::{Arbitration, Coalescing, Select, Sensor, fid};
pub use format::{DestroyData, Erase, Format, Sanitize};
pub use log::ALL_NAMESPACES;
pub use manage::Create;
pub use memory_buffer::MemoryBuffer;
pub use namespace::Namespace;
pub use payload::{Payload, Piece, WithMetadata};
pub use queue::{Completion, Interrupt, Policy, QueueOptions, QueuePair, Refused, Tag};
pub use registered::{Part, Registered};
pub use virtualization::Resources;
