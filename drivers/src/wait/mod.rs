//! Waiting for a device: by blocking, or by a future of any executor. Polling needs nothing of this.

mod reactor;

pub use reactor::{Reactor, Signals};

use crate::Removal;
use std::time::Duration;
use vfio_core::{Error, EventFd, wait_any};

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The device has signalled.
    Signalled,
    /// The device is wanted back, or gone.
    Removal,
    /// Neither, in that time.
    TimedOut,
}

/// Blocks until a device signals, and takes the signal; or until the device is to be given back, or the time is over.
pub(crate) fn wait(event: &EventFd, removal: &Removal, timeout: Option<Duration>) -> Result<Woken, Error> {
    let ready = wait_any(&[event, removal.event()], timeout)?;
    // What was signalled before the removal may still be served.
    if ready.contains(&0) {
        event.try_read()?;
        return Ok(Woken::Signalled);
    }
    Ok(if ready.is_empty() {
        Woken::TimedOut
    } else {
        Woken::Removal
    })
}
