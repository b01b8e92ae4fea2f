//! What becomes of an interrupt that a function signals by a message.

use crate::interrupt::MsiMessage;

/// The state of one vector of MSI or MSI-X.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vector {
    /// Messages of this kind are not in use, or there is no such vector.
    Off,
    /// The guest has masked it: an interrupt is to be kept as pending.
    Masked,
    /// This message is delivered.
    Live(MsiMessage),
}
