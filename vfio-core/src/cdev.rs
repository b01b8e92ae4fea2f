//! The character device of a function, and binding it to an iommufd.
//!
//! Follows `VFIO_DEVICE_BIND_IOMMUFD` of `include/uapi/linux/vfio.h`.

use crate::iommufd::{Iommufd, ObjectId};
use crate::sys::vfio::{Device, DeviceCalls};
use crate::unguarded;
use crate::viability::explain_denied;
use crate::{BoundDevice, Error, ErrorKind, System, VfToken};
use pci::{Bdf, Sysfs};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An open `/dev/vfio/devices/vfioN`, of no use before it is bound.
pub struct CdevFile {
    /// Taken by the device that it was bound as.
    calls: Mutex<Option<Arc<dyn DeviceCalls>>>,
    bdf: Option<Bdf>,
    system: System,
    /// Whether the caller answers for a device that no IOMMU guards.
    unguarded: bool,
}

const BIND: &str = "VFIO_DEVICE_BIND_IOMMUFD";

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

    /// Opens a file by its path: that of a mediated device, for example. Which function it is, errors say as far as `/sys` tells.
    ///
    /// # Errors
    ///
    /// As [`open_bdf`](Self::open_bdf).
    pub fn open(system: &System, path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_path(system, path.as_ref(), None)
    }

    /// Takes over a file that another process opened. `bdf` says which function it is, for errors. A device that no IOMMU guards is refused
    /// when it is bound, and so is any where `/sys` is not there to tell.
    #[must_use]
    pub fn from_fd(file: OwnedFd, bdf: Option<Bdf>) -> Self {
        Self {
            calls: Mutex::new(Some(Arc::new(Device::new(file)))),
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
        if name.as_encoded_bytes().starts_with(unguarded::PREFIX.as_bytes()) {
            return Err(Error::new(format!("open {}", path.display()), unguarded::UNGUARDED).on(bdf));
        }
        Self::open_any(system, path, bdf)
    }

    fn open_any(system: &System, path: &Path, bdf: Option<Bdf>) -> Result<Self, Error> {
        let calls = system.files().cdev(path);
        let calls = calls
            .map_err(|errno| Error::new(format!("open {}", path.display()), ErrorKind::from_errno(errno)).on(bdf))?;
        let bdf = bdf.or_else(|| unguarded::function_of(system, calls.descriptor(), path));
        Ok(Self {
            calls: Mutex::new(Some(calls)),
            bdf,
            system: system.clone(),
            unguarded: false,
        })
    }

    /// The open file, while it is not bound.
    #[cfg(feature = "kvm")]
    pub(crate) fn calls(&self, step: &'static str) -> Result<Arc<dyn DeviceCalls>, Error> {
        let open = self.open_file();
        open.as_ref().map(Arc::clone).ok_or_else(|| self.is_bound(step))
    }

    #[cfg(feature = "kvm")]
    pub(crate) fn bdf(&self) -> Option<Bdf> {
        self.bdf
    }

    fn is_bound(&self, step: &'static str) -> Error {
        let kind = ErrorKind::Invalid("the file belongs to the device that it was bound as");
        Error::new(step, kind).on(self.bdf)
    }

    fn open_file(&self) -> MutexGuard<'_, Option<Arc<dyn DeviceCalls>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds the device to an iommufd, which it stays until it is closed. Its registers and interrupts can be used then; it does DMA only once it is
    /// [attached](BoundDevice::attach) to an address space too. The file is the device's from then on; after an error it can be tried
    /// again. `token` is for VFs whose PF is on vfio-pci, and for that PF; give none to any other function. Linux asks for it here since
    /// 6.17, and before that takes none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Token`]; [`ErrorKind::Unsupported`] for a token on Linux 6.17 and 6.18, which ask for it and cannot read it;
    /// [`ErrorKind::Busy`] while somebody has the device or its group open (EBUSY, EINVAL);
    /// [`ErrorKind::GroupNotViable`] while a function of its group is on a host driver; [`ErrorKind::Unsafe`] where interrupts cannot be
    /// isolated; [`ErrorKind::Invalid`] for a device that no IOMMU guards.
    #[doc(alias = "VFIO_DEVICE_BIND_IOMMUFD")]
    #[doc(alias = "VFIO_DEVICE_BIND_FLAG_TOKEN")]
    pub fn bind(&self, iommufd: &Iommufd, token: Option<VfToken>) -> Result<BoundDevice, Error> {
        let mut open = self.open_file();
        let calls = open.as_ref().ok_or_else(|| self.is_bound(BIND))?;
        if !self.unguarded {
            let guarded = unguarded::refuse(&self.system, calls.descriptor());
            guarded.map_err(|kind| Error::new(BIND, kind).on(self.bdf))?;
        }
        let bound = calls.bind_iommufd(iommufd.calls().number(), token.map(|token| token.0));
        let id = bound.map_err(|errno| {
            let kind = match errno {
                Errno::ACCESS => ErrorKind::Token,
                Errno::INVAL if token.is_some() => ErrorKind::Token,
                // The structure ends before the token there.
                Errno::TOOBIG => ErrorKind::Unsupported {
                    errno,
                    since: "Linux 6.19 to give a token",
                },
                // The iommufd of a machine in memory, or the device.
                Errno::BADF => ErrorKind::Invalid("device and iommufd are not of one system"),
                // What the kernel says of a file that is open twice.
                Errno::INVAL => ErrorKind::Busy(errno),
                Errno::PERM => explain_denied(&self.system, self.bdf, None),
                other => ErrorKind::from_errno(other),
            };
            Error::new(BIND, kind).on(self.bdf)
        })?;
        let device = BoundDevice::on_iommufd(Arc::clone(calls), self.bdf, iommufd, ObjectId(id));
        // Bound for good: it is open as long as the device.
        *open = None;
        device
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
        let mut shown = f.debug_struct("CdevFile");
        shown.field("bdf", &self.bdf);
        shown.field("is_bound", &self.open_file().is_none()).finish()
    }
}
