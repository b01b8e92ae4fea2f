//! Where page requests come from.

use crate::Result;
use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd};
use vfio_core::iommufd::{FaultQueue, PageRequestGroup};

/// What reports page requests: an iommufd's [`FaultQueue`], or a device's own way of saying that it met a page that is not there, whose
/// groups are made with [`PageRequestGroup::new`].
pub trait FaultSource: Debug + Send {
    /// The next group, if one waits. Never blocks.
    ///
    /// # Errors
    ///
    /// When the source is broken; groups that it still has come with later calls.
    fn next(&mut self) -> Result<Option<PageRequestGroup>>;

    /// What becomes readable when a group comes; `None` for a source that tells in another way.
    fn ready(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl FaultSource for FaultQueue {
    fn next(&mut self) -> Result<Option<PageRequestGroup>> {
        Ok(self.read()?)
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}
