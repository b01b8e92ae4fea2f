//! Whether a device works, and how it is stopped (virtio 1.3 §2.1, §2.4).

use super::Function;
use crate::backing::poll_until;
use crate::virtio::spec::{common, status};
use crate::{Backing, Error, ErrorKind, Presence, Result};
use std::any::Any;
use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Health {
    Running,
    /// It has to be reset.
    Failed,
    /// It was.
    Stopped,
    Gone,
}

/// How long a reset may take. The specification has no limit; a device in software has to let go of queues that others work on.
const RESET: Duration = Duration::from_secs(1);
const LOOK: &str = "look at the device";

impl<B: Backing> Function<B> {
    /// Whether requests are taken: it works, and nobody wants it back. Two loads.
    #[inline]
    pub(in super::super) fn is_open(&self) -> bool {
        // Relaxed: a queue touches nothing on the strength of it.
        self.health.load(Ordering::Relaxed) == Health::Running as u8
            && self.backing.removal().presence() == Presence::Present
    }

    /// Whether answers come: it works. Two loads.
    #[inline]
    pub(in super::super) fn alive(&self, step: &'static str) -> Result<()> {
        if self.health.load(Ordering::Relaxed) == Health::Running as u8
            && self.backing.removal().presence() != Presence::Gone
        {
            return Ok(());
        }
        Err(self.why_not(step))
    }

    #[cold]
    pub(in super::super) fn why_not(&self, step: &'static str) -> Error {
        if self.backing.removal().presence() != Presence::Present {
            return self.failed(step, ErrorKind::Gone);
        }
        let health = self.health.load(Ordering::Relaxed);
        let kind = if health == Health::Gone as u8 {
            ErrorKind::Gone
        } else if health == Health::Stopped as u8 {
            ErrorKind::Invalid("the device was stopped".into())
        } else {
            ErrorKind::Failed("the device has to be stopped and opened again".into())
        };
        self.failed(step, kind)
    }

    /// Asks the device whether it works, and still has what it was told. One read of a register.
    pub(in super::super) fn check(&self) -> Result<()> {
        self.alive(LOOK)?;
        let now = self.status()?;
        if now & status::NEEDS_RESET != 0 {
            return Err(self.broken(LOOK, "it says that it needs a reset"));
        }
        if self.promised.load(Ordering::Relaxed) & !now != 0 {
            return Err(self.broken(LOOK, "it was reset, and not by its driver"));
        }
        Ok(())
    }

    /// Its status register; all ones is no status.
    pub(super) fn status(&self) -> Result<u8> {
        match self.common.read_u8(common::STATUS) {
            u8::MAX if self.backing.presence() == Presence::Gone => {
                self.backing.removal().tell(Presence::Gone);
                self.worsen(Health::Gone);
                Err(self.failed(LOOK, ErrorKind::Gone))
            }
            u8::MAX => Err(self.broken(LOOK, "its registers do not answer")),
            now => Ok(now),
        }
    }

    /// It does what it must not: nothing is asked of it any more.
    #[cold]
    pub(in super::super) fn broken(&self, step: &'static str, text: impl Into<Cow<'static, str>>) -> Error {
        // A device that has gone answers nonsense, too.
        if self.backing.presence() == Presence::Gone {
            self.backing.removal().tell(Presence::Gone);
            self.worsen(Health::Gone);
            return self.failed(step, ErrorKind::Gone);
        }
        self.worsen(Health::Failed);
        self.failed(step, ErrorKind::Failed(text.into()))
    }

    fn worsen(&self, health: Health) {
        self.health.fetch_max(health as u8, Ordering::Relaxed);
    }

    /// Stops the device for good: from here on it does no DMA.
    ///
    /// # Errors
    ///
    /// When nothing proves that.
    pub(in super::super) fn stop(&self) -> Result<()> {
        self.worsen(Health::Stopped);
        // One at a time: the second has nothing to do.
        let _turn = self.retired();
        if self.is_quiet() {
            return Ok(());
        }
        if let Err(error) = self.reset() {
            if !error.is_gone() {
                tracing::warn!(%error, "the function is made quiet instead");
            }
            self.backing.quiesce()?;
        }
        // Released: who sees it sees what the device wrote before that.
        self.is_quiet.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether what it was given can be taken back.
    pub(in super::super) fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::Acquire)
    }

    /// Writes 0 to the status, and waits until the device has done so, too (§2.4.2).
    pub(super) fn reset(&self) -> Result<()> {
        const STEP: &str = "reset the device";
        if self.backing.presence() == Presence::Gone {
            return Err(self.failed(STEP, ErrorKind::Gone));
        }
        self.common.write_u8(common::STATUS, 0);
        let done = poll_until(&self.backing, RESET, || match self.common.read_u8(common::STATUS) {
            0 => Ok(Some(())),
            u8::MAX => self.status().map(|_| None),
            _ => Ok(None),
        })?;
        done.ok_or_else(|| self.failed(STEP, ErrorKind::Timeout(RESET)))
    }

    /// Keeps memory until the device has stopped.
    pub(in super::super) fn keep(&self, memory: impl Any + Send) {
        self.retired().push(Box::new(memory));
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Box<dyn Any + Send>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backing> Drop for Function<B> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "a device that cannot be stopped keeps its queues and their buffers");
            std::mem::forget(std::mem::take(&mut *self.retired()));
        }
    }
}
