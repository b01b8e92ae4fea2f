//! The thread that answers page requests of a guest's devices.

use super::refused;
use crate::{Error, ErrorKind, Result};
use iommu::demand::DemandSpace;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vfio_core::EventFd;

/// The thread that answers page requests.
#[derive(Debug)]
pub(super) struct Server {
    space: Arc<Shared>,
    ready: Arc<EventFd>,
    stop: Arc<EventFd>,
    /// Once it serves.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A space that one thread uses over and over, and others at times, who get it at once: a lock alone would mostly be had by who has just let go of it.
#[derive(Debug)]
struct Shared<T = DemandSpace> {
    // Locked in this order.
    turn: Mutex<()>,
    space: Mutex<T>,
}

impl<T> Shared<T> {
    fn new(space: T) -> Self {
        let (turn, space) = (Mutex::default(), Mutex::new(space));
        Self { turn, space }
    }

    /// Keeps the server from its next round.
    fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut self.space.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A round of the server, after those who wait.
    fn serve<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        act(&mut self.space.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Server {
    /// Serves nothing yet: a process that gives up rights has no other thread before.
    pub(super) fn new(space: DemandSpace) -> Result<Self> {
        let ready = space.ready().map(|ready| ready.try_clone_to_owned()).transpose();
        let ready = ready.map_err(|error| Error::new("dup", ErrorKind::Io(error)))?;
        let ready = ready.ok_or_else(|| refused(ErrorKind::Unsupported("waiting for page requests")))?;
        Ok(Self {
            space: Arc::new(Shared::new(space)),
            ready: Arc::new(EventFd::from_fd(ready)),
            stop: Arc::new(EventFd::new()?),
            thread: Mutex::default(),
        })
    }

    /// Serves from now on.
    pub(super) fn start(&self) -> Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (space, ready, stop) = (Arc::clone(&self.space), Arc::clone(&self.ready), Arc::clone(&self.stop));
            let work = move || serve(&space, &ready, &stop);
            let started = thread::Builder::new().name("page requests".to_owned()).spawn(work);
            *thread = Some(started.map_err(|error| Error::new("start a thread", ErrorKind::Io(error)))?);
        }
        Ok(())
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut DemandSpace) -> T) -> T {
        self.space.with(act)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop.signal() {
            tracing::error!(%error, "page requests are served on");
            return;
        }
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner);
        if thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that serves page requests has panicked");
        }
    }
}

/// How often in a row page requests may fail to be served: the queue stays readable meanwhile.
const FAILURES: u32 = 16;
/// How long nothing is tried after a failure.
const REST: Duration = Duration::from_millis(100);

fn serve(space: &Shared, ready: &EventFd, stop: &EventFd) {
    let mut failures = 0;
    loop {
        let served = space.serve(DemandSpace::serve);
        let wait = match served {
            Ok(count) => {
                failures = 0;
                // More may wait; those who ask to stop are heard all the same.
                (count != 0).then_some(Duration::ZERO)
            }
            Err(error) if failures < FAILURES => {
                failures += 1;
                tracing::error!(%error, "page requests of a guest's device are not served");
                match stop.wait_timeout(REST) {
                    Ok(None) => continue,
                    _ => return,
                }
            }
            Err(error) => {
                tracing::error!(%error, "page requests of the guest's devices are served no more");
                return;
            }
        };
        match vfio_core::wait_either([ready, stop], wait) {
            Ok([_, true]) => return,
            Ok([_, false]) => {}
            Err(error) => {
                tracing::error!(%error, "page requests of the guest's devices are served no more");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn who_wants_the_space_gets_it_after_one_round_of_a_server_that_does_not_rest() {
        let (shared, is_over) = (Shared::new(0_u64), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    shared.serve(|rounds| *rounds += 1);
                }
            });
            let mut most = 0;
            let mut last = shared.with(|rounds| *rounds);
            for _ in 0..200 {
                let turn = shared.turn.lock().unwrap();
                let begun = *shared.space.lock().unwrap();
                // Whoever was in the middle of a round ends it, and begins no other.
                thread::yield_now();
                let ended = *shared.space.lock().unwrap();
                drop(turn);
                most = most.max(ended - begun);
                assert!(begun >= last);
                last = ended;
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(most <= 1, "{most}");
        });
    }
}
