//! Devices that interrupt on command.

use super::waiter::How;
use anyhow::{Context, Result, ensure};
use drivers::igbvf::regs::{EIAC, EICS, EIMS, LEN};
use drivers::nvme::{self, Controller, Interrupt, Part, QueueOptions};
use drivers::{Backing, VfioBacking};
use pci::Bdf;
use std::cell::RefCell;
use std::time::Duration;
use vfio_core::mmio::{Reg, Window, WriteOnly};
use vfio_core::{EventFd, IrqIndex};

/// Raises an interrupt for these reasons (QEMU, `docs/specs/edu.rst`).
const EDU_RAISE: Reg<u32, WriteOnly, 0x60> = Reg::new();
/// Bytes of edu's registers.
const EDU_LEN: usize = 0x1000;
/// In all registers of a VF, its first vector.
const VECTOR: u32 = 1;

/// A device that signals an event on command.
pub(super) struct Source {
    /// What it signals.
    pub(super) event: EventFd,
    /// Lets it interrupt.
    pub(super) raise: Box<dyn Fn() -> Result<()>>,
    /// Takes back what that left behind.
    pub(super) settle: Box<dyn Fn() -> Result<()>>,
}

impl Source {
    /// Of a device whose registers do it alone, and are held by `raise`.
    fn new(event: EventFd, raise: impl Fn() + 'static) -> Result<Self> {
        Self {
            event,
            raise: Box::new(move || {
                raise();
                Ok(())
            }),
            settle: Box::new(|| Ok(())),
        }
        .tried()
    }

    /// Sees that it does.
    fn tried(self) -> Result<Self> {
        (self.raise)()?;
        let came = self.event.wait_timeout(Duration::from_secs(5))?;
        ensure!(came == Some(1), "it signalled {came:?} times");
        (self.settle)()?;
        Ok(self)
    }
}

/// An event as who waits in this way makes it.
fn event(how: How) -> Result<EventFd> {
    Ok(if how.blocks() {
        EventFd::new()?
    } else {
        EventFd::nonblocking()?
    })
}

/// A VF of an 82576, which is told to by a register.
pub(super) fn vf(function: Bdf, how: How) -> Result<Source> {
    let backing = VfioBacking::open(function)?;
    backing.start()?;
    let event = event(how)?;
    let interrupts = backing.device().interrupts(IrqIndex::Msix)?;
    interrupts.enable(0, &[Some(&event)])?;
    let registers = backing.map_bar(0, 0..LEN as u64)?;
    let registers = Window::<_, LEN>::new(registers, 0).context("a BAR that is too small")?;
    // The message clears its cause, so that the next one is raised too.
    registers.write(EIAC, VECTOR);
    registers.write(EIMS, VECTOR);
    Source::new(event, move || {
        let _held = &interrupts;
        registers.write(EICS, VECTOR);
    })
}

/// QEMU's edu, which is told to by a register.
pub(super) fn edu(function: Bdf, how: How) -> Result<Source> {
    let backing = VfioBacking::open(function)?;
    backing.start()?;
    let event = event(how)?;
    let interrupts = backing.device().interrupts(IrqIndex::Msi)?;
    interrupts.enable(0, &[Some(&event)])?;
    let registers = backing.map_bar(0, 0..EDU_LEN as u64)?;
    let registers = Window::<_, EDU_LEN>::new(registers, 0).context("a BAR that is too small")?;
    Source::new(event, move || {
        let _held = &interrupts;
        registers.write(EDU_RAISE, 1);
    })
}

/// An NVMe controller, which interrupts when it has done a flush. A read of its event does not block.
pub(super) fn nvme(function: Bdf, how: How) -> Result<Source> {
    ensure!(!how.blocks(), "a read of an event of the driver never blocks");
    let backing = VfioBacking::open(function)?;
    let options = nvme::Options {
        queues: 1,
        vectors: 2,
        ..nvme::Options::default()
    };
    let controller = Controller::new(backing, &options)?;
    let namespace = controller.namespace(1)?;
    let queue = controller.queue_pair::<Part>(QueueOptions {
        interrupt: Interrupt::Vector(1),
        ..QueueOptions::default()
    })?;
    let event = queue.event().context("a queue without an event")?.try_clone()?;
    let queue = std::rc::Rc::new(RefCell::new(queue));
    let of_settle = std::rc::Rc::clone(&queue);
    let raise = move || {
        let _held = &controller;
        let mut queue = queue.borrow_mut();
        queue.flush(&namespace).map_err(|refused| refused.error)?;
        queue.ring();
        Ok(())
    };
    let settle = move || {
        let completion = of_settle.borrow_mut().pop()?.context("no completion")?;
        ensure!(completion.status.is_success(), "a flush failed: {}", completion.status);
        Ok(())
    };
    Source {
        event,
        raise: Box::new(raise),
        settle: Box::new(settle),
    }
    .tried()
}
