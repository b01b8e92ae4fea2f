//! A minimal virtual machine monitor for KVM that gives PCI functions to Linux guests, as a library.

pub mod bus;
mod error;
pub mod interrupt;
pub mod kvm;
pub mod memory;
pub mod pci;
pub mod slot;
mod topology;

pub use error::{Error, ErrorKind, Result};
pub use memory::GuestMemory;
