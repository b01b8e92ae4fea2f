//! What the event thread waits for.

use crate::Result;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vfio_core::EventSet;

/// Files that the event thread waits for while the machine runs, each with what is done when it can be read.
#[derive(Debug)]
pub struct Events {
    set: EventSet,
    handlers: Mutex<Handlers>,
}

/// Names a file that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventKey(u64);

#[derive(Debug, Default)]
struct Handlers {
    by_key: BTreeMap<EventKey, Handler>,
    last: u64,
}

struct Handler {
    /// Of its own, so that it stays what is waited for.
    file: OwnedFd,
    call: Arc<Mutex<dyn FnMut() + Send>>,
}

impl Events {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            set: EventSet::new()?,
            handlers: Mutex::default(),
        })
    }

    /// Calls `call` on the event thread whenever `file` can be read, until it is removed. It has to read what makes the file readable, and not to wait for
    /// anything.
    ///
    /// # Errors
    ///
    /// For a file that cannot be waited for (EPERM), and when no descriptor is left.
    pub fn add(&self, file: impl AsFd, call: impl FnMut() + Send + 'static) -> Result<EventKey> {
        let duplicated = file.as_fd().try_clone_to_owned();
        let file = duplicated.map_err(|error| crate::Error::new("dup", crate::ErrorKind::Io(error)))?;
        let mut handlers = self.handlers();
        handlers.last += 1;
        let key = EventKey(handlers.last);
        self.set.add(&file, key.0)?;
        let call = Arc::new(Mutex::new(call));
        handlers.by_key.insert(key, Handler { file, call });
        Ok(key)
    }

    /// Waits for it no longer. It may be called once more if it is called now.
    pub fn remove(&self, key: EventKey) {
        let removed = self.handlers().by_key.remove(&key);
        if let Some(handler) = removed
            && let Err(error) = self.set.remove(&handler.file)
        {
            tracing::debug!(%error, "an event was not waited for");
        }
    }

    /// Waits once, and calls what there is to call.
    pub(crate) fn dispatch(&self, timeout: Option<Duration>) -> Result<()> {
        self.set.wait(timeout, |key| {
            // May be gone since.
            let handler = self
                .handlers()
                .by_key
                .get(&EventKey(key))
                .map(|handler| Arc::clone(&handler.call));
            if let Some(call) = handler {
                // Nothing is locked that it could want: it may add and remove.
                (call.lock().unwrap_or_else(PoisonError::into_inner))();
            }
        })?;
        Ok(())
    }

    fn handlers(&self) -> MutexGuard<'_, Handlers> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use vfio_core::EventFd;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn what_is_ready_is_called_until_it_is_removed() {
        let events = Arc::new(Events::new().unwrap());
        let event = Arc::new(EventFd::new().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let (counted, read) = (Arc::clone(&calls), Arc::clone(&event));
        let key = events.add(&*event, move || {
            assert_eq!(read.try_read().unwrap(), Some(1));
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let key = key.unwrap();
        events.dispatch(NOW).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        event.signal().unwrap();
        events.dispatch(NOW).unwrap();
        events.dispatch(NOW).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        events.remove(key);
        event.signal().unwrap();
        events.dispatch(NOW).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn one_that_is_called_may_remove_itself() {
        let events = Arc::new(Events::new().unwrap());
        let event = EventFd::new().unwrap();
        let (own, key) = (Arc::clone(&events), Arc::new(Mutex::new(None)));
        let of_handler = Arc::clone(&key);
        let added = events.add(&event, move || own.remove(of_handler.lock().unwrap().take().unwrap()));
        *key.lock().unwrap() = Some(added.unwrap());
        event.signal().unwrap();
        events.dispatch(NOW).unwrap();
        events.dispatch(NOW).unwrap();
        assert!(events.handlers().by_key.is_empty());
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(events.add(file, || ()).is_err(), "cannot be waited for");
    }
}
