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
//! let shared = SharedIommufd::new(&iommufd, None)?;
//! let file = CdevFile::open_bdf(&system, &pci::Sysfs::host(), "0000:01:10.0".parse().unwrap())?;
//! let device = shared.hand_over(&file.bind(&iommufd, None)?, Mapper::VfioIoctls)?;
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
use std::sync::Arc;
use vfio_core::BoundDevice;
use vfio_core::iommufd::Iommufd;
use vfio_ioctls::{VfioDevice, VfioDeviceFd, VfioIommufd};

/// One iommufd that `vfio-core` and `vfio-ioctls` both have.
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
    /// `vfio-ioctls`: the device is attached to the address space of [`SharedIommufd::vfio_iommufd`], whose mappings are the caller's to prove. It must have no
    /// [`Attachment`](vfio_core::Attachment), which would detach it from there.
    VfioIoctls,
}

const STEP: &str = "hand the device over";

impl SharedIommufd {
    /// Shares an iommufd. With `kvm`, its device of VFIO, each device that is handed over is made known to KVM too; one that KVM knows already is refused then.
    ///
    /// # Errors
    ///
    /// For an iommufd of a fake machine; when no descriptor is left, or no memory for an address space.
    pub fn new(iommufd: &Iommufd, kvm: Option<Arc<VfioDeviceFd>>) -> Result<Self> {
        let theirs = IommuFd::new_from_fd(File::from(iommufd.try_clone_fd()?));
        let theirs = VfioIommufd::new(Arc::new(theirs), None, kvm);
        Ok(Self {
            ours: iommufd.clone(),
            theirs: Arc::new(theirs.map_err(|error| failed("share an iommufd", error))?),
        })
    }

    /// As `vfio-ioctls` has it, with an address space of its own. The same for all devices that are handed over.
    #[must_use]
    pub fn vfio_iommufd(&self) -> &Arc<VfioIommufd> {
        &self.theirs
    }

    /// Makes a device that is bound to this iommufd one of `vfio-ioctls`. It holds the device open, and is to be dropped before it is opened anew: `device` may
    /// go before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a device of another iommufd, and for one that was opened through a group; what `vfio-ioctls` says when the kernel refuses.
    pub fn hand_over(&self, device: &BoundDevice, mapper: Mapper) -> Result<VfioDevice> {
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
        let made = VfioDevice::new_from_bound_fd(file, Arc::clone(&self.theirs), is_theirs);
        made.map_err(|error| on(failed(STEP, error)))
    }
}

fn failed(step: &'static str, error: vfio_ioctls::VfioError) -> Error {
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
        let error = SharedIommufd::new(&iommufd, None).unwrap_err();
        assert!(error.to_string().contains("not supported"), "{error}");
    }
}
