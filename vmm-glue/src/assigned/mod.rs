//! A function that is given to the guest.

mod bars;
mod intx;
mod notify;
mod parts;
mod peer;
mod rom;
mod vectors;

pub use bars::Windows;
pub use notify::Notice;
