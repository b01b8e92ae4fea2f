//! The PCI Express hierarchy that the guest sees. Knows neither KVM nor VFIO.
//!
//! [`Root`] is the host bridge with bus 0; on it are [`Port`]s, one for each slot; in a slot are one or several [`Function`]s. [`layout`]
//! gives them buses, windows and addresses before the guest starts, as firmware would.
//!
//! Follows the PCI Express Base Specification 6.0, chapters 6.7 and 7, and the PCI-to-PCI Bridge Architecture Specification 1.2.

mod host_bridge;
pub mod layout;
mod port;
mod registers;
mod root;
mod window;

pub use port::{Indicator, Numbered, Port, PortOptions, SlotState};
pub use root::{Ecam, Mechanism1, Root};
pub use window::Windows;

use std::fmt;

/// A function with a configuration space. All methods are called by the guest's processors, several at a time.
pub trait Function: fmt::Debug + Send + Sync {
    /// Reads `to.len()` bytes at `offset`: 1, 2 or 4, which lie in one aligned group of four, below 4096.
    fn config_read(&self, offset: u16, to: &mut [u8]);

    /// Writes them; alike.
    fn config_write(&self, offset: u16, from: &[u8]);

    /// Takes note of what happened to the bus that it is on. Called one at a time; must not come back to the port from within.
    fn bus_event(&self, event: BusEvent);
}

/// What happens to the bus of a slot, and so to all functions on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusEvent {
    /// It was reset, or has got power: every function is as after power-on, with no address, not decoding, not bus master.
    Reset,
    /// It has no power, or no link: nothing reaches a function, which must neither do DMA nor interrupt. Until [`BusEvent::Reset`].
    Down,
    /// These addresses are forwarded to it from now on.
    Windows(Windows),
}
