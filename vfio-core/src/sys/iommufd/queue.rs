//! Queues: objects with a descriptor of their own.

use super::super::{Result, ioctl};
use super::host::Descriptor;
use super::{Calls, Id, Queue};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A queue's own descriptor.
#[derive(Debug)]
struct Events(OwnedFd);

impl Descriptor {
    /// Takes over a new object's descriptor.
    ///
    /// # Safety
    ///
    /// The kernel has just opened `number` for the caller, and nobody else owns it.
    pub(super) unsafe fn queue(&self, id: Id, number: u32) -> Result<(Id, Box<dyn Queue>)> {
        let Ok(number) = i32::try_from(number) else {
            // No descriptor has such a number, so none is in the way of this.
            self.destroy(id)?;
            return Err(Errno::BADF);
        };
        // SAFETY: promised by the caller.
        let file = unsafe { ioctl::owned(number) };
        Ok((id, Box::new(Events(file))))
    }
}

impl Queue for Events {
    fn read(&self, to: &mut [u8]) -> Result<usize> {
        rustix::io::read(&self.0, to)
    }

    fn write(&self, from: &[u8]) -> Result<usize> {
        rustix::io::write(&self.0, from)
    }

    fn ready(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
