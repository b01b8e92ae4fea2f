//! Telling KVM which devices a virtual machine uses, so that it keeps their memory coherent and lets them be used without an exit.
//!
//! Follows `Documentation/virt/kvm/devices/vfio.rst` and `include/uapi/linux/kvm.h`.

use crate::sys::kvm::{self, Change};
use crate::sys::vfio::DeviceCalls;
use crate::{CdevFile, Error, ErrorKind, Group};
use pci::Bdf;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The VFIO device of a virtual machine (`KVM_DEV_TYPE_VFIO`). Cheap to clone.
#[derive(Debug, Clone)]
pub struct KvmVfio {
    file: Arc<OwnedFd>,
}

/// A device or group that KVM knows of, and holds open. Forgotten when dropped; holds the device or group open, too.
#[derive(Debug)]
#[must_use = "KVM forgets it when it is dropped"]
pub struct KvmFile {
    // Fields drop in this order, after KVM has forgotten the file.
    file: File,
    kvm: KvmVfio,
    released: bool,
}

#[derive(Debug)]
enum File {
    Cdev(Arc<dyn DeviceCalls>, Option<Bdf>),
    Group(Group),
}

const ADD: &str = "KVM_DEV_VFIO_FILE_ADD";
const DEL: &str = "KVM_DEV_VFIO_FILE_DEL";

impl KvmVfio {
    /// Takes over what `KVM_CREATE_DEVICE` gave.
    #[must_use]
    pub fn from_fd(file: OwnedFd) -> Self {
        Self { file: Arc::new(file) }
    }

    /// Tells KVM of a device before it is bound: its driver may want to know the virtual machine then. A device that is opened through a group counts with
    /// [that](Self::add_group).
    ///
    /// # Errors
    ///
    /// EEXIST for a device or group that KVM knows already; EINVAL for a descriptor that is no KVM VFIO device;
    /// [`ErrorKind::Invalid`] for a file that was bound already, and for one of a fake machine.
    #[doc(alias = "KVM_DEV_VFIO_FILE_ADD")]
    pub fn add_cdev(&self, file: &CdevFile) -> Result<KvmFile, Error> {
        self.add_file(File::Cdev(file.calls(ADD)?, file.bdf()))
    }

    /// Tells KVM of a group before any of its devices is open.
    ///
    /// # Errors
    ///
    /// As [`add_cdev`](Self::add_cdev).
    #[doc(alias = "KVM_DEV_VFIO_GROUP_ADD")]
    pub fn add_group(&self, group: &Group) -> Result<KvmFile, Error> {
        self.add_file(File::Group(group.clone()))
    }

    fn add_file(&self, file: File) -> Result<KvmFile, Error> {
        let added = self.change(Change::Add, &file);
        added.map_err(|errno| file.failed(ADD, errno))?;
        let kvm = self.clone();
        Ok(KvmFile {
            file,
            kvm,
            released: false,
        })
    }

    fn change(&self, change: Change, file: &File) -> Result<(), Errno> {
        kvm::set_vfio_file(self.file.as_fd(), change, file.number())
    }
}

impl KvmFile {
    /// Lets KVM forget it, and says whether that went well.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if somebody else did so through another descriptor.
    #[doc(alias = "KVM_DEV_VFIO_FILE_DEL")]
    #[doc(alias = "KVM_DEV_VFIO_GROUP_DEL")]
    pub fn del(mut self) -> Result<(), Error> {
        self.release()
    }

    fn release(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.released, true) {
            return Ok(());
        }
        let deleted = self.kvm.change(Change::Del, &self.file);
        deleted.map_err(|errno| self.file.failed(DEL, errno))
    }
}

impl Drop for KvmFile {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::error!(%error, "KVM holds the device open until the virtual machine is gone");
        }
    }
}

impl File {
    fn number(&self) -> i32 {
        match self {
            Self::Group(group) => group.calls().number(),
            Self::Cdev(calls, _) => calls.number(),
        }
    }

    fn failed(&self, step: &'static str, errno: Errno) -> Error {
        let kind = match errno {
            Errno::BADF => ErrorKind::Invalid("no file of the running kernel"),
            other => ErrorKind::from_errno(other),
        };
        match self {
            Self::Cdev(_, bdf) => Error::new(step, kind).on(*bdf),
            Self::Group(_) => Error::new(step, kind),
        }
    }
}

#[cfg(all(test, feature = "fake"))]
mod tests {
    use super::*;
    use crate::fake::{Copier, Machine};
    use pci::GroupId;

    #[test]
    fn a_file_of_no_kernel_is_never_told_of() {
        let builder = Machine::builder().device("0000:01:00.0".parse().unwrap(), GroupId(7), Copier::new());
        let group = Group::open(&builder.build().system(), GroupId(7)).unwrap();
        // A file that knows no such request: what gets as far as the kernel is ENOTTY.
        let kvm = KvmVfio::from_fd(tempfile::tempfile().unwrap().into());
        let refused = kvm.add_group(&group).unwrap_err();
        assert!(matches!(refused.kind, ErrorKind::Invalid(_)), "{refused}");
        drop(kvm);
    }
}
