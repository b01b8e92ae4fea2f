//! Writes to a register that the kernel makes when an eventfd is signalled.
//!
//! Follows `VFIO_DEVICE_IOEVENTFD` of `include/uapi/linux/vfio.h`.

use crate::{Error, ErrorKind, EventFd, Region};
use std::os::fd::AsFd;

/// The width of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// 1 byte.
    Bits8 = 1,
    /// 2 bytes.
    Bits16 = 2,
    /// 4 bytes.
    Bits32 = 4,
    /// 8 bytes.
    Bits64 = 8,
}

/// A write that the kernel makes at each signal. Ends when dropped; holds the device open.
#[derive(Debug)]
#[must_use = "the write ends when it is dropped"]
pub struct IoEventFd {
    region: Region,
    offset: u64,
    width: Width,
    value: u64,
}

impl Region {
    /// Lets the kernel write `value` at `offset` whenever `event` is signalled, without waking this process. Only BARs have it, and of those
    /// not the MSI-X table; the kernel holds at most 1000 for a device.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRegion`](crate::ErrorKind::OutOfRegion) outside; EINVAL off the alignment or in the MSI-X table; EEXIST for the
    /// same write twice; ENOSPC for too many.
    #[doc(alias = "VFIO_DEVICE_IOEVENTFD")]
    pub fn ioeventfd(&self, offset: u64, width: Width, value: u64, event: &EventFd) -> Result<IoEventFd, Error> {
        let at = self.file_offset(offset, width as usize, "VFIO_DEVICE_IOEVENTFD")?;
        let set = self
            .device()
            .calls()
            .ioeventfd(at, width as u32, value, Some(event.as_fd()));
        set.map_err(|errno| {
            self.device()
                .failed("VFIO_DEVICE_IOEVENTFD", ErrorKind::from_errno(errno))
        })?;
        Ok(IoEventFd {
            region: self.clone(),
            offset: at,
            width,
            value,
        })
    }
}

impl Drop for IoEventFd {
    fn drop(&mut self) {
        let calls = self.region.device().calls();
        if let Err(errno) = calls.ioeventfd(self.offset, self.width as u32, self.value, None) {
            tracing::error!(device = ?self.region.device().bdf(), %errno, "an ioeventfd stays until the device is closed");
        }
    }
}
