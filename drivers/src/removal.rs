//! Word of a device that is to be given back, or that is gone; and who drives it meanwhile.
//!
//! The kernel removes a function, or gives it to another driver, only when its user has closed it, and asks by VFIO's request interrupt
//! (`VFIO_PCI_REQ_IRQ_INDEX`): the device works until then, and the kernel waits. A device that was pulled out answers all reads with ones; its
//! driver says so here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{Builder, JoinHandle};
use vfio_core::{EventFd, wait_any};

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It is there, and ours.
    Present,
    /// It works, but somebody waits for it to be closed: let what was submitted end, and close it.
    AskedBack,
    /// It is not there any more.
    Gone,
}

/// Word of a function's removal. Cheap to clone: clones are of the same function.
#[derive(Debug, Clone)]
pub struct Removal(Arc<State>);

#[derive(Debug)]
struct State {
    presence: AtomicU8,
    /// Signalled once and never read: it wakes all who ever wait.
    event: EventFd,
    /// Somebody has a [`Claim`].
    is_claimed: AtomicBool,
}

/// The one driver of a function, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim(Removal);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.0.is_claimed.store(false, Ordering::Release);
    }
}

impl Removal {
    /// Of a function that is there.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn new() -> Result<Self, vfio_core::Error> {
        let state = State {
            presence: AtomicU8::new(Presence::Present as u8),
            event: EventFd::new()?,
            is_claimed: AtomicBool::new(false),
        };
        Ok(Self(Arc::new(state)))
    }

    /// Makes the caller the one driver of the function; `None` if there is another, through whatever clone of its backing.
    pub(crate) fn claim(&self) -> Option<Claim> {
        // Acquired: the last driver has let go of the registers.
        let was_claimed = self.0.is_claimed.swap(true, Ordering::Acquire);
        (!was_claimed).then(|| Claim(self.clone()))
    }

    /// As last heard. One load, for every turn of a loop.
    #[must_use]
    #[inline]
    pub fn presence(&self) -> Presence {
        match self.0.presence.load(Ordering::Relaxed) {
            0 => Presence::Present,
            1 => Presence::AskedBack,
            _ => Presence::Gone,
        }
    }

    /// An event that is readable once the function is asked back or gone. Nobody takes its signal.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.0.event
    }

    /// Says that it is asked back, or gone. There is no way back.
    pub fn tell(&self, presence: Presence) {
        let before = self.0.presence.fetch_max(presence as u8, Ordering::Relaxed);
        if before < presence as u8
            && let Err(error) = self.0.event.signal()
        {
            tracing::error!(%error, "those who wait for a removal are not told");
        }
    }
}

/// A thread that waits for the request interrupt and passes it on. It holds nothing of the function; ends when dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    end: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub(crate) fn new(removal: &Removal, request: EventFd) -> Result<Self, vfio_core::Error> {
        let end = Arc::new(EventFd::new()?);
        let (removal, ended) = (removal.clone(), Arc::clone(&end));
        let watch = move || match wait_any(&[&request, &*ended], None) {
            Ok(ready) if ready.contains(&0) => removal.tell(Presence::AskedBack),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the request interrupt is not heard any more"),
        };
        let thread = Builder::new()
            .name("removal".to_owned())
            .spawn(watch)
            .map_err(|error| {
                let errno = vfio_core::Errno::from_io_error(&error).unwrap_or(vfio_core::Errno::AGAIN);
                vfio_core::Error::new("clone3", vfio_core::ErrorKind::Os(errno))
            })?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let signalled = self.end.signal();
        // The thread runs nobody else's code, so it is never the one that waits here.
        if let (Ok(()), Some(thread)) = (signalled, self.thread.take())
            && thread.join().is_err()
        {
            tracing::error!("the thread that waits for a removal has panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_request_reaches_all_clones_and_stays() {
        let (removal, request) = (Removal::new().unwrap(), EventFd::new().unwrap());
        let watcher = Watcher::new(&removal, request.try_clone().unwrap()).unwrap();
        let clone = removal.clone();
        assert_eq!(clone.presence(), Presence::Present);
        request.signal().unwrap();
        for _ in 0..2 {
            let ready = wait_any(&[clone.event()], Some(Duration::from_secs(60))).unwrap();
            assert_eq!(ready, [0]);
        }
        assert_eq!(clone.presence(), Presence::AskedBack);
        drop(watcher);
    }

    #[test]
    fn what_is_gone_does_not_come_back() {
        let removal = Removal::new().unwrap();
        removal.tell(Presence::Gone);
        removal.tell(Presence::AskedBack);
        assert_eq!(removal.presence(), Presence::Gone);
        assert_eq!(removal.event().try_read().unwrap(), Some(1));
    }

    #[test]
    fn a_watcher_that_heard_nothing_ends() {
        let removal = Removal::new().unwrap();
        drop(Watcher::new(&removal, EventFd::new().unwrap()).unwrap());
        assert_eq!(removal.presence(), Presence::Present);
    }
}
