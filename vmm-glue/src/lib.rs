//! A minimal virtual machine monitor for KVM that gives PCI functions to Linux guests, as a library.

pub mod assigned;
pub mod bus;
pub mod dma;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod interrupt;
pub mod migration;
pub mod pci;
pub mod slot;
pub mod view;

pub use error::{Error, ErrorKind, Result};
