//! How the function interrupts the guest: by its pin, by MSI or by MSI-X, of which only one is in use.

use super::msi::Msi;
use super::{ConfigView, Msix, PowerStateCode, Vector, header};

/// How the function may interrupt the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupts {
    /// Not at all.
    None,
    /// By its pin.
    Intx,
    /// By MSI.
    Msi,
    /// By MSI-X.
    Msix,
}

impl ConfigView {
    /// The interrupt pin: 1 for INTA#.
    #[must_use]
    pub fn interrupt_pin(&self) -> Option<u8> {
        header::pin(&self.patches)
    }

    /// How it may interrupt.
    #[must_use]
    pub fn interrupts(&self) -> Interrupts {
        if self.is_down || self.power != PowerStateCode::D0 {
            Interrupts::None
        } else if self.msix.as_ref().is_some_and(Msix::is_enabled) {
            Interrupts::Msix
        } else if self.msi.as_ref().is_some_and(Msi::is_enabled) {
            Interrupts::Msi
        } else if self.interrupt_pin().is_some() && self.command() & header::COMMAND_NO_INTX == 0 {
            Interrupts::Intx
        } else {
            Interrupts::None
        }
    }

    /// How many vectors it has of the kind of messages in use.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        match self.interrupts() {
            Interrupts::Msi => self.msi.as_ref().map_or(0, Msi::vectors),
            Interrupts::Msix => self.msix.as_ref().map_or(0, Msix::vectors),
            Interrupts::None | Interrupts::Intx => 0,
        }
    }

    /// What becomes of the interrupt of one of them.
    #[must_use]
    pub fn vector(&self, number: u16) -> Vector {
        let vector = match self.interrupts() {
            Interrupts::Msi => self.msi.as_ref().map(|msi| msi.vector(number)),
            Interrupts::Msix => self.msix.as_ref().map(|msix| msix.vector(number)),
            Interrupts::None | Interrupts::Intx => None,
        };
        vector.unwrap_or(Vector::Off)
    }

    /// Shows the guest that an interrupt of one that is masked is pending, or that none is. Whoever holds the function keeps it, and delivers it when
    /// it is not masked any more.
    pub fn set_pending(&mut self, number: u16, is_pending: bool) {
        match self.interrupts() {
            Interrupts::Msi => {
                if let Some(msi) = &mut self.msi {
                    msi.set_pending(number, is_pending, &mut self.patches);
                }
            }
            Interrupts::Msix => {
                if let Some(msix) = &mut self.msix {
                    msix.set_pending(number, is_pending);
                }
            }
            Interrupts::None | Interrupts::Intx => {}
        }
    }

    /// MSI-X, if it has it.
    #[must_use]
    pub const fn msix(&self) -> Option<&Msix> {
        self.msix.as_ref()
    }

    /// MSI-X, if it has it, for accesses to its table.
    pub const fn msix_mut(&mut self) -> Option<&mut Msix> {
        self.msix.as_mut()
    }
}
