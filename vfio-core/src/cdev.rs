//! The character device of a function, and binding it to an iommufd.
//!
//! Follows `VFIO_DEVICE_BIND_IOMMUFD` of `include/uapi/linux/vfio.h`.

use crate::iommufd::{Iommufd, ObjectId};
use crate::sys::vfio::{Device, DeviceCalls};
use crate::viability::explain_denied;
use crate::{BoundDevice, Error, ErrorKind, System, VfToken};
use pci::{Bdf, Sysfs};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open `/dev/vfio/devices/vfioN`, of no use before it is bound.
pub struct CdevFile {
    calls: Arc<dyn DeviceCalls>,
    bdf: Option<Bdf>,
    system: System,
    /// Whether the caller answers for a device that no IOMMU guards.
    unguarded: bool,
}

const BIND: &str = "VFIO_DEVICE_BIND_IOMMUFD";

/// What the kernel's name of a device begins with that no IOMMU guards.
const NO_IOMMU: &str = "noiommu-";

const UNGUARDED: ErrorKind = ErrorKind::Invalid("no IOMMU guards the device: it would reach all memory");

impl CdevFile {
    /// Opens the file of a function that is bound to a VFIO driver.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a function that is not, and [`ErrorKind::Unsupported`] on a kernel without `CONFIG_VFIO_DEVICE_CDEV`;
    /// [`ErrorKind::Denied`]; [`ErrorKind::Invalid`] for a function that no IOMMU guards.
    pub fn open_bdf(system: &System, sysfs: &Sysfs, bdf: Bdf) -> Result<Self, Error> {
        let path = path_of(sysfs, bdf)?;
        Self::open_path(system, &path, Some(bdf))
    }

    /// Opens a file by its path: that of a mediated device, for example.
    ///
    /// # Errors
    ///
    /// As [`open_bdf`](Self::open_bdf).
    pub fn open(system: &System, path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_path(system, path.as_ref(), None)
    }

    /// Takes over a file that another process opened. `bdf` says which function it is, for errors. A device that no IOMMU guards is refused
    /// when it is bound, as far as `/sys` is there to tell.
    #[must_use]
    pub fn from_fd(file: OwnedFd, bdf: Option<Bdf>) -> Self {
        Self {
            calls: Arc::new(Device::new(file)),
            bdf,
            system: System::host(),
            unguarded: false,
        }
    }

    /// Opens the file of a device that no IOMMU guards (`noiommu-vfioN`).
    ///
    /// # Safety
    ///
    /// The device reaches all memory of the machine, this process's included: it is never told to access any but memory that was made for it and
    /// is mapped at the time.
    ///
    /// # Errors
    ///
    /// As [`open_bdf`](Self::open_bdf); [`ErrorKind::Denied`] without `CAP_SYS_RAWIO`.
    #[cfg(feature = "noiommu")]
    #[expect(unsafe_code, reason = "nothing but the caller guards memory")]
    pub unsafe fn open_no_iommu(system: &System, path: impl AsRef<Path>, bdf: Option<Bdf>) -> Result<Self, Error> {
        let file = Self::open_any(system, path.as_ref(), bdf)?;
        Ok(Self {
            unguarded: true,
            ..file
        })
    }

    /// Takes over the file of a device that no IOMMU guards.
    ///
    /// # Safety
    ///
    /// As [`open_no_iommu`](Self::open_no_iommu).
    #[cfg(feature = "noiommu")]
    #[must_use]
    #[expect(unsafe_code, reason = "nothing but the caller guards memory")]
    pub unsafe fn from_fd_no_iommu(file: OwnedFd, bdf: Option<Bdf>) -> Self {
        Self {
            unguarded: true,
            ..Self::from_fd(file, bdf)
        }
    }

    fn open_path(system: &System, path: &Path, bdf: Option<Bdf>) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(NO_IOMMU.as_bytes()) {
            return Err(Error::new(format!("open {}", path.display()), UNGUARDED).on(bdf));
        }
        Self::open_any(system, path, bdf)
    }

    fn open_any(system: &System, path: &Path, bdf: Option<Bdf>) -> Result<Self, Error> {
        let calls = system.files().cdev(path);
        let calls = calls
            .map_err(|errno| Error::new(format!("open {}", path.display()), ErrorKind::from_errno(errno)).on(bdf))?;
        Ok(Self {
            calls,
            bdf,
            system: system.clone(),
            unguarded: false,
        })
    }

    /// Whether the kernel's name of the device says that no IOMMU guards it, whatever path it was opened by.
    fn has_no_iommu(&self) -> bool {
        let name = || {
            let file = self.calls.descriptor().ok()??;
            let number = rustix::fs::fstat(&file).ok()?.st_rdev;
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            let link = self.system.sysfs()?.link_name(format!("sys/dev/char/{major}:{minor}"));
            link.ok()
        };
        name().is_some_and(|name| name.starts_with(NO_IOMMU))
    }

    /// Binds the device to an iommufd, which it stays until it is closed. `token` is for VFs whose PF is on vfio-pci, and for that PF; give none
    /// to any other function.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Token`]; [`ErrorKind::Busy`] while somebody has the device or its group open (EBUSY, EINVAL);
    /// [`ErrorKind::GroupNotViable`] while a function of its group is on a host driver; [`ErrorKind::Unsafe`] where interrupts cannot be
    /// isolated; [`ErrorKind::Invalid`] for a device that no IOMMU guards.
    #[doc(alias = "VFIO_DEVICE_BIND_IOMMUFD")]
    #[doc(alias = "VFIO_DEVICE_BIND_FLAG_TOKEN")]
    pub fn bind(self, iommufd: &Iommufd, token: Option<VfToken>) -> Result<BoundDevice, Error> {
        if !self.unguarded && self.has_no_iommu() {
            return Err(Error::new(BIND, UNGUARDED).on(self.bdf));
        }
        let bound = self
            .calls
            .bind_iommufd(iommufd.calls().number(), token.map(|token| token.0));
        let id = bound.map_err(|errno| {
            let kind = match errno {
                Errno::ACCESS => ErrorKind::Token,
                Errno::INVAL if token.is_some() => ErrorKind::Token,
                // What the kernel says of a file that is open twice.
                Errno::INVAL => ErrorKind::Busy(errno),
                Errno::PERM => explain_denied(&self.system, self.bdf, None),
                other => ErrorKind::from_errno(other),
            };
            Error::new(BIND, kind).on(self.bdf)
        })?;
        BoundDevice::on_iommufd(self.calls, self.bdf, iommufd, ObjectId(id))
    }
}

/// The path of a function's file.
fn path_of(sysfs: &Sysfs, bdf: Bdf) -> Result<PathBuf, Error> {
    let directory = format!("sys/bus/pci/devices/{bdf}/vfio-dev");
    let failed = |kind| Error::new(format!("read /{directory}"), kind).on(bdf);
    let names = sysfs.names(&directory).unwrap_or_default();
    let name = names.first().ok_or_else(|| failed(ErrorKind::NotFound(Errno::NOENT)))?;
    let is_node = sysfs.names("dev/vfio/devices").is_ok_and(|nodes| nodes.contains(name));
    if !is_node {
        return Err(failed(ErrorKind::Unsupported {
            errno: Errno::NOENT,
            since: "Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV",
        }));
    }
    Ok(sysfs.path(format!("dev/vfio/devices/{name}")))
}

impl fmt::Debug for CdevFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calls.fmt(f)
    }
}
