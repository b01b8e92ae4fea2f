//! iommufd: I/O address spaces, page tables in hardware, and what else one IOMMU context holds.
//!
//! An [`Iommufd`] is an open `/dev/iommu`. In it, an [`Ioas`] says which memory is found at which IOVA, and each [`Mapping`] is one
//! such piece of memory, held alive until it is unmapped. A device that is attached to an `Ioas` gets a page table that the kernel makes; an
//! [`Hwpt`] is one that is made on purpose, to track dirty pages ([`DirtyBitmap`](crate::DirtyBitmap)), to get page requests
//! ([`FaultQueue`]), to be used with PASIDs, or to be nested under a guest's own table. [`Viommu`], [`Vdevice`], [`VeventQueue`] and [`HwQueue`]
//! are slices of an IOMMU for a virtual machine.
//!
//! Every object holds what it depends on, so any order of dropping is right. Follows `include/uapi/linux/iommufd.h` of Linux 7.3.

mod command;
mod fault;
mod hw_info;
mod hwpt;
mod invalidate;
mod ioas;
mod mapping;
mod object;
mod ranges;
#[cfg(feature = "selftest")]
pub mod selftest;
#[cfg(test)]
mod tests;
mod vevent;
mod viommu;

pub use fault::{FaultQueue, PageAccess, PageRequest, PageRequestGroup, Response};
pub use hw_info::{HwCapabilities, HwInfo, HwInfoData, HwInfoKind};
pub use hwpt::{Hwpt, HwptData, HwptFlags, HwptParent, VtdS1Flags};
pub use invalidate::{InvalidateError, Invalidation, VtdS1Invalidation};
pub use ioas::{Ioas, Placement};
pub use mapping::Mapping;
pub use object::{IommuDevice, Object, ObjectId, PageTable};
pub use ranges::IovaRanges;
pub use vevent::{Vevent, VeventKind, VeventQueue};
pub use viommu::{HwQueue, HwQueueKind, ObjectMap, Vdevice, Viommu, ViommuKind};

use crate::sys::iommufd::{Calls, Descriptor};
use crate::sys::space::Sharing;
use crate::system::CHECK_MEMLOCK;
use crate::{Error, ErrorKind, System};
pub(crate) use object::sealed;
use object::{Orphans, Parent};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// `enum iommufd_option`.
const OPTION_RLIMIT_MODE: u32 = 0;
const OPTION_HUGE_PAGES: u32 = 1;

/// An open `/dev/iommu`. Cheap to clone; closed with the last clone and the last object made from it.
///
/// ```no_run
/// use std::sync::Arc;
/// use vfio_core::iommufd::{Iommufd, Placement};
/// use vfio_core::{Access, Memory, MemoryOptions, System};
///
/// let iommufd = Iommufd::open(&System::host())?;
/// let ioas = iommufd.alloc_ioas()?;
/// let memory = Arc::new(Memory::new(1 << 20, MemoryOptions::default())?);
/// let mapping = ioas.map(memory.clone(), 0..memory.len(), Placement::Any, Access::READ | Access::WRITE)?;
/// println!("a device that is attached to it finds the memory at {}", mapping.iova());
/// # Ok::<(), vfio_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Iommufd {
    shared: Arc<Shared>,
}

struct Shared {
    calls: Arc<dyn Calls>,
    system: System,
    orphans: Orphans,
    sharing: Arc<Sharing>,
}

/// How pinned memory counts against RLIMIT_MEMLOCK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RlimitMode {
    /// Against what all processes of the user have pinned; the kernel's default.
    User,
    /// Against what the process has locked, as type1 does.
    Process,
}

impl Iommufd {
    /// Opens `/dev/iommu`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] on a kernel without iommufd, [`ErrorKind::Denied`] without the right to open it.
    pub fn open(system: &System) -> Result<Self, Error> {
        let opened = system.files().iommufd(Path::new("/dev/iommu"));
        let calls = opened.map_err(|errno| match errno {
            // No node, or (ENODEV) a static node without the driver.
            Errno::NOENT | Errno::NODEV | Errno::NXIO => command::OPEN.unsupported(errno),
            _ => command::OPEN.error(errno),
        })?;
        Ok(Self::from_calls(calls, system.clone()))
    }

    /// Takes over an open `/dev/iommu`, for example one that a parent process opened.
    #[must_use]
    pub fn from_fd(file: OwnedFd) -> Self {
        let iommufd = Self::from_calls(Arc::new(Descriptor { file }), System::host());
        iommufd.sharing().begin();
        iommufd
    }

    pub(crate) fn from_calls(calls: Arc<dyn Calls>, system: System) -> Self {
        Self {
            shared: Arc::new(Shared {
                calls,
                system,
                orphans: Orphans::default(),
                sharing: Arc::default(),
            }),
        }
    }

    /// Another descriptor of the same iommufd, to hand to another process. What is made or unmapped through it is unknown here: memory whose mapping
    /// somebody else unmaps, or replaces, is leaked, and nothing is [copied](Ioas::copy) any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] on a fake machine; EMFILE without a free descriptor.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, Error> {
        let fail = |kind| Error::new("fcntl F_DUPFD_CLOEXEC", kind);
        self.sharing().begin();
        let duplicate = self.calls().descriptor().map_err(|errno| fail(ErrorKind::Os(errno)))?;
        duplicate.ok_or_else(|| {
            fail(ErrorKind::Unsupported {
                errno: Errno::OPNOTSUPP,
                since: "an iommufd of the running kernel",
            })
        })
    }

    /// Makes an I/O address space, empty.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    #[doc(alias = "IOMMU_IOAS_ALLOC")]
    pub fn alloc_ioas(&self) -> Result<Ioas, Error> {
        let id = self
            .calls()
            .ioas_alloc()
            .map_err(|errno| command::IOAS_ALLOC.error(errno))?;
        Ok(Ioas::new(Object::new(self, id, "IOAS", Vec::new())))
    }

    /// Makes a queue for page requests.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] before Linux 6.11; ENOMEM, EMFILE.
    #[doc(alias = "IOMMU_FAULT_QUEUE_ALLOC")]
    pub fn alloc_fault_queue(&self) -> Result<FaultQueue, Error> {
        let made = self.calls().fault_queue_alloc();
        let (id, queue) = made.map_err(|errno| command::FAULT_QUEUE_ALLOC.error(errno))?;
        Ok(FaultQueue::new(queue, Object::new(self, id, "FAULT", Vec::new())))
    }

    /// What the IOMMU in front of a device offers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] before Linux 6.6, [`ErrorKind::Invalid`] for a device of another iommufd.
    #[doc(alias = "IOMMU_GET_HW_INFO")]
    pub fn hw_info(&self, device: &dyn IommuDevice) -> Result<HwInfo, Error> {
        hw_info::query(self, device, None)
    }

    /// As [`hw_info`](Self::hw_info), with data of one kind, where an IOMMU has several.
    ///
    /// # Errors
    ///
    /// As [`hw_info`](Self::hw_info), and [`ErrorKind::Unsupported`] when the IOMMU has no such data.
    pub fn hw_info_of(&self, device: &dyn IommuDevice, kind: HwInfoKind) -> Result<HwInfo, Error> {
        hw_info::query(self, device, Some(kind))
    }

    /// How pinned memory is counted.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    #[doc(alias = "IOMMU_OPTION_RLIMIT_MODE")]
    pub fn rlimit_mode(&self) -> Result<RlimitMode, Error> {
        match self.calls().option_get(OPTION_RLIMIT_MODE, 0) {
            Ok(0) => Ok(RlimitMode::User),
            Ok(1) => Ok(RlimitMode::Process),
            Ok(_) => Err(command::OPTION.malformed("an unknown mode")),
            Err(errno) => Err(command::OPTION.error(errno)),
        }
    }

    /// Refuses what RLIMIT_MEMLOCK does not let devices reach, before any of it is mapped: `bytes` beside what the process has pinned, or locked, as
    /// memory is [counted](Self::rlimit_mode). What the user's other processes have pinned nobody can read.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MemlockExceeded`] with the limit that is needed.
    pub fn check_memlock(&self, bytes: u64) -> Result<(), Error> {
        let exceeded = self.memlock_exceeded(bytes);
        exceeded.map_or(Ok(()), |kind| Err(Error::new(CHECK_MEMLOCK, kind)))
    }

    pub(super) fn memlock_exceeded(&self, bytes: u64) -> Option<ErrorKind> {
        let system = self.system();
        let used = match self.rlimit_mode() {
            Ok(RlimitMode::Process) => system.files().memlock_used(),
            _ => system.files().pinned(),
        };
        system.memlock_exceeded(used, bytes)
    }

    /// Changes how pinned memory is counted.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] without CAP_SYS_RESOURCE, [`ErrorKind::Busy`] once the iommufd has any object.
    #[doc(alias = "IOMMU_OPTION_RLIMIT_MODE")]
    pub fn set_rlimit_mode(&self, mode: RlimitMode) -> Result<(), Error> {
        let value = match mode {
            RlimitMode::User => 0,
            RlimitMode::Process => 1,
        };
        let set = self.calls().option_set(OPTION_RLIMIT_MODE, 0, value);
        set.map_err(|errno| command::OPTION.error(errno))
    }

    /// Counts all memory that is pinned through this iommufd against the calling process from now on, for example after an update that kept the
    /// devices running. Nothing changes if it fails.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`] with EINVAL if anything is mapped otherwise than by file; ENOMEM beyond the new process's limit.
    #[doc(alias = "IOMMU_IOAS_CHANGE_PROCESS")]
    pub fn change_process(&self) -> Result<(), Error> {
        let changed = self.calls().ioas_change_process();
        changed.map_err(|errno| command::IOAS_CHANGE_PROCESS.error(errno))
    }

    /// The address space that the iommufd uses when it stands in for a VFIO container, if there is one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] on a kernel without this mode.
    #[doc(alias = "IOMMU_VFIO_IOAS_GET")]
    pub fn vfio_ioas(&self) -> Result<Option<ObjectId>, Error> {
        match self.calls().vfio_ioas_get() {
            Ok(id) => Ok(Some(ObjectId(id))),
            Err(Errno::NODEV) => Ok(None),
            Err(errno) => Err(command::VFIO_IOAS.error(errno)),
        }
    }

    /// Sets that address space; it ends with the [`Ioas`]. A container on the same iommufd then unmaps what it likes there, of version 1 also parts
    /// of mappings: memory whose mapping it takes away is leaked.
    ///
    /// # Errors
    ///
    /// As [`vfio_ioas`](Self::vfio_ioas), and [`ErrorKind::Invalid`] for an address space of another iommufd.
    #[doc(alias = "IOMMU_VFIO_IOAS_SET")]
    pub fn set_vfio_ioas(&self, ioas: &Ioas) -> Result<(), Error> {
        self.check_own(ioas.object().iommufd(), command::VFIO_IOAS)?;
        self.sharing().begin();
        let set = self.calls().vfio_ioas_set(ioas.id().0);
        set.map_err(|errno| command::VFIO_IOAS.error(errno))
    }

    /// Clears it.
    ///
    /// # Errors
    ///
    /// As [`vfio_ioas`](Self::vfio_ioas).
    #[doc(alias = "IOMMU_VFIO_IOAS_CLEAR")]
    pub fn clear_vfio_ioas(&self) -> Result<(), Error> {
        let cleared = self.calls().vfio_ioas_clear();
        cleared.map_err(|errno| command::VFIO_IOAS.error(errno))
    }

    /// Whether both are the same open file.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn calls(&self) -> &Arc<dyn Calls> {
        &self.shared.calls
    }

    /// Whether others may have unmapped, or mapped, in its address spaces.
    fn sharing(&self) -> &Arc<Sharing> {
        &self.shared.sharing
    }

    fn orphans(&self) -> &Orphans {
        &self.shared.orphans
    }

    pub(crate) fn system(&self) -> &System {
        &self.shared.system
    }

    /// Numbers mean something in their own iommufd only.
    fn check_own(&self, other: &Self, command: command::Command) -> Result<(), Error> {
        let same = self.is_same(other);
        same.then_some(())
            .ok_or_else(|| command.invalid("an object of another iommufd"))
    }
}

impl fmt::Debug for Iommufd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.calls.fmt(f)
    }
}
