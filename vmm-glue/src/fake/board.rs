//! What the processors of a machine reach, without processors.

use crate::bus::Bus;
use crate::machine::{End, Events, insert_com1, insert_root};
use crate::pci::Root;
use crate::platform::{Request, Requests};
use crate::serial::{Interrupt, Outbox};
use crate::{Result, interrupt};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::EventFd;

/// Memory and ports as [`Machine`](crate::Machine) has them: configuration space, reset, power management and a serial port. Whoever has it is the processors
/// and the event thread.
#[derive(Debug)]
pub struct Board {
    memory: Arc<Bus>,
    ports: Arc<Bus>,
    events: Arc<Events>,
    requests: Arc<Requests>,
    wanted: EventFd,
    outbox: Arc<Outbox>,
}

impl Board {
    /// Around a hierarchy, of which the BARs are on `memory`. `input` is what is typed; COM1 interrupts by a line of `irqs`.
    ///
    /// # Errors
    ///
    /// When no descriptor is left, or something is on `memory` where configuration space is to be.
    pub fn new(memory: Arc<Bus>, root: &Arc<Root>, irqs: &dyn interrupt::Irqs, input: OwnedFd) -> Result<Self> {
        let ports = Arc::new(Bus::default());
        let wanted = EventFd::new()?;
        let requests = Arc::new(Requests::new(wanted.try_clone()?));
        insert_root(&memory, &ports, root, &requests)?;
        let (events, outbox) = (Arc::new(Events::new()?), Arc::new(Outbox::new()));
        let line = irqs.line(crate::serial::COM1_IRQ)?;
        let interrupt = Interrupt(Box::new(move || Ok(line.event().signal()?)));
        insert_com1(interrupt, &ports, &events, &outbox, Some(input))?;
        Ok(Self {
            memory,
            ports,
            events,
            requests,
            wanted,
            outbox,
        })
    }

    /// Who answers for physical addresses that are no memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<Bus> {
        &self.memory
    }

    /// Who answers for I/O ports.
    #[must_use]
    pub fn ports(&self) -> &Arc<Bus> {
        &self.ports
    }

    /// Does what the event thread would do now.
    ///
    /// # Errors
    ///
    /// None that valid events have.
    pub fn dispatch(&self) -> Result<()> {
        self.events.dispatch(Some(Duration::ZERO))
    }

    /// How the guest wants its machine to end, if it does. It has been told then, and wants nothing any more.
    ///
    /// # Errors
    ///
    /// None that a valid event has.
    pub fn take_end(&self) -> Result<Option<End>> {
        self.wanted.try_read()?;
        let end = self.requests.take().map(|request| match request {
            Request::PowerOff => End::PoweredOff,
            Request::Reset => End::Reset,
            Request::Exit(status) => End::Exited(status),
        });
        Ok(end)
    }

    /// What the guest has said since this was last asked, as far as there was room.
    #[must_use]
    pub fn said(&self) -> Vec<u8> {
        self.outbox.take()
    }
}
