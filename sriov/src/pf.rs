//! A function in its role as a PF.

use pci::{Bdf, Function, Sriov};

/// A function with an SR-IOV capability.
#[derive(Debug, Clone, Copy)]
pub struct PhysicalFunction<'a> {
    /// The function.
    pub function: &'a Function,
    /// Its SR-IOV side.
    pub sriov: &'a Sriov,
}

impl PhysicalFunction<'_> {
    /// How many VFs are enabled. From the `virtfnN` links, which the kernel makes and removes with the VFs: reading
    /// `sriov_numvfs` would wait for the device lock.
    #[must_use]
    pub fn enabled(&self) -> u16 {
        u16::try_from(self.sriov.virtual_functions.len()).unwrap_or(u16::MAX)
    }

    /// The addresses of its VFs, by index.
    #[must_use]
    pub fn virtual_functions(&self) -> Vec<Bdf> {
        self.sriov.virtual_functions.iter().map(|vf| vf.bdf).collect()
    }
}
