//! Telling KVM which devices a virtual machine uses, so that it keeps their memory coherent and lets them be used without an exit.
//!
//! Follows `Documentation/virt/kvm/devices/vfio.rst` and `include/uapi/linux/kvm.h`.

use crate::sys::kvm::{self, Change};
use crate::{BoundDevice, Error, ErrorKind, Group};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// The VFIO device of a virtual machine (`KVM_DEV_TYPE_VFIO`).
#[derive(Debug)]
pub struct KvmVfio {
    file: OwnedFd,
}

impl KvmVfio {
    /// Takes over what `KVM_CREATE_DEVICE` gave.
    #[must_use]
    pub fn from_fd(file: OwnedFd) -> Self {
        Self { file }
    }

    /// Tells KVM of a device. It holds the device's file open until [`del`](Self::del), or until the virtual machine is gone. To be called before
    /// the virtual machine runs. For a device that was opened through a group it is the group that counts, once for all of its devices.
    ///
    /// # Errors
    ///
    /// EEXIST for a device or group that KVM knows already; EINVAL for a descriptor that is no KVM VFIO device.
    #[doc(alias = "KVM_DEV_VFIO_FILE_ADD")]
    #[doc(alias = "KVM_DEV_VFIO_GROUP_ADD")]
    pub fn add(&self, device: &BoundDevice) -> Result<(), Error> {
        let changed = self.change(Change::Add, file_of(device));
        changed.map_err(|errno| device.failed("KVM_DEV_VFIO_FILE_ADD", ErrorKind::from_errno(errno)))
    }

    /// Lets KVM forget a device.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for one that KVM does not know.
    #[doc(alias = "KVM_DEV_VFIO_FILE_DEL")]
    #[doc(alias = "KVM_DEV_VFIO_GROUP_DEL")]
    pub fn del(&self, device: &BoundDevice) -> Result<(), Error> {
        let changed = self.change(Change::Del, file_of(device));
        changed.map_err(|errno| device.failed("KVM_DEV_VFIO_FILE_DEL", ErrorKind::from_errno(errno)))
    }

    /// Tells KVM of a group before any of its devices is open.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn add_group(&self, group: &Group) -> Result<(), Error> {
        let changed = self.change(Change::Add, group.calls().number());
        changed.map_err(|errno| Error::new("KVM_DEV_VFIO_FILE_ADD", ErrorKind::from_errno(errno)))
    }

    /// Lets KVM forget a group.
    ///
    /// # Errors
    ///
    /// As [`del`](Self::del).
    pub fn del_group(&self, group: &Group) -> Result<(), Error> {
        let changed = self.change(Change::Del, group.calls().number());
        changed.map_err(|errno| Error::new("KVM_DEV_VFIO_FILE_DEL", ErrorKind::from_errno(errno)))
    }

    fn change(&self, change: Change, file: i32) -> Result<(), Errno> {
        kvm::set_vfio_file(self.file.as_fd(), change, file)
    }
}

fn file_of(device: &BoundDevice) -> i32 {
    match device.group() {
        Some(group) => group.group().calls().number(),
        None => device.calls().number(),
    }
}
