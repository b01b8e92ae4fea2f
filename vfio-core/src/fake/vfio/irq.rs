//! Interrupts (`vfio_pci_intrs.c`): which of INTx, MSI and MSI-X is on, and the eventfds that are signalled.

use super::config::Config;
use crate::fake::device::{Abilities, Description};
use crate::sys::Result;
use crate::sys::vfio::IrqData;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use vfio_bindings::bindings::vfio as uapi;

pub(crate) const INTX: u32 = uapi::VFIO_PCI_INTX_IRQ_INDEX;
pub(crate) const MSI: u32 = uapi::VFIO_PCI_MSI_IRQ_INDEX;
pub(crate) const MSIX: u32 = uapi::VFIO_PCI_MSIX_IRQ_INDEX;
pub(crate) const ERR: u32 = uapi::VFIO_PCI_ERR_IRQ_INDEX;
pub(crate) const REQ: u32 = uapi::VFIO_PCI_REQ_IRQ_INDEX;

const MASK: u32 = uapi::VFIO_IRQ_SET_ACTION_MASK;
const UNMASK: u32 = uapi::VFIO_IRQ_SET_ACTION_UNMASK;
const TRIGGER: u32 = uapi::VFIO_IRQ_SET_ACTION_TRIGGER;

/// A device's interrupts.
#[derive(Debug, Default)]
pub(crate) struct Irqs {
    /// Which index is on.
    on: Option<u32>,
    /// Vectors of MSI or MSI-X that exist while it is on.
    vectors: u32,
    events: BTreeMap<u32, OwnedFd>,
    intx: Option<OwnedFd>,
    unmask: Option<OwnedFd>,
    masked: bool,
    level: bool,
    error: Option<OwnedFd>,
    request: Option<OwnedFd>,
}

/// How many interrupts an index has.
pub(crate) fn count(description: &Description, index: u32) -> Result<u32> {
    match index {
        INTX => Ok(u32::from(description.has(Abilities::INTX))),
        MSI => Ok(description.msi),
        MSIX => Ok(description.msix.map_or(0, |msix| msix.vectors.into())),
        ERR | REQ => Ok(1),
        _ => Err(Errno::INVAL),
    }
}

/// `VFIO_IRQ_INFO_*` of an index.
pub(crate) fn flags(description: &Description, index: u32) -> u32 {
    let dynamic = description.msix.is_some_and(|msix| msix.dynamic);
    let more = match index {
        INTX => uapi::VFIO_IRQ_INFO_MASKABLE | uapi::VFIO_IRQ_INFO_AUTOMASKED,
        MSIX if dynamic => 0,
        _ => uapi::VFIO_IRQ_INFO_NORESIZE,
    };
    uapi::VFIO_IRQ_INFO_EVENTFD | more
}

impl Irqs {
    /// `VFIO_DEVICE_SET_IRQS`.
    pub(crate) fn set(
        &mut self,
        description: &Description,
        config: &Config,
        (index, start, action): (u32, u32, u32),
        data: IrqData<'_>,
    ) -> Result<()> {
        let len = match data {
            IrqData::None(count) => count,
            IrqData::Bool(bools) => u32::try_from(bools.len()).map_err(|_error| Errno::INVAL)?,
            IrqData::Event(events) => u32::try_from(events.len()).map_err(|_error| Errno::INVAL)?,
        };
        let most = count(description, index)?;
        let end = start.checked_add(len).ok_or(Errno::INVAL)?;
        if start >= most || end > most {
            return Err(Errno::INVAL);
        }
        match (index, action) {
            (INTX, MASK | UNMASK) if self.on != Some(INTX) || start != 0 || len != 1 => Err(Errno::INVAL),
            (INTX, MASK) => self.mask_intx(data),
            (INTX, UNMASK) => self.unmask_intx(config, data),
            (INTX, TRIGGER) => self.trigger_intx(config, start, len, data),
            (MSI | MSIX, TRIGGER) => self.trigger_messages(description, index, start, end, data),
            (ERR, TRIGGER) => trigger_single(&mut self.error, start, len, data),
            (REQ, TRIGGER) => trigger_single(&mut self.request, start, len, data),
            _ => Err(Errno::NOTTY),
        }
    }

    fn mask_intx(&mut self, data: IrqData<'_>) -> Result<()> {
        match data {
            IrqData::None(_) => self.masked = true,
            IrqData::Bool(bools) => self.masked |= bools.first().is_some_and(|bool| *bool != 0),
            IrqData::Event(_) => return Err(Errno::NOTTY),
        }
        Ok(())
    }

    fn unmask_intx(&mut self, config: &Config, data: IrqData<'_>) -> Result<()> {
        match data {
            IrqData::Bool(bools) if bools.first().is_none_or(|bool| *bool == 0) => {}
            IrqData::None(_) | IrqData::Bool(_) => self.unmask(config),
            IrqData::Event(events) => self.unmask = events.first().copied().flatten().map(event).transpose()?,
        }
        Ok(())
    }

    fn trigger_intx(&mut self, config: &Config, start: u32, len: u32, data: IrqData<'_>) -> Result<()> {
        let on = self.on == Some(INTX);
        match data {
            IrqData::None(0) if on => {
                self.disable();
                return Ok(());
            }
            _ if !(on || self.on.is_none()) || start != 0 || len != 1 => return Err(Errno::INVAL),
            IrqData::Event(events) => {
                self.intx = events.first().copied().flatten().map(event).transpose()?;
                if !on {
                    self.on = Some(INTX);
                    self.masked = config.intx_disabled();
                    self.deliver_level(config);
                }
                return Ok(());
            }
            _ if !on => return Err(Errno::INVAL),
            IrqData::None(_) => {}
            IrqData::Bool(bools) if bools.first().is_some_and(|bool| *bool != 0) => {}
            IrqData::Bool(_) => return Ok(()),
        }
        if !config.intx_disabled() {
            signal(self.intx.as_ref());
        }
        Ok(())
    }

    fn trigger_messages(
        &mut self,
        description: &Description,
        index: u32,
        start: u32,
        end: u32,
        data: IrqData<'_>,
    ) -> Result<()> {
        let on = self.on == Some(index);
        match data {
            IrqData::None(0) if on => self.disable(),
            _ if !(on || self.on.is_none()) => return Err(Errno::INVAL),
            IrqData::Event(events) => {
                if !on {
                    self.on = Some(index);
                    self.vectors = end;
                }
                let dynamic = index == MSIX && description.msix.is_some_and(|msix| msix.dynamic);
                for (vector, given) in (start..end).zip(events) {
                    if let Err(errno) = self.set_vector(vector, *given, dynamic) {
                        (start..=vector).for_each(|vector| drop(self.events.remove(&vector)));
                        if !on {
                            self.disable();
                        }
                        return Err(errno);
                    }
                }
            }
            _ if !on => return Err(Errno::INVAL),
            IrqData::None(_) => (start..end).for_each(|vector| signal(self.events.get(&vector))),
            IrqData::Bool(bools) => {
                for (vector, _) in (start..end).zip(bools).filter(|(_, bool)| **bool != 0) {
                    signal(self.events.get(&vector));
                }
            }
        }
        Ok(())
    }

    fn set_vector(&mut self, vector: u32, given: Option<BorrowedFd<'_>>, dynamic: bool) -> Result<()> {
        self.events.remove(&vector);
        let Some(given) = given else { return Ok(()) };
        if vector >= self.vectors {
            if !dynamic {
                return Err(Errno::INVAL);
            }
            self.vectors = vector + 1;
        }
        self.events.insert(vector, event(given)?);
        Ok(())
    }

    /// Turns INTx, MSI or MSI-X off, whichever is on.
    pub(crate) fn disable(&mut self) {
        self.on = None;
        self.vectors = 0;
        self.events.clear();
        self.intx = None;
        self.unmask = None;
        self.masked = false;
    }

    /// The file was closed.
    pub(crate) fn close(&mut self) {
        self.disable();
        self.error = None;
        self.request = None;
    }

    pub(crate) fn set_level(&mut self, asserted: bool, config: &Config) {
        self.level = asserted;
        self.deliver_level(config);
    }

    fn deliver_level(&mut self, config: &Config) {
        if self.level && self.on == Some(INTX) && !self.masked && !config.intx_disabled() {
            self.masked = true;
            signal(self.intx.as_ref());
        }
    }

    fn unmask(&mut self, config: &Config) {
        if !config.intx_disabled() {
            self.masked = false;
            self.deliver_level(config);
        }
    }

    /// The Command register changed: its INTx Disable is a mask too.
    pub(crate) fn command_changed(&mut self, config: &Config) {
        if self.on == Some(INTX) {
            self.masked = config.intx_disabled();
            self.deliver_level(config);
        }
    }

    /// Unmasks INTx if the eventfd for it was signalled.
    pub(crate) fn settle(&mut self, config: &Config) {
        if self.unmask.as_ref().is_some_and(consume) {
            self.unmask(config);
        }
    }

    pub(crate) fn message(&mut self, index: u32, vector: u32) {
        if self.on == Some(index) {
            signal(self.events.get(&vector));
        }
    }

    pub(crate) fn raise_error(&self) {
        signal(self.error.as_ref());
    }

    pub(crate) fn raise_request(&self) {
        signal(self.request.as_ref());
    }

    /// What is on, in words.
    pub(crate) fn describe(&self) -> Option<String> {
        let name = match self.on? {
            INTX => "INTx",
            MSI => "MSI",
            _ => "MSI-X",
        };
        Some(format!("{name} is on"))
    }
}

fn trigger_single(slot: &mut Option<OwnedFd>, start: u32, len: u32, data: IrqData<'_>) -> Result<()> {
    if start != 0 || len > 1 {
        return Err(Errno::INVAL);
    }
    match data {
        IrqData::None(_) if slot.is_none() => return Err(Errno::INVAL),
        IrqData::None(0) => *slot = None,
        IrqData::None(_) => signal(slot.as_ref()),
        IrqData::Bool(bools) => match bools.first() {
            None => return Err(Errno::INVAL),
            Some(0) => {}
            Some(_) => signal(slot.as_ref()),
        },
        IrqData::Event(events) => *slot = events.first().ok_or(Errno::INVAL)?.map(event).transpose()?,
    }
    Ok(())
}

/// A handle of its own on the caller's eventfd; EINVAL for another kind of file.
pub(crate) fn event(given: BorrowedFd<'_>) -> Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", given.as_raw_fd());
    let target = rustix::fs::readlink(link, Vec::new())?;
    if target.as_bytes() != b"anon_inode:[eventfd]" {
        return Err(Errno::INVAL);
    }
    given.try_clone_to_owned().map_err(|_error| Errno::MFILE)
}

/// Adds 1 to an eventfd; a full one stays full, as in the kernel.
pub(crate) fn signal(event: Option<&OwnedFd>) {
    let Some(event) = event.filter(|event| is(event, PollFlags::OUT)) else {
        return;
    };
    let written = write(event, &1_u64.to_ne_bytes());
    debug_assert!(written.is_ok(), "an eventfd that can be written: {written:?}");
}

/// Takes what an eventfd holds; whether that was anything.
pub(crate) fn consume(event: &OwnedFd) -> bool {
    is(event, PollFlags::IN) && read(event, &mut [0_u8; 8]).is_ok()
}

fn is(event: &OwnedFd, flags: PollFlags) -> bool {
    let mut files = [PollFd::from_borrowed_fd(event.as_fd(), flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut files, Some(&now)).is_ok_and(|ready| ready == 1)
}
