//! Waiting for requests to come back: by polling, by blocking, by a future.

use super::{COMPLETE, Done, Queue};
use crate::virtio::spec::ring;
use crate::wait::Signals;
use crate::{Backing, Error, ErrorKind, Presence, Result, Woken};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::{EventFd, fence};

/// How long a device that works is waited for before its status is read.
const SLICE: Duration = Duration::from_millis(200);

impl<B: Backing, T: Debug + Send + 'static> Queue<B, T> {
    /// As [`pop`](Self::pop), but waits for it, with an interrupt if there are any; `None` when the time is over.
    pub(in super::super) fn pop_within(&mut self, limit: Duration) -> Result<Option<Done<T>>> {
        let backing = self.function.backing.clone();
        let end = backing.now().saturating_add(limit);
        loop {
            // The time is read first: what happened in time counts, however long this thread did not run.
            let now = backing.now();
            if let Some(done) = self.pop()? {
                return Ok(Some(done));
            }
            if now > end {
                return Ok(None);
            }
            // One that is asked back works until it is closed, but every wait would end at once.
            if self.event().is_some() && backing.removal().presence() == Presence::Present {
                self.wait(Some(end.saturating_sub(now)))?;
            } else {
                backing.idle();
            }
        }
    }

    /// Blocks until there may be something to [`pop`](Self::pop), or the time is over, or the device is wanted back.
    pub(in super::super) fn wait(&mut self, timeout: Option<Duration>) -> Result<Woken> {
        let function = Arc::clone(&self.function);
        let end = timeout.map(|timeout| function.backing.now().saturating_add(timeout));
        loop {
            if !self.arm()? {
                return Ok(Woken::Signalled);
            }
            let left = end.map(|end| end.saturating_sub(function.backing.now()));
            let event = self.event().ok_or_else(|| self.no_interrupt())?;
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            let woken = function.backing.wait(event, Some(slice))?;
            if woken != Woken::TimedOut {
                self.disarm();
                return Ok(woken);
            }
            // A device that needs a reset says so elsewhere.
            function.check()?;
            if left.is_some_and(|left| left <= slice) {
                self.disarm();
                return Ok(woken);
            }
        }
    }

    /// Waits until there may be something to [`pop`](Self::pop).
    pub(in super::super) async fn ready(&mut self, signals: &mut Signals) -> Result<()> {
        while self.arm()? {
            signals.next().await;
            self.disarm();
        }
        Ok(())
    }

    /// Lets the next request that comes back interrupt; `false` if there is one already.
    pub(in super::super) fn arm(&mut self) -> Result<bool> {
        if self.done != self.seen {
            return Ok(false);
        }
        self.function.alive(COMPLETE)?;
        if self.vector.is_none() {
            return Err(self.no_interrupt());
        }
        if self.has_event_index {
            self.ring.set_used_event(self.done);
        } else {
            self.ring.set_flags(0);
        }
        // The index is read after the device can see the wish: it looks at the wish after it has moved the index.
        fence::dma();
        Ok(!self.look()?)
    }

    /// No more interrupts. With `EVENT_IDX` none come by themselves: the event stays behind.
    pub(super) fn disarm(&self) {
        if !self.has_event_index {
            self.ring.set_flags(ring::NO_INTERRUPT);
        }
    }

    /// Signalled when a request has come back after [`arm`](Self::arm).
    pub(in super::super) fn event(&self) -> Option<&EventFd> {
        self.function.event(self.vector?)
    }

    fn no_interrupt(&self) -> Error {
        let kind = ErrorKind::Unsupported("a queue without an interrupt can only be polled".into());
        self.function.failed("wait for a completion", kind)
    }
}
