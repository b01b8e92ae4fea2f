//! A group file of the running kernel.

use super::{ContainerCalls, Device, DeviceCalls, GroupCalls, Result, real, request};
use crate::sys::ioctl;
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use vfio_bindings::bindings::vfio::vfio_group_status;

/// `/dev/vfio/GROUP`.
#[derive(Debug)]
pub(crate) struct Group {
    file: OwnedFd,
}

impl Group {
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self { file }
    }
}

impl GroupCalls for Group {
    fn status(&self) -> Result<u32> {
        let mut status = vfio_group_status {
            argsz: super::word(size_of::<vfio_group_status>())?,
            flags: 0,
        };
        // SAFETY: VFIO_GROUP_GET_STATUS writes this structure of plain numbers.
        unsafe { ioctl::call(self.file.as_fd(), request(3), &mut status) }?;
        Ok(status.flags)
    }

    fn set_container(&self, container: &dyn ContainerCalls) -> Result<()> {
        let mut number = real(container.number())?;
        // SAFETY: VFIO_GROUP_SET_CONTAINER reads one number.
        unsafe { ioctl::call(self.file.as_fd(), request(4), &mut number) }?;
        Ok(())
    }

    fn unset_container(&self) -> Result<()> {
        // SAFETY: VFIO_GROUP_UNSET_CONTAINER has no argument.
        unsafe { ioctl::call_number(self.file.as_fd(), request(5), 0) }?;
        Ok(())
    }

    fn device(&self, name: &str) -> Result<Arc<dyn DeviceCalls>> {
        let name = CString::new(name).ok().ok_or(Errno::INVAL)?;
        let mut name = name.into_bytes_with_nul();
        // SAFETY: VFIO_GROUP_GET_DEVICE_FD reads a string up to its NUL.
        let number = unsafe { ioctl::call(self.file.as_fd(), request(6), name.as_mut_slice()) }?;
        // SAFETY: the call returned a descriptor that it has just opened.
        let file = unsafe { ioctl::owned(number) };
        Ok(Arc::new(Device::new(file)))
    }

    fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        rustix::io::fcntl_dupfd_cloexec(&self.file, 0).map(Some)
    }
}
