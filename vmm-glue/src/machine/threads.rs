//! The threads of the processors: begun together, ended together.

use crate::kvm::kick;
use crate::kvm::vcpu::{Buses, Exit, Vcpu};
use crate::platform::Requests;
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use vfio_core::EventFd;

/// A processor that comes late gets another signal: the first one may have come just before it entered the guest.
const AGAIN: Duration = Duration::from_millis(2);
/// Threads that take longer wait for the kernel or a device: that is said, once.
const LATE: Duration = Duration::from_secs(10);

/// Running processors.
#[derive(Debug)]
pub(super) struct Threads {
    threads: Vec<JoinHandle<(Vcpu, Result<()>)>>,
    is_stopping: Arc<AtomicBool>,
    ended: Arc<EventFd>,
}

/// Those whose threads are at their end, and the first failure among them.
#[derive(Debug)]
pub(super) struct Ended {
    pub vcpus: Vec<Vcpu>,
    pub failure: Option<Error>,
}

impl Threads {
    /// Lets all run. `ended` is signalled once for each thread that ends.
    pub(super) fn start(
        vcpus: Vec<Vcpu>,
        buses: &Buses,
        requests: &Arc<Requests>,
        is_stopping: &Arc<AtomicBool>,
        ended: &Arc<EventFd>,
    ) -> Result<Self> {
        let failed = |error| Error::new("begin a processor's thread", ErrorKind::Io(error));
        kick::prepare()?;
        is_stopping.store(false, Ordering::Release);
        let mut begun = Self {
            threads: Vec::with_capacity(vcpus.len()),
            is_stopping: Arc::clone(is_stopping),
            ended: Arc::clone(ended),
        };
        for (number, vcpu) in vcpus.into_iter().enumerate() {
            let (buses, requests, is_stopping) = (buses.clone(), Arc::clone(requests), Arc::clone(is_stopping));
            let at_end = AtEnd(Arc::clone(ended));
            let thread = Builder::new().name(format!("vcpu{number}")).spawn(move || {
                let _at_end = at_end;
                run(vcpu, &buses, &requests, &is_stopping)
            });
            match thread {
                Ok(thread) => begun.threads.push(thread),
                Err(error) => {
                    drop(begun.stop());
                    return Err(failed(error));
                }
            }
        }
        Ok(begun)
    }

    /// Ends all, and waits until they have.
    pub(super) fn stop(self) -> Ended {
        self.is_stopping.store(true, Ordering::Release);
        let begun = Instant::now();
        let mut is_late = false;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
                kick::kick(thread);
            }
            // There is no way but to go on: nobody may run when this returns.
            if let Err(error) = self.ended.wait_timeout(AGAIN) {
                tracing::debug!(%error, "the processors' threads are asked again at once");
            }
            if !is_late && begun.elapsed() > LATE {
                is_late = true;
                tracing::warn!("a processor's thread does not end: it waits for the kernel, or for a device");
            }
        }
        // Signals of those who ended meanwhile.
        if let Err(error) = self.ended.try_read() {
            tracing::debug!(%error, "the end of the processors' threads stays signalled");
        }
        let mut ended = Ended {
            vcpus: Vec::with_capacity(self.threads.len()),
            failure: None,
        };
        for thread in self.threads {
            match thread.join() {
                Ok((vcpu, result)) => {
                    ended.vcpus.push(vcpu);
                    ended.failure = ended.failure.or(result.err());
                }
                Err(_panic) => {
                    let why = ErrorKind::Stopped("its thread has panicked".into());
                    ended.failure = Some(Error::new("run a processor", why));
                }
            }
        }
        ended
    }
}

/// The life of a processor's thread.
fn run(mut vcpu: Vcpu, buses: &Buses, requests: &Requests, is_stopping: &AtomicBool) -> (Vcpu, Result<()>) {
    kick::listen();
    while !is_stopping.load(Ordering::Acquire) {
        match vcpu.run(buses) {
            Ok(Exit::Answered | Exit::Signal) => {}
            Ok(Exit::Shutdown) => {
                if requests.shut_down() {
                    vcpu.tell_shutdown();
                }
                return (vcpu, Ok(()));
            }
            Err(error) => return (vcpu, Err(error)),
        }
    }
    let finished = vcpu.finish(buses);
    (vcpu, finished)
}

/// Says that a thread is at its end, however it came there.
struct AtEnd(Arc<EventFd>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Err(error) = self.0.signal() {
            tracing::error!(%error, "a processor ends unheard");
        }
    }
}
