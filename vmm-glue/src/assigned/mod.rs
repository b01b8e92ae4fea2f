//! A function of the host that is given to the guest.
//!
//! [`Assigned`] stands between three: the guest's view of its configuration space ([`ConfigView`](crate::view::ConfigView)), the device that VFIO has
//! opened, and the guest (interrupts, memory slots, the bus). A change of the view has effects, and these are what is done here: BARs are found where
//! the guest has put them (`bars`), vectors become interrupts of the guest (`vectors`, `intx`), resets and sleep reach the device (`reset`),
//! and the kernel's word that it has failed or is wanted back reaches whoever runs the guest (`notify`).
//!
//! The guest is hostile, and so is the device: what either does has no effect beyond the other. What the kernel refuses meanwhile is reported by
//! `tracing`, since no guest can be told: once of each kind, as it may come as often as the guest likes (`told`).
//!
//! [`Assigned::stop`] takes a function from the guest, whatever its processors are doing to it meanwhile; dropping it does the same.

mod bars;
mod intx;
mod notify;
mod parts;
mod peer;
mod registers;
mod reset;
mod rom;
mod shared_bus;
mod state;
mod told;
mod vectors;

pub use notify::Notice;
pub use shared_bus::SharedBus;

use crate::bus::Bus;
use crate::interrupt::Irqs;
use crate::pci::layout::Need;
use crate::pci::{BusEvent, Function};
use crate::slot::Slots;
use crate::view::Presentation;
use crate::{ErrorKind, Result};
use ::pci::{BarIndex, Bdf};
use iommu::space::AddressSpace;
use notify::Notices;
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
    /// What it is reset with when the guest resets its bus, and its address on the host; without, it is reset by itself.
    pub bus: Option<(Arc<SharedBus>, Bdf)>,
}

/// A function that the guest uses.
#[derive(Debug)]
pub struct Assigned {
    state: Arc<Mutex<State>>,
    bdf: Option<Bdf>,
}

impl Assigned {
    /// Gives a function to the guest, in the state after a reset: it decodes nothing, interrupts nobody and does no DMA. Where the guest finds it is known
    /// once its port has [windows](BusEvent::Windows).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for what is no PCI function, [`ErrorKind::Malformed`] for one that cannot be shown; those of the kernel. Nothing of
    /// it is left then.
    pub fn new(device: &BoundDevice, wiring: &Wiring, options: &Options) -> Result<Self> {
        let bdf = device.bdf();
        let state = State::new(device, wiring, options).map_err(|error| match bdf {
            Some(bdf) if error.device.is_none() => error.on(bdf),
            _ => error,
        })?;
        Ok(Self { state, bdf })
    }

    /// Its address in the host.
    #[must_use]
    pub fn bdf(&self) -> Option<Bdf> {
        self.bdf
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

    /// Takes it from the guest, for good: the guest reads all ones from here on, and no interrupt, no DMA and no other function reaches it or comes
    /// from it. It is reset, and nothing here holds it open any more. May take as long as the reset.
    ///
    /// # Errors
    ///
    /// The first of the kernel's. The rest is done all the same.
    pub fn stop(&self) -> Result<()> {
        let live = self.state().take();
        live.map_or(Ok(()), |live| live.end())
    }

    /// Takes away the memory slots of a function that does not decode memory, or sleeps, though the guest has not said so to it: a processor that reaches
    /// there cannot go on (`KVM_RUN` fails with EFAULT). Whether there were any.
    pub fn drop_silent_slots(&self) -> bool {
        self.state().drop_silent_slots()
    }

    /// Duplicates of the events that become readable when there is a [`Notice`], for an [`EventSet`](vfio_core::EventSet).
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn notice_events(&self) -> Result<Vec<EventFd>> {
        let state = self.state();
        let events = state
            .notices()
            .into_iter()
            .flat_map(Notices::events)
            .map(EventFd::try_clone);
        Ok(events.collect::<std::result::Result<_, _>>()?)
    }

    /// What the kernel has told since this was last asked. A function that has failed is [stopped](Self::stop) by then.
    ///
    /// # Errors
    ///
    /// None that a valid event has.
    pub fn take_notices(&self) -> Result<Vec<Notice>> {
        let notices = self.state().notices().map_or(Ok(Vec::new()), Notices::take)?;
        if notices.contains(&Notice::Failed) {
            tracing::error!(device = ?self.bdf, "an uncorrectable error of a guest's function, which is stopped");
            if let Err(error) = self.stop() {
                tracing::error!(%error, "the function that has failed may not be quiet");
            }
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
        let effects = state.view.write(offset, from);
        state.apply(effects);
    }

    fn bus_event(&self, event: BusEvent) {
        let mut state = self.state();
        if event == BusEvent::Down {
            state.forget_bus_reset();
        }
        let effects = state.view.bus_event(event);
        state.apply(effects);
    }
}

/// A device that is no PCI function.
const NO_FUNCTION: ErrorKind = ErrorKind::Unsupported("a device that is no PCI function");

#[cfg(test)]
mod tests;
