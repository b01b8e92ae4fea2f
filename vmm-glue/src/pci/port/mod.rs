//! A root port and its slot. Behind it is one device with one or several functions; it is plugged and unplugged while the guest runs.
//!
//! The guest drives the slot as Linux' pciehp does (PCIe 6.0 §6.7): it is told of presence, link and button, and switches power and indicators.
//! - plugged in ([`Port::insert`]): presence and link change in one step; the guest switches power on, and the functions answer. It is the link
//!   that Linux waits for where there is a button, whose press would cost 5 seconds; so the link of a new card is active before it has power;
//! - to be unplugged ([`Port::request_removal`]): the button is pressed; the guest lets its drivers go, then switches power off (Linux waits 5
//!   seconds before, in which a second press would take the first one back);
//! - unplugged without asking ([`Port::eject`]): presence and link change.
//!
//! Hot-plug events interrupt by MSI only.

mod config;
mod slot;
#[cfg(test)]
mod tests;

pub use slot::{Indicator, SlotState};

use super::{BusEvent, Function, Windows};
use crate::interrupt::Irqs;
use crate::{Error, ErrorKind, Result};
use pci::RoutingId;
use slot::{Outcome, Removed, Slot};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a port is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortOptions {
    /// Its device number on bus 0, 1 to 31. It is function 0.
    pub device: u8,
    /// The number of the slot, which the guest shows; 13 bits.
    pub slot: u16,
    /// The bus behind it, and the last bus behind it, as firmware sets them.
    pub buses: [u8; 2],
    /// What it forwards, as firmware sets it, in units of 1 MiB.
    pub windows: Windows,
    /// Where its windows may be at all. The guest may set them elsewhere, which has no effect.
    pub limits: Windows,
}

/// A function and its number. Without ARI the number is below 8.
pub type Numbered = (u8, Arc<dyn Function>);

/// A root port.
pub struct Port {
    options: PortOptions,
    irqs: Arc<dyn Irqs>,
    /// One change at a time, so that functions learn of them in their order. Locked before `slot`.
    changes: Mutex<()>,
    slot: Mutex<Slot>,
    /// Secondary and subordinate bus, for the look-up without a lock.
    buses: AtomicU16,
    /// That an interrupt was lost has been said.
    was_told: AtomicBool,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port {} {:?}", self.options.slot, self.state())
    }
}

impl Port {
    /// A port with an empty slot.
    #[must_use]
    pub fn new(options: PortOptions, irqs: Arc<dyn Irqs>) -> Arc<Self> {
        let slot = Slot::new(&options);
        Arc::new(Self {
            buses: AtomicU16::new(u16::from_le_bytes(options.buses)),
            options,
            irqs,
            changes: Mutex::default(),
            was_told: AtomicBool::new(false),
            slot: Mutex::new(slot),
        })
    }

    /// Its device number on bus 0.
    #[must_use]
    pub fn device(&self) -> u8 {
        self.options.device
    }

    /// The number of its slot.
    #[must_use]
    pub fn slot(&self) -> u16 {
        self.options.slot
    }

    /// How the slot is.
    #[must_use]
    pub fn state(&self) -> SlotState {
        self.lock().state()
    }

    /// What the functions behind it can be reached by.
    #[must_use]
    pub fn windows(&self) -> Windows {
        self.lock().windows()
    }

    /// Puts functions into the slot before the guest starts: powered, with a link, as firmware leaves it.
    ///
    /// # Errors
    ///
    /// The slot is occupied, there is no function 0, or two have the same number.
    pub fn install(&self, functions: Vec<Numbered>) -> Result<()> {
        self.change(|slot| slot.install(functions))
            .map_err(|why| self.failed("fill a slot", why))
    }

    /// Puts functions into the slot of a running guest, which is told, and switches it on when it likes.
    ///
    /// # Errors
    ///
    /// As [`Port::install`].
    pub fn insert(&self, functions: Vec<Numbered>) -> Result<()> {
        self.change(|slot| slot.insert(functions))
            .map_err(|why| self.failed("plug a function in", why))
    }

    /// Asks the guest to let go of what is in the slot. When the guest has switched it off, the slot is emptied and `removed` gets what was in it,
    /// on the thread of the processor that did it, or at once where the slot is off already.
    ///
    /// A guest may never do it; one that was not ready to see the button has to be asked again, which replaces `removed`, and does not press the
    /// button where the guest shows by a blinking indicator that it has seen it.
    ///
    /// # Errors
    ///
    /// The slot is empty.
    pub fn request_removal(&self, removed: impl FnOnce(Vec<Numbered>) + Send + 'static) -> Result<()> {
        self.change(|slot| slot.request_removal(Box::new(removed)))
            .map_err(|why| self.failed("unplug a function", why))
    }

    /// Takes [`Port::request_removal`] back: the slot is not emptied when the guest switches it off. Says whether there was something to take
    /// back.
    pub fn cancel_removal(&self) -> bool {
        self.change(Slot::cancel_removal)
    }

    /// Takes out what is in the slot, which the guest learns afterwards. A removal that was asked for is forgotten, and not called.
    pub fn eject(&self) -> Vec<Numbered> {
        self.change(Slot::eject)
    }

    /// As after the reset of the machine: registers as firmware leaves them, and what is in the slot powered and reset, so that its BARs have to be
    /// placed again. What the guest was asked to let go of is let go of.
    pub fn reset(&self) {
        self.change(|slot| slot.reset(&self.options));
    }

    /// Whether configuration accesses of this bus go through it.
    pub(super) fn leads_to(&self, bus: u8) -> bool {
        let [secondary, subordinate] = self.buses.load(Ordering::Relaxed).to_le_bytes();
        secondary != 0 && (secondary..=subordinate).contains(&bus)
    }

    /// The function behind it that a configuration access reaches.
    pub(super) fn function(&self, id: RoutingId) -> Option<Arc<dyn Function>> {
        self.lock().function(id)
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and then tells everybody, with nothing locked that they need.
    fn change<T>(&self, change: impl FnOnce(&mut Slot) -> T) -> T {
        let order = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slot = self.lock();
        let result = change(&mut slot);
        let Outcome {
            events,
            message,
            removed,
        } = slot.settle();
        self.buses.store(u16::from_le_bytes(slot.buses()), Ordering::Relaxed);
        drop(slot);
        for (function, event) in events {
            function.bus_event(event);
        }
        drop(order);
        if let Some(message) = message
            && let Err(error) = self.irqs.signal(message)
        {
            // The guest can let it fail as often as it likes.
            if self.was_told.swap(true, Ordering::Relaxed) {
                tracing::debug!("slot {}: a hot-plug interrupt is lost: {error}", self.options.slot);
            } else {
                tracing::warn!("slot {}: a hot-plug interrupt is lost: {error}", self.options.slot);
            }
        }
        if let Some(Removed { functions, then }) = removed {
            then(functions);
        }
        result
    }

    fn failed(&self, step: &'static str, why: &'static str) -> Error {
        Error::new(format!("{step} (slot {})", self.options.slot), ErrorKind::Invalid(why))
    }
}

impl Function for Port {
    fn config_read(&self, offset: u16, to: &mut [u8]) {
        self.lock().read(offset, to);
    }

    fn config_write(&self, offset: u16, from: &[u8]) {
        self.change(|slot| slot.write(offset, from));
    }

    /// Bus 0 is never without power.
    fn bus_event(&self, _: BusEvent) {}
}
