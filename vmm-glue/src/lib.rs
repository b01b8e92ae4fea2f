//! A minimal virtual machine monitor for KVM that gives PCI functions to Linux guests, as a library.

mod acpi;
pub mod assigned;
mod boot;
pub mod bus;
pub mod control;
pub mod dma;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod functions;
pub mod interrupt;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod migration;
pub mod pci;
mod platform;
#[cfg(feature = "rust-vmm")]
pub mod rust_vmm;
pub mod sandbox;
mod serial;
pub mod slot;
mod topology;
pub mod view;

pub use error::{Error, ErrorKind, Result};
pub use machine::Machine;
pub use memory::GuestMemory;
