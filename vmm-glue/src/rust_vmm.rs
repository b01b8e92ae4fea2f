//! Devices for VMMs that drive them with `vfio-ioctls`: opened, bound and, where they want it, given memory by `vfio-core`.
//!
//! Such a VMM keeps its code for regions, interrupts and migration, which works on a [`VfioDevice`]; how the device was found, bound and attached, and what is
//! said when that fails, comes from here. With iommufd only: of a container `vfio-ioctls` opens the groups itself.
//!
//! ```no_run
//! use vfio_core::{CdevFile, System, iommufd::Iommufd};
//! use vmm_glue::rust_vmm::{Mapper, SharedIommufd};
//!
//! let system = System::host();
//! let iommufd = Iommufd::open(&system)?;
//! let shared = SharedIommufd::new(&iommufd)?;
//! let file = CdevFile::open_bdf(&system, &pci::Sysfs::host(), "0000:01:10.0".parse().unwrap())?;
//! let device = shared.hand_over(&file.bind(&iommufd, None)?, Mapper::VfioIoctls, None)?;
//! let mut id = [0; 4];
//! device.region_read(7, &mut id, 0);
//! # Ok::<(), vmm_glue::Error>(())
//! ```
//!
//! Follows `vfio-ioctls` 0.10 and `iommufd-ioctls` 0.4.

use crate::{Error, ErrorKind, Result};
use iommufd_ioctls::IommuFd;
use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use vfio_core::iommufd::Iommufd;
use vfio_core::{BoundDevice, Iova, KvmFile};
use vfio_ioctls::{VfioDevice, VfioIommufd};

/// One iommufd that `vfio-core` and `vfio-ioctls` both have. What `iommufd-ioctls` has of it is not given out: that maps any memory, and destroys any object
/// of the iommufd, in safe functions.
#[derive(Clone)]
pub struct SharedIommufd {
    ours: Iommufd,
    theirs: Arc<VfioIommufd>,
}

/// Who says which memory a device reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapper {
    /// `vfio-core`: the device stays as it is [attached](BoundDevice::attach), and what is mapped there is held until it is unmapped. A [`VfioDevice`] detaches
    /// it when it is dropped.
    VfioCore,
    /// `vfio-ioctls`: the device is attached to an address space of its own, into which [`SharedIommufd::map_file`] maps. It is refused while it has an
    /// [`Attachment`](vfio_core::Attachment), which would detach it from there.
    VfioIoctls,
}

const STEP: &str = "hand the device over";

impl SharedIommufd {
    /// Shares an iommufd.
    ///
    /// # Errors
    ///
    /// For an iommufd of a fake machine; when no descriptor is left, or no memory for an address space.
    pub fn new(iommufd: &Iommufd) -> Result<Self> {
        let theirs = IommuFd::new_from_fd(File::from(iommufd.try_clone_fd()?));
        let theirs = VfioIommufd::new(Arc::new(theirs), None, None);
        Ok(Self {
            ours: iommufd.clone(),
            theirs: Arc::new(theirs.map_err(|error| failed("share an iommufd", error))?),
        })
    }

    /// Maps bytes of a file, a memfd for example, for all devices of [`Mapper::VfioIoctls`], readable and, with `is_writable`, writable. The kernel holds
    /// the pages until they are unmapped, whoever else maps the file or closes it.
    ///
    /// # Errors
    ///
    /// What the kernel says: of a range that is mapped already, of a file that has no such bytes, before Linux 6.14.
    pub fn map_file(&self, file: impl AsFd, bytes: Range<u64>, iova: Iova, is_writable: bool) -> Result<()> {
        let len = bytes.end.saturating_sub(bytes.start);
        let file = file.as_fd().as_raw_fd();
        let mapped = self.theirs.ioas().map_file(file, bytes.start, len, iova.0, is_writable);
        mapped.map_err(|error| failed("map a file", error))
    }

    /// Unmaps what was mapped at these IOVAs, all of it.
    ///
    /// # Errors
    ///
    /// What the kernel says: of a range that cuts a mapping, or in which nothing is mapped.
    pub fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<()> {
        let unmapped = self.theirs.ioas().unmap(iova.0, len_bytes);
        unmapped.map_err(|error| failed("unmap a file", error))
    }

    /// Makes a device that is bound to this iommufd one of `vfio-ioctls`. It holds the device open, and is to be dropped before it is opened anew: `device` may
    /// go before. `kvm` is how KVM knows the device ([`KvmVfio::add_cdev`](vfio_core::KvmVfio::add_cdev), before it was bound: its driver may ask then); KVM
    /// forgets the device when it is dropped, or cannot be handed over.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a device of another iommufd, and for one that was opened through a group; [`Busy`](vfio_core::ErrorKind::Busy), with [`Mapper::VfioIoctls`], while it has an
    /// attachment; what `vfio-ioctls` says when the kernel refuses.
    pub fn hand_over(&self, device: &BoundDevice, mapper: Mapper, kvm: Option<KvmFile>) -> Result<HandedOver> {
        let on = |error: Error| match device.bdf() {
            Some(bdf) => error.on(bdf),
            None => error,
        };
        let invalid = |why| on(Error::new(STEP, ErrorKind::Invalid(why)));
        let of = device.iommufd_device();
        let of = of.ok_or_else(|| invalid("it was opened through a group, which vfio-ioctls does itself"))?;
        if !vfio_core::iommufd::IommuDevice::iommufd(&of).is_same(&self.ours) {
            return Err(invalid("it is bound to another iommufd"));
        }
        let file = File::from(device.try_clone_fd()?);
        let is_theirs = mapper == Mapper::VfioIoctls;
        if is_theirs {
            // The kernel would replace an attachment without a word; vfio-core refuses a second one.
            device.attach(&self.ours.alloc_ioas()?, None)?.detach()?;
        }
        let made = VfioDevice::new_from_bound_fd(file, Arc::clone(&self.theirs), is_theirs);
        let device = made.map_err(|error| on(failed(STEP, error)))?;
        Ok(HandedOver { device, _kvm: kvm })
    }
}

/// A device of `vfio-ioctls`. When it is dropped, `vfio-ioctls` detaches it, and panics if the kernel refuses that, as it may of a device that was pulled.
pub struct HandedOver {
    // Fields drop in this order.
    device: VfioDevice,
    _kvm: Option<KvmFile>,
}

impl Deref for HandedOver {
    type Target = VfioDevice;

    fn deref(&self) -> &VfioDevice {
        &self.device
    }
}

impl fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedOver").finish_non_exhaustive()
    }
}

fn failed(step: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(step, ErrorKind::Io(std::io::Error::other(error)))
}

impl fmt::Debug for SharedIommufd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedIommufd").field(&self.ours).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pci::GroupId;
    use vfio_core::fake::{Copier, Machine};

    #[test]
    fn what_no_kernel_has_is_not_shared() {
        let bdf = "0000:01:00.0".parse().unwrap();
        let machine = Machine::builder().device(bdf, GroupId(7), Copier::new()).build();
        let iommufd = Iommufd::open(&machine.system()).unwrap();
        let error = SharedIommufd::new(&iommufd).unwrap_err();
        assert!(error.to_string().contains("not supported"), "{error}");
    }
}
