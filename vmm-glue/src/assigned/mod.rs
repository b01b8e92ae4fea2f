//! A function of the host that is given to the guest.
//!
//! [`Assigned`] stands between three: the guest's view of its configuration space ([`ConfigView`](crate::view::ConfigView)), the device that VFIO has
//! opened, and the guest (interrupts, memory slots, the bus). A change of the view has effects, and these are what is done here: BARs are found where
//! the guest has put them ([`bars`]), vectors become interrupts of the guest ([`vectors`], [`intx`]), resets and sleep reach the device ([`reset`]),
//! and the kernel's word that it has failed or is wanted back reaches whoever runs the guest ([`notify`]).
//!
//! The guest is hostile, and so is the device: what either does has no effect beyond the other. What the kernel refuses meanwhile is reported by
//! `tracing`, since no guest can be told.
//!
//! Dropped, a function interrupts and reaches the guest no more, and is no bus master; it is reset when it is closed, with the last
//! [`BoundDevice`] of it.

mod bars;
mod intx;
mod notify;
mod parts;
mod peer;
mod registers;
mod reset;
mod rom;
mod state;
mod vectors;

pub use bars::Windows;
pub use notify::Notice;

use crate::bus::Bus;
use crate::interrupt::Irqs;
use crate::pci::layout::Need;
use crate::pci::{BusEvent, Function};
use crate::slot::Slots;
use crate::view::Presentation;
use crate::{Error, ErrorKind, Result};
use ::pci::BarIndex;
use iommu::space::AddressSpace;
use state::State;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_core::{BoundDevice, EventFd};

/// What of the guest a function needs.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// Its interrupts.
    pub irqs: Arc<dyn Irqs>,
    /// Its memory slots.
    pub slots: Arc<dyn Slots>,
    /// What answers at guest-physical addresses that are no memory.
    pub memory: Arc<Bus>,
    /// What answers at ports.
    pub ports: Arc<Bus>,
    /// Where BARs may be: the apertures of the host bridge.
    pub windows: Windows,
    /// Where the guest's functions do DMA, if they are to reach one another's BARs.
    pub peers: Option<AddressSpace>,
}

/// How a function is given to the guest.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the guest sees of it.
    pub presentation: Presentation,
    /// The line that INTx is delivered by; without one it has no interrupt pin.
    pub gsi: Option<u32>,
    /// Whether its expansion ROM is hidden.
    pub is_rom_hidden: bool,
}

/// A function that the guest uses.
#[derive(Debug)]
pub struct Assigned {
    // Fields drop in this order: a vCPU may hold the state a moment longer.
    state: Arc<Mutex<State>>,
    device: BoundDevice,
}

impl Assigned {
    /// Gives a function to the guest, in the state after a reset: it decodes nothing, interrupts nobody and does no DMA.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for what is no PCI function with a normal header; those of the kernel. Nothing of it is left then.
    pub fn new(device: &BoundDevice, wiring: &Wiring, options: &Options) -> Result<Self> {
        let state = State::new(device, wiring, options).map_err(|error| on(error, device))?;
        Ok(Self {
            state,
            device: device.clone(),
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &BoundDevice {
        &self.device
    }

    /// The addresses that its BARs need.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        self.state().view.needs()
    }

    /// Gives a BAR an address, as firmware does. It is decoded there when the guest switches decoding on.
    pub fn place(&self, bar: BarIndex, address: u64) {
        let mut state = self.state();
        let effects = state.view.place(bar, address);
        state.apply(effects);
    }

    /// Resets it, and the guest's view of it, as the machine's reset does.
    pub fn reset(&self) {
        let mut state = self.state();
        let effects = state.view.reset();
        state.apply(effects);
    }

    /// Takes it from the guest, which reads all ones from here on: no interrupt, no DMA, no register. For good.
    pub fn stop(&self) {
        self.state().stop();
    }

    /// Duplicates of the events that become readable when there is a [`Notice`], for an [`EventSet`](vfio_core::EventSet).
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn notice_events(&self) -> Result<Vec<EventFd>> {
        let state = self.state();
        let events = state.notices.events().map(EventFd::try_clone);
        Ok(events.collect::<std::result::Result<_, _>>()?)
    }

    /// What the kernel has told since this was last asked. A function that has failed is [stopped](Self::stop) by then.
    ///
    /// # Errors
    ///
    /// None that a valid event has.
    pub fn take_notices(&self) -> Result<Vec<Notice>> {
        let mut state = self.state();
        let notices = state.notices.take()?;
        if notices.contains(&Notice::Failed) {
            tracing::error!(device = ?self.device.bdf(), "uncorrectable error of an assigned function, which is stopped");
            state.stop();
        }
        Ok(notices)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Function for Assigned {
    fn config_read(&self, offset: u16, to: &mut [u8]) {
        self.state().config_read(offset, to);
    }

    fn config_write(&self, offset: u16, from: &[u8]) {
        let mut state = self.state();
        if state.is_stopped {
            return;
        }
        let effects = state.view.write(offset, from);
        state.apply(effects);
    }

    fn bus_event(&self, event: BusEvent) {
        let mut state = self.state();
        let effects = state.view.bus_event(event);
        state.apply(effects);
    }
}

/// Names the device in an error that does not.
fn on(error: Error, device: &BoundDevice) -> Error {
    match device.bdf() {
        Some(bdf) if error.device.is_none() => error.on(bdf),
        _ => error,
    }
}

/// A device that is no PCI function.
const NO_FUNCTION: ErrorKind = ErrorKind::Unsupported("a device that is no PCI function");

#[cfg(test)]
mod tests;
