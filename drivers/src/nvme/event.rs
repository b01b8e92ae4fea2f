//! Asynchronous events: what a controller tells of itself (Base §5.1.2).

use super::controller::Controller;
use super::log::ALL_NAMESPACES;
use super::spec::identify::IdentifyController;
use super::spec::log::{Warnings, lid};
use crate::{Backing, Result};
use bitflags::bitflags;
use std::time::Duration;

/// What a controller tells of itself. Its log page was read, so that the next one of its kind can come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An error that is no command's; the [error log](Controller::error_log) says more. The number is of Base Figure 150.
    Error(u8),
    /// Health: 0 reliability, 1 temperature, 2 spare memory. All warnings of now.
    Health(u8, Warnings),
    /// Namespaces came, went, or are not what they were; `None` for too many of them to tell. What was known of them must be asked again.
    NamespacesChanged(Option<Vec<u32>>),
    /// New firmware begins to run; for a while commands are not processed.
    FirmwareActivation,
    /// A Sanitize has ended, or does not go on.
    Sanitize,
    /// Another one, as DW0 of its completion: bits 2:0 its type, 15:8 what it is, 23:16 its log page.
    Other(u32),
}

bitflags! {
    /// Events that can be told of (Base §5.1.25.1.5: asynchronous event configuration).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct EventConfiguration: u32 {
        /// Spare memory is low.
        const SPARE = 1 << 0;
        /// A temperature is beyond its threshold.
        const TEMPERATURE = 1 << 1;
        /// The subsystem is not reliable any more.
        const RELIABILITY = 1 << 2;
        /// All media are read-only.
        const READ_ONLY = 1 << 3;
        /// The backup of volatile memory has failed.
        const VOLATILE_MEMORY = 1 << 4;
        /// Namespaces have changed.
        const NAMESPACES = 1 << 8;
        /// Firmware begins to run.
        const FIRMWARE = 1 << 9;
        const _ = !0;
    }
}

impl EventConfiguration {
    /// All events of this that a controller has: those of health, and those that it names (OAES).
    pub(crate) fn all_of(identity: &IdentifyController) -> Self {
        let health = Self::SPARE | Self::TEMPERATURE | Self::RELIABILITY | Self::READ_ONLY | Self::VOLATILE_MEMORY;
        let optional = Self::NAMESPACES | Self::FIRMWARE;
        health | Self::from_bits_retain(identity.oaes.get()) & optional
    }
}

const HEALTH: u8 = 1;
const NOTICE: u8 = 2;
const IO: u8 = 6;

/// Type, what it is, and log page of an event.
fn parts(event: u32) -> (u8, u8, u8) {
    let [kind, info, page, _] = event.to_le_bytes();
    (kind & 7, info, page)
}

/// Whether it says that namespaces are not what they were.
pub(crate) fn changes_namespaces(event: u32) -> bool {
    matches!(parts(event), (NOTICE, 0, _))
}

impl<B: Backing> Controller<B> {
    /// Waits for the next event; `None` when there is none for so long, at once for no time. Its log page is read, which acknowledges it.
    ///
    /// Events are kept until they are asked for, the last 64 of them.
    ///
    /// # Errors
    ///
    /// [`Gone`](crate::ErrorKind::Gone) when the controller is, or is asked back; those of reading the log page.
    pub fn next_event(&self, timeout: Duration) -> Result<Option<Event>> {
        let step = "wait for an event";
        let start = self.shared.backing.now();
        let mut turns: u32 = 0;
        loop {
            let is_late = self.shared.backing.now().saturating_sub(start) >= timeout;
            if let Some(event) = self.admin.next_event() {
                return self.understand(event).map(Some);
            }
            if turns.is_multiple_of(TURNS) {
                self.admin.can_wait(step)?;
            }
            if is_late {
                return Ok(None);
            }
            self.admin.function().rest(turns, self.admin.event())?;
            turns = turns.wrapping_add(1);
        }
    }

    fn understand(&self, event: u32) -> Result<Event> {
        let (kind, info, page) = parts(event);
        Ok(match (kind, info) {
            (0, _) => {
                self.acknowledge(page)?;
                Event::Error(info)
            }
            (HEALTH, _) => Event::Health(info, self.health()?.warnings()),
            (NOTICE, 0) => Event::NamespacesChanged(self.changed_namespaces()?),
            (NOTICE, 1) => {
                self.acknowledge(page)?;
                Event::FirmwareActivation
            }
            (IO, _) if page == lid::SANITIZE => {
                self.acknowledge(page)?;
                Event::Sanitize
            }
            _ => {
                self.acknowledge(page)?;
                Event::Other(event)
            }
        })
    }

    /// Reads the beginning of the log page that an event names, if it names one.
    fn acknowledge(&self, page: u8) -> Result<()> {
        if page == 0 {
            return Ok(());
        }
        self.log_page("Get Log Page of an event", page, ALL_NAMESPACES, &mut [0; 64])
    }
}

/// Fruitless turns between two looks at whether an event can come.
const TURNS: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_notices_of_namespaces_change_them() {
        assert!(changes_namespaces(0x0004_0002));
        assert!(!changes_namespaces(0x0004_0102));
        assert!(!changes_namespaces(0x0002_0001));
        assert_eq!(parts(0x0081_0306), (IO, 3, lid::SANITIZE));
    }
}
