//! The PCI Express hierarchy that the guest sees. Knows neither KVM nor VFIO.
//!
//! [`Root`] is the host bridge with bus 0; on it are [`Port`]s, one for each slot; in a slot are one or several [`Function`]s. [`layout`]
//! gives them buses, windows and addresses before the guest starts, as firmware would.
//!
//! What was made of accesses that make no sense (those to a function are in [`view`](crate::view)):
//!
//! | the guest | is answered by |
//! |---|---|
//! | accesses of any width and alignment, also across two functions | aligned parts of 1, 2 and 4 bytes, up to the end of the first function |
//! | writes the address port 0xCF8 by bytes, reads data while it is off | nothing changes; ones |
//! | gives one bus to two ports, or bus 0 to one, or a last bus before the first | the port with the lowest device number; bus 0 stays; none |
//! | looks for other devices or functions behind a port than there are | ones |
//! | puts a window over RAM or interrupt controllers, beyond all addresses, or its end before its beginning | what of it is in the bus's own memory; nothing |
//! | opens windows for I/O | they are not there |
//! | sets reserved bits of slot control, events or presence in slot status | nothing changes |
//! | clears events with single bytes or four | those whose bits are written |
//! | switches power off while functions are in use, disables the link, resets the bus | they are cut off first, and reset when they come back |
//! | switches an empty slot on | it stays off |
//! | never lets go of what it is asked to | it stays until it is pulled out |
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
    /// The guest has reset it: as [`BusEvent::Reset`], after all functions on it went down.
    BusReset,
    /// It has no power, or no link, or is held in reset: nothing reaches a function, which must neither do DMA nor interrupt. Until [`BusEvent::Reset`] or
    /// [`BusEvent::BusReset`].
    Down,
    /// These addresses are forwarded to it from now on.
    Windows(Windows),
}
