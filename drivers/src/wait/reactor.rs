//! Futures for events: one thread waits for all of them and wakes the tasks.

use crate::Removal;
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{Builder, JoinHandle};
use vfio_core::{Errno, Error, ErrorKind, EventFd, EventSet};

/// A thread that waits for events on behalf of tasks. It needs no particular executor; where there is one with a reactor of its own, an
/// [`EventFd`] can be given to that instead.
///
/// Ends when it and all [`Signals`] are dropped.
#[derive(Clone)]
pub struct Reactor {
    running: Arc<Running>,
}

struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    set: EventSet,
    end: EventFd,
    watched: Mutex<BTreeMap<u64, Arc<Watched>>>,
    next_key: AtomicU64,
}

struct Watched {
    event: EventFd,
    /// Until it was signalled once. Nobody takes that signal, so it leaves the set then.
    removal: Mutex<Option<EventFd>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_signalled: bool,
    task: Option<Waker>,
}

/// The signals of one event, for one task at a time.
pub struct Signals {
    key: u64,
    watched: Arc<Watched>,
    running: Arc<Running>,
}

/// Not a key of an event.
const END: u64 = u64::MAX;
/// Set in the key of a removal; without it, it is that of the event.
const REMOVAL: u64 = 1;

impl Reactor {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors or threads left.
    pub fn new() -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            set: EventSet::new()?,
            end: EventFd::new()?,
            watched: Mutex::new(BTreeMap::new()),
            next_key: AtomicU64::new(0),
        });
        shared.set.add(&shared.end, END)?;
        let of_thread = Arc::clone(&shared);
        let thread = Builder::new().name("reactor".to_owned()).spawn(move || of_thread.run());
        let thread = thread.map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
            Error::new("clone3", ErrorKind::Os(errno))
        })?;
        let running = Running {
            shared,
            thread: Some(thread),
        };
        Ok(Self {
            running: Arc::new(running),
        })
    }

    /// Waits for an event from here on. The reactor takes its signals, so nobody else should wait for it meanwhile; it is not for
    /// [`Removal::event`], whose signal stays.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn watch(&self, event: &EventFd) -> Result<Signals, Error> {
        self.add(event, None)
    }

    /// As [`watch`](Self::watch), of an event of a device: its being asked back, or gone, is one more signal, whose reason
    /// [`Removal::presence`] says.
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub fn watch_device(&self, event: &EventFd, removal: &Removal) -> Result<Signals, Error> {
        self.add(event, Some(removal))
    }

    fn add(&self, event: &EventFd, removal: Option<&Removal>) -> Result<Signals, Error> {
        let removal = removal.map(|removal| removal.event().try_clone()).transpose()?;
        let watched = Arc::new(Watched {
            event: event.try_clone()?,
            removal: Mutex::default(),
            state: Mutex::default(),
        });
        let shared = &self.running.shared;
        // Never one that was used before: a late signal of that event is not this one's.
        let key = shared.next_key.fetch_add(2, Ordering::Relaxed);
        locked(&shared.watched).insert(key, Arc::clone(&watched));
        let signals = Signals {
            key,
            watched,
            running: Arc::clone(&self.running),
        };
        shared.set.add(&signals.watched.event, key)?;
        if let Some(removal) = removal {
            // Under its lock, so that the thread finds it once it is signalled.
            let mut place = locked(&signals.watched.removal);
            shared.set.add(&removal, key | REMOVAL)?;
            *place = Some(removal);
        }
        Ok(signals)
    }
}

impl Signals {
    /// Waits until the event was signalled since the last time. Being dropped before the end loses nothing.
    pub async fn next(&mut self) {
        poll_fn(|context| self.poll_next(context)).await;
    }

    /// As [`next`](Self::next), for a future of the caller's own: once ready, the signal is taken.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = locked(&self.watched.state);
        if std::mem::take(&mut state.is_signalled) {
            state.task = None;
            return Poll::Ready(());
        }
        match &mut state.task {
            Some(task) => task.clone_from(context.waker()),
            empty @ None => *empty = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let shared = &self.running.shared;
        locked(&shared.watched).remove(&self.key);
        self.watched.forget_removal(&shared.set);
        if let Err(error) = shared.set.remove(&self.watched.event) {
            tracing::error!(%error, "an event stays in its set");
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut has_ended = false;
        while !has_ended {
            let waited = self.set.wait(None, |key| {
                if key == END {
                    has_ended = true;
                    return;
                }
                let watched = locked(&self.watched).get(&(key & !REMOVAL)).map(Arc::clone);
                match watched {
                    Some(watched) if key & REMOVAL != 0 => {
                        watched.forget_removal(&self.set);
                        watched.wake();
                    }
                    Some(watched) => {
                        watched.take();
                        watched.wake();
                    }
                    None => {}
                }
            });
            if let Err(error) = waited {
                tracing::error!(%error, "no task is woken any more");
                return;
            }
        }
    }
}

impl Watched {
    fn take(&self) {
        if let Err(error) = self.event.try_read() {
            tracing::error!(%error, "an event cannot be read");
        }
    }

    /// The thread and the task may both come here.
    fn forget_removal(&self, set: &EventSet) {
        if let Some(removal) = locked(&self.removal).take()
            && let Err(error) = set.remove(&removal)
        {
            tracing::error!(%error, "a removal stays in its set");
        }
    }

    fn wake(&self) {
        let task = {
            let mut state = locked(&self.state);
            state.is_signalled = true;
            state.task.take()
        };
        // A task may do anything when it is woken, so no lock is held.
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let signalled = self.shared.end.signal();
        let Some(thread) = self.thread.take() else { return };
        // A task that the thread woke may have dropped the last handle on it.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        if signalled.is_ok() && thread.join().is_err() {
            tracing::error!("the thread of a reactor has panicked");
        }
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watched = locked(&self.running.shared.watched).len();
        f.debug_struct("Reactor")
            .field("watched", &watched)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals")
            .field("event", &self.watched.event)
            .finish_non_exhaustive()
    }
}

/// Every change under these locks is whole before anything can panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::task::Wake;

    struct Woken(mpsc::Sender<()>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.send(()).unwrap();
        }
    }

    #[test]
    fn a_task_is_woken_for_each_signal() {
        let (reactor, event) = (Reactor::new().unwrap(), EventFd::new().unwrap());
        let mut signals = reactor.watch(&event).unwrap();
        let (sender, woken) = mpsc::channel();
        let waker = Waker::from(Arc::new(Woken(sender)));
        let mut context = Context::from_waker(&waker);
        for _ in 0..100 {
            assert!(signals.poll_next(&mut context).is_pending());
            event.signal().unwrap();
            woken.recv().unwrap();
            assert!(signals.poll_next(&mut context).is_ready());
        }
        assert!(signals.poll_next(&mut context).is_pending());
    }

    #[test]
    fn a_signal_before_the_task_comes_is_kept() {
        let (reactor, event) = (Reactor::new().unwrap(), EventFd::new().unwrap());
        event.signal().unwrap();
        let mut signals = reactor.watch(&event).unwrap();
        let (sender, woken) = mpsc::channel();
        let waker = Waker::from(Arc::new(Woken(sender)));
        if signals.poll_next(&mut Context::from_waker(&waker)).is_pending() {
            woken.recv().unwrap();
            assert!(signals.poll_next(&mut Context::from_waker(&waker)).is_ready());
        }
    }

    #[test]
    fn a_removal_wakes_every_task_once_and_its_signal_stays() {
        let (reactor, removal) = (Reactor::new().unwrap(), Removal::new().unwrap());
        let events = [EventFd::new().unwrap(), EventFd::new().unwrap()];
        let (sender, woken) = mpsc::channel();
        let waker = Waker::from(Arc::new(Woken(sender)));
        let mut context = Context::from_waker(&waker);
        let mut both = events
            .each_ref()
            .map(|event| reactor.watch_device(event, &removal).unwrap());
        for signals in &mut both {
            assert!(signals.poll_next(&mut context).is_pending());
        }
        removal.tell(crate::Presence::AskedBack);
        for _ in 0..2 {
            woken.recv().unwrap();
        }
        for (signals, event) in both.iter_mut().zip(&events) {
            assert!(signals.poll_next(&mut context).is_ready());
            assert!(signals.poll_next(&mut context).is_pending());
            // The device still works.
            event.signal().unwrap();
            woken.recv().unwrap();
            assert!(signals.poll_next(&mut context).is_ready());
        }
        drop(both);
        assert_eq!(removal.event().try_read().unwrap(), Some(1));
    }

    #[test]
    fn what_is_not_watched_any_more_is_left_alone() {
        let (reactor, event) = (Reactor::new().unwrap(), EventFd::new().unwrap());
        drop(reactor.watch(&event).unwrap());
        event.signal().unwrap();
        drop(reactor);
        assert_eq!(event.try_read().unwrap(), Some(1));
    }
}
