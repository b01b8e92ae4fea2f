//! NVMe: a controller, and as many queue pairs as it has, each owned by one thread.
//!
//! Follows the specifications named in [`spec`].

mod admin;
mod controller;
mod doorbell;
mod epoch;
mod event;
mod feature;
mod format;
mod function;
mod identify;
mod log;
mod manage;
mod namespace;
mod payload;
pub mod regs;
mod ring;
mod shared;
pub mod spec;
mod virtualization;

pub use controller::{Controller, Options};
pub use event::{Event, EventConfiguration};
pub use feature::{Arbitration, Coalescing, Select, Sensor, fid};
pub use format::{DestroyData, Erase, Format, Sanitize};
pub use log::ALL_NAMESPACES;
pub use manage::Create;
pub use namespace::Namespace;
pub use payload::Payload;
pub use virtualization::Resources;
