//! Names of vendors, devices and classes from the PCI ID database.

/// Looks names up: in the system's `pci.ids` where there is one, else in the copy built into this crate's dependency.
#[derive(Debug)]
pub struct Names {}
