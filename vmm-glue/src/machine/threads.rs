//! The threads of the processors: begun together, ended together.

use crate::kvm::kick;
use crate::kvm::vcpu::{Buses, Vcpu};
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use vfio_core::EventFd;

/// A processor that comes late gets another signal: the first one may have come just before it entered the guest.
const AGAIN: Duration = Duration::from_millis(2);

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
            let (buses, is_stopping) = (buses.clone(), Arc::clone(is_stopping));
            let at_end = AtEnd(Arc::clone(ended));
            let thread = Builder::new().name(format!("vcpu{number}")).spawn(move || {
                let _at_end = at_end;
                run(vcpu, &buses, &is_stopping)
            });
            match thread {
                Ok(thread) => begun.threads.push(thread),
                Err(error) => {
                    drop(begun.stop()?);
                    return Err(failed(error));
                }
            }
        }
        Ok(begun)
    }

    /// Ends all, and waits until they have.
    pub(super) fn stop(self) -> Result<Ended> {
        self.is_stopping.store(true, Ordering::Release);
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
                kick::kick(thread);
            }
            self.ended.wait_timeout(AGAIN)?;
        }
        // Signals of those who ended meanwhile.
        self.ended.try_read()?;
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
        Ok(ended)
    }
}

/// The life of a processor's thread.
fn run(mut vcpu: Vcpu, buses: &Buses, is_stopping: &AtomicBool) -> (Vcpu, Result<()>) {
    kick::listen();
    while !is_stopping.load(Ordering::Acquire) {
        if let Err(error) = vcpu.run(buses) {
            return (vcpu, Err(error));
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
