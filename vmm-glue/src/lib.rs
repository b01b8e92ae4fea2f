//! A minimal virtual machine monitor for KVM that gives PCI functions to Linux guests, as a library.

pub mod bus;
pub mod control;
mod error;
pub mod interrupt;
pub mod pci;
pub mod slot;

pub use error::{Error, ErrorKind, Result};
