//! What the kernel tells of a function: that it has reported an error, and that it is wanted back.

use crate::Result;
use vfio_core::{BoundDevice, EventFd, Interrupts, IrqIndex};

/// What a function's user is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The function has reported an uncorrectable error (AER). It is stopped: the guest reads all ones, and no DMA or interrupt comes.
    Failed,
    /// The kernel wants the function back, and waits until it is closed: the guest is to be asked to let go of it.
    Wanted,
}

/// The events of both kinds, of a function that has them.
#[derive(Debug)]
pub(super) struct Notices {
    failed: Option<Told>,
    wanted: Option<Told>,
}

#[derive(Debug)]
struct Told {
    // Fields drop in this order: the kernel lets go of the event first.
    _interrupts: Interrupts,
    event: EventFd,
}

impl Notices {
    pub(super) fn new(device: &BoundDevice) -> Result<Self> {
        let told = |index| -> Result<Option<Told>> {
            let interrupts = device.interrupts(index)?;
            if interrupts.info().count == 0 {
                return Ok(None);
            }
            let event = EventFd::new()?;
            interrupts.enable(0, &[Some(&event)])?;
            Ok(Some(Told {
                _interrupts: interrupts,
                event,
            }))
        };
        Ok(Self {
            failed: told(IrqIndex::Err)?,
            wanted: told(IrqIndex::Req)?,
        })
    }

    /// What becomes readable when there is something to tell.
    pub(super) fn events(&self) -> impl Iterator<Item = &EventFd> {
        self.failed.iter().chain(&self.wanted).map(|told| &told.event)
    }

    /// What was told since this was last asked.
    pub(super) fn take(&self) -> Result<Vec<Notice>> {
        let mut notices = Vec::new();
        for (told, notice) in [(&self.failed, Notice::Failed), (&self.wanted, Notice::Wanted)] {
            if let Some(told) = told
                && told.event.try_read()?.is_some()
            {
                notices.push(notice);
            }
        }
        Ok(notices)
    }
}
