//! Where page requests come from.

use crate::Result;
use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd};
use vfio_core::ErrorKind;
use vfio_core::iommufd::{FaultQueue, PageRequestGroup, Response};

/// What reports page requests and takes answers: an iommufd's [`FaultQueue`], or a device's own way of saying that it met a page that
/// is not there.
pub trait FaultSource: Debug + Send {
    /// The next group, if one waits. Never blocks.
    ///
    /// # Errors
    ///
    /// When the source is broken; groups that it still has come with later calls.
    fn next(&mut self) -> Result<Option<PageRequestGroup>>;

    /// Answers a group.
    ///
    /// # Errors
    ///
    /// When the answer could not be given. That nobody waits for it any more is no error.
    fn respond(&mut self, cookie: u32, response: Response) -> Result<Answered>;

    /// What becomes readable when a group comes; `None` for a source that tells in another way.
    fn ready(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The device has it.
    Delivered,
    /// Nobody waits for it: the device was detached, and its requests answered as invalid by that.
    Late,
}

impl FaultSource for FaultQueue {
    fn next(&mut self) -> Result<Option<PageRequestGroup>> {
        Ok(self.read()?)
    }

    fn respond(&mut self, cookie: u32, response: Response) -> Result<Answered> {
        match Self::respond(self, cookie, response) {
            Ok(()) => Ok(Answered::Delivered),
            Err(error) if matches!(error.kind, ErrorKind::NotFound(_)) => Ok(Answered::Late),
            Err(error) => Err(error.into()),
        }
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}
