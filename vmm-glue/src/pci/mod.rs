//! The PCI Express hierarchy that the guest sees. Knows neither KVM nor VFIO.
//!
//! Follows the PCI Express Base Specification 6.0, chapter 7.

use std::fmt;

/// A function with a configuration space. All methods are called by the guest's processors, several at a time.
pub trait Function: fmt::Debug + Send + Sync {
    /// Reads `to.len()` bytes at `offset`: 1, 2 or 4, which lie in one aligned group of four, below 4096.
    fn config_read(&self, offset: u16, to: &mut [u8]);

    /// Writes them; alike.
    fn config_write(&self, offset: u16, from: &[u8]);
}
