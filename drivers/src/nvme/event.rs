//! Asynchronous events: what a controller tells of itself (Base §5.1.2).

use super::controller::Controller;
use super::log::ALL_NAMESPACES;
use super::spec::identify::IdentifyController;
use super::spec::log::{Warnings, lid};
use crate::{Backing, Result, Woken};
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
    /// Events are kept until they are asked for, the last 64 of them. One whose log page cannot be read is told as what it is by itself: of
    /// health as [`Other`](Event::Other), of namespaces without their numbers.
    ///
    /// # Errors
    ///
    /// [`Gone`](crate::ErrorKind::Gone) when the controller is, or is asked back.
    pub fn next_event(&self, timeout: Duration) -> Result<Option<Event>> {
        let step = "wait for an event";
        let start = self.shared.backing.now();
        let (mut turns, mut was_still) = (0_u32, true);
        loop {
            let is_late = self.shared.backing.now().saturating_sub(start) >= timeout;
            if let Some(event) = self.admin.next_event() {
                return Ok(Some(self.understand(event)));
            }
            let blocks = self.admin.is_signalled();
            if blocks || turns.is_multiple_of(TURNS) {
                self.admin.can_wait(step)?;
            }
            // Not whenever one is refused: that may be each of them.
            if was_still || !blocks && turns.is_multiple_of(TURNS) {
                self.admin.request_events_again();
            }
            if is_late {
                return Ok(None);
            }
            if blocks {
                let left = timeout.saturating_sub(self.shared.backing.now().saturating_sub(start));
                let woken = self.shared.backing.wait(self.admin.event(), Some(left.min(LOOK)))?;
                was_still = woken == Woken::TimedOut;
            } else {
                was_still = false;
                self.admin.function().rest(turns, self.admin.event())?;
            }
            turns = turns.wrapping_add(1);
        }
    }

    /// What an event says, whether or not its log page can be read: it does not come again.
    fn understand(&self, event: u32) -> Event {
        let (kind, info, page) = parts(event);
        let read = match (kind, info) {
            (HEALTH, _) => self.health().map(|health| Event::Health(info, health.warnings())),
            (NOTICE, 0) => self.changed_namespaces().map(Event::NamespacesChanged),
            _ => self.acknowledge(page).map(|()| told(event)),
        };
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, event, "the log page of an event");
            told(event)
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

/// What an event says by itself.
fn told(event: u32) -> Event {
    match parts(event) {
        (0, info, _) => Event::Error(info),
        (NOTICE, 0, _) => Event::NamespacesChanged(None),
        (NOTICE, 1, _) => Event::FirmwareActivation,
        (IO, _, lid::SANITIZE) => Event::Sanitize,
        _ => Event::Other(event),
    }
}

/// Fruitless turns between two looks at whether an event can come.
const TURNS: u32 = 256;
/// At most so long until a dead controller is seen.
const LOOK: Duration = Duration::from_millis(250);

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
