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
    space: Arc<Mutex<DemandSpace>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(space: DemandSpace) -> Result<Self> {
        let ready = space.ready().map(|ready| ready.try_clone_to_owned()).transpose();
        let failed = |error| Error::new("start a thread", ErrorKind::Io(error));
        let ready = ready.map_err(failed)?;
        let ready = ready.ok_or_else(|| refused(ErrorKind::Unsupported("waiting for page requests")))?;
        let stop = Arc::new(EventFd::new()?);
        let space = Arc::new(Mutex::new(space));
        let (serving, stopping) = (Arc::clone(&space), Arc::clone(&stop));
        let work = move || serve(&serving, &EventFd::from_fd(ready), &stopping);
        let thread = thread::Builder::new().name("page requests".to_owned()).spawn(work);
        Ok(Self {
            space,
            stop,
            thread: Some(thread.map_err(failed)?),
        })
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut DemandSpace) -> T) -> T {
        act(&mut self.space.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop.signal() {
            tracing::error!(%error, "page requests are served on");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that serves page requests has panicked");
        }
    }
}

/// How often in a row page requests may fail to be served: the queue stays readable meanwhile.
const FAILURES: u32 = 16;
/// How long nothing is tried after a failure.
const REST: Duration = Duration::from_millis(100);

fn serve(space: &Mutex<DemandSpace>, ready: &EventFd, stop: &EventFd) {
    let mut failures = 0;
    loop {
        let served = space.lock().unwrap_or_else(PoisonError::into_inner).serve();
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
