//! Interrupts: events that KVM turns into messages or lines (`KVM_IRQFD`), with no exit and no system call.

use super::routing::{PINS, Table, halves};
use super::{descriptor, failed};
use crate::interrupt::{self, Line, MsiMessage, Route};
use crate::{Error, ErrorKind, Result};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irqchip, kvm_msi,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_core::EventFd;

const IRQFD: &str = "KVM_IRQFD";
const ROUTING: &str = "KVM_SET_GSI_ROUTING";

/// The interrupts of a virtual machine. Cheap to clone.
#[derive(Clone)]
pub struct Irqs {
    of: Arc<Inner>,
}

struct Inner {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
}

/// The interrupt controllers that processors share, and the timer: what to make of them at a reset.
#[derive(Clone)]
pub(super) struct Chips {
    irqchips: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
}

impl Irqs {
    pub(super) fn new(vm: Arc<VmFd>, limit: i32) -> Result<Self> {
        let table = Table::new(u32::try_from(limit).unwrap_or(0));
        let of = Inner {
            vm,
            table: Mutex::new(table),
        };
        of.push(&of.table())?;
        Ok(Self { of: Arc::new(of) })
    }

    /// An edge-triggered pin of the I/O APIC.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a pin that there is not; KVM's own.
    pub fn edge(&self, gsi: u32) -> Result<Edge> {
        check_pin(gsi)?;
        let event = EventFd::new()?;
        descriptor::lend(&event, |fd| self.of.vm.register_irqfd(fd, gsi)).map_err(|error| failed(IRQFD, error))?;
        let of = Arc::clone(&self.of);
        Ok(Edge { of, event, gsi })
    }
}

impl interrupt::Irqs for Irqs {
    fn route(&self) -> Result<Box<dyn Route>> {
        let event = EventFd::new()?;
        let gsi = self.of.table().take();
        let gsi = gsi.ok_or_else(|| Error::new(ROUTING, ErrorKind::Exhausted("interrupt route")))?;
        Ok(Box::new(Message {
            of: Arc::clone(&self.of),
            event,
            gsi,
            is_delivered: Mutex::new(false),
        }))
    }

    fn set(&self, messages: &[(&dyn Route, MsiMessage)]) -> Result<()> {
        interrupt::check(messages)?;
        let mut table = self.of.table();
        let changes = messages.iter().map(|(route, message)| (route.number(), *message));
        let former = table.set(changes);
        if former.is_empty() {
            return Ok(());
        }
        self.of.push(&table).inspect_err(|_| table.restore(former))
    }

    fn line(&self, gsi: u32) -> Result<Box<dyn Line>> {
        check_pin(gsi)?;
        let (event, resample) = (EventFd::new()?, EventFd::new()?);
        let registered = descriptor::lend(&event, |event| {
            descriptor::lend(&resample, |resample| {
                self.of.vm.register_irqfd_with_resample(event, resample, gsi)
            })
        });
        registered.map_err(|error| failed(IRQFD, error))?;
        Ok(Box::new(Level {
            of: Arc::clone(&self.of),
            event,
            resample,
            gsi,
        }))
    }

    fn signal(&self, message: MsiMessage) -> Result<()> {
        if !message.is_deliverable() {
            return Ok(());
        }
        let [address_lo, address_hi] = halves(message.address);
        let msi = kvm_msi {
            address_lo,
            address_hi,
            data: message.data,
            ..kvm_msi::default()
        };
        // 0 is no failure: the guest does not take it now.
        self.of
            .vm
            .signal_msi(msi)
            .map_err(|error| failed("KVM_SIGNAL_MSI", error))?;
        Ok(())
    }
}

/// Numbers above the pins belong to messages.
fn check_pin(gsi: u32) -> Result<()> {
    if gsi < PINS {
        return Ok(());
    }
    Err(Error::new(IRQFD, ErrorKind::Invalid("the I/O APIC has 24 pins")))
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells KVM of the table.
    fn push(&self, table: &Table) -> Result<()> {
        let routing = KvmIrqRouting::from_entries(&table.entries());
        let routing = routing.map_err(|_too_many| Error::new(ROUTING, ErrorKind::Exhausted("interrupt route")))?;
        self.vm
            .set_gsi_routing(&routing)
            .map_err(|error| failed(ROUTING, error))
    }

    /// KVM lets go of an event.
    fn release(&self, event: &EventFd, gsi: u32) -> Result<()> {
        descriptor::lend(event, |fd| self.vm.unregister_irqfd(fd, gsi)).map_err(|error| failed(IRQFD, error))
    }

    fn release_at_end(&self, event: &EventFd, gsi: u32) {
        if let Err(error) = self.release(event, gsi) {
            tracing::error!(gsi, %error, "KVM keeps an event until the virtual machine is gone");
        }
    }
}

/// A number of its own, for a message.
#[derive(Debug)]
struct Message {
    of: Arc<Inner>,
    event: EventFd,
    gsi: u32,
    /// Whether KVM has the event.
    is_delivered: Mutex<bool>,
}

impl Route for Message {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn number(&self) -> u32 {
        self.gsi
    }

    fn deliver(&self, is_wanted: bool) -> Result<()> {
        let mut is_delivered = self.is_delivered.lock().unwrap_or_else(PoisonError::into_inner);
        match (*is_delivered, is_wanted) {
            // The number still stands for the message: delivering it again costs no new table.
            (true, false) => self.of.release(&self.event, self.gsi)?,
            // What was signalled before is delivered now: KVM looks at the event when it takes it.
            (false, true) => descriptor::lend(&self.event, |fd| self.of.vm.register_irqfd(fd, self.gsi))
                .map_err(|error| failed(IRQFD, error))?,
            (true, true) | (false, false) => {}
        }
        *is_delivered = is_wanted;
        Ok(())
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if *self.is_delivered.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.of.release_at_end(&self.event, self.gsi);
        }
        // KVM forgets the message with the next change of the table; nothing leads to it any more.
        self.of.table().give_back(self.gsi);
    }
}

/// A pin that an event asserts. KVM deasserts it when the guest has ended the interrupt, for all who share it at once.
#[derive(Debug)]
struct Level {
    of: Arc<Inner>,
    event: EventFd,
    resample: EventFd,
    gsi: u32,
}

impl Line for Level {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn resample(&self) -> &EventFd {
        &self.resample
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.of.release_at_end(&self.event, self.gsi);
    }
}

/// An edge-triggered pin.
#[derive(Debug)]
pub struct Edge {
    of: Arc<Inner>,
    event: EventFd,
    gsi: u32,
}

impl Edge {
    /// Interrupts the guest.
    ///
    /// # Errors
    ///
    /// None that the event of this process's own has.
    pub fn signal(&self) -> Result<()> {
        Ok(self.event.signal()?)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.of.release_at_end(&self.event, self.gsi);
    }
}

impl Chips {
    /// As they are now.
    pub(super) fn of(vm: &VmFd) -> Result<Self> {
        let irqchip = |chip_id| -> Result<kvm_irqchip> {
            let mut chip = kvm_irqchip {
                chip_id,
                ..kvm_irqchip::default()
            };
            vm.get_irqchip(&mut chip)
                .map_err(|error| failed("KVM_GET_IRQCHIP", error))?;
            Ok(chip)
        };
        Ok(Self {
            irqchips: [
                irqchip(KVM_IRQCHIP_PIC_MASTER)?,
                irqchip(KVM_IRQCHIP_PIC_SLAVE)?,
                irqchip(KVM_IRQCHIP_IOAPIC)?,
            ],
            pit: vm.get_pit2().map_err(|error| failed("KVM_GET_PIT2", error))?,
        })
    }

    pub(super) fn restore(&self, vm: &VmFd) -> Result<()> {
        for chip in &self.irqchips {
            vm.set_irqchip(chip).map_err(|error| failed("KVM_SET_IRQCHIP", error))?;
        }
        vm.set_pit2(&self.pit).map_err(|error| failed("KVM_SET_PIT2", error))
    }
}

impl fmt::Debug for Irqs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.fmt(f)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Irqs")
            .field("table", &self.table())
            .finish_non_exhaustive()
    }
}
