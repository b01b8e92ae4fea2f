//! Waiting for a device: by blocking, or by a future of any executor. Polling needs nothing of this.

mod reactor;

pub use reactor::{Reactor, Signals};

use crate::Removal;
use std::time::Duration;
use vfio_core::{Error, EventFd, wait_either};

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
    // What was signalled before the removal may still be served.
    Ok(match wait_either([event, removal.event()], timeout)? {
        [true, _] => {
            event.try_read()?;
            Woken::Signalled
        }
        [false, true] => Woken::Removal,
        [false, false] => Woken::TimedOut,
    })
}
