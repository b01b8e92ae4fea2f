//! Groups of a kernel with `CONFIG_VFIO_GROUP`.

use crate::sys::vfio::{self, GroupCalls};
use crate::unguarded;
use crate::viability::culprits;
use crate::{Error, ErrorKind, System};
use pci::{Bdf, GroupId};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An open group. The kernel lets it be opened once. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    inner: Arc<GroupInner>,
}

struct GroupInner {
    calls: Arc<dyn GroupCalls>,
    id: Option<GroupId>,
    system: System,
    guard: Guard,
    /// Whether an [`AttachedGroup`](super::AttachedGroup) takes it out of its container one day.
    is_claimed: AtomicBool,
}

/// The charge of a group. Given back when dropped.
#[derive(Debug)]
pub(super) struct GroupClaim(Group);

/// Whether an IOMMU guards the devices of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// What the kernel says of the file.
    Kernel,
    /// The caller answers for them.
    #[cfg(feature = "noiommu")]
    Caller,
}

bitflags::bitflags! {
    /// The state of a group.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[doc(alias = "vfio_group_status")]
    pub struct GroupStatus: u32 {
        /// Every function of it is on a VFIO driver or without one.
        const VIABLE = 1 << 0;
        /// It is in a container.
        const CONTAINER_SET = 1 << 1;
        const _ = !0;
    }
}

impl Group {
    /// Opens `/dev/vfio/N`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when no function of the group is on a VFIO driver; [`ErrorKind::Busy`] while somebody has it open, or one of
    /// its devices by its character device; [`ErrorKind::Denied`].
    pub fn open(system: &System, id: GroupId) -> Result<Self, Error> {
        Self::open_path(system, &format!("/dev/vfio/{id}"), Some(id), Guard::Kernel)
    }

    /// Opens `/dev/vfio/noiommu-N`: a group that no IOMMU guards. Its devices go into a [`Container`](super::Container) with
    /// [`set_no_iommu`](super::Container::set_no_iommu), or into an iommufd in place of one, where nothing more is asked.
    ///
    /// # Safety
    ///
    /// The devices reach all memory of the machine, this process's included: they are never told to access any but memory that was made for
    /// them and is locked at the time.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); [`ErrorKind::Denied`] without `CAP_SYS_RAWIO`.
    #[cfg(feature = "noiommu")]
    #[expect(unsafe_code, reason = "nothing but the caller guards memory")]
    pub unsafe fn open_no_iommu(system: &System, id: GroupId) -> Result<Self, Error> {
        Self::open_path(system, &format!("/dev/vfio/noiommu-{id}"), Some(id), Guard::Caller)
    }

    /// Takes over a group that another process opened. `id` says which it is, for errors. A group that no IOMMU guards is refused when it is
    /// to go into a container, and so is any where `/sys` is not there to tell.
    #[must_use]
    pub fn from_fd(file: OwnedFd, id: Option<GroupId>) -> Self {
        let calls = Arc::new(vfio::Group::new(file));
        Self::new(calls, id, &System::host(), Guard::Kernel)
    }

    /// Takes over a group that no IOMMU guards.
    ///
    /// # Safety
    ///
    /// As [`open_no_iommu`](Self::open_no_iommu).
    #[cfg(feature = "noiommu")]
    #[must_use]
    #[expect(unsafe_code, reason = "nothing but the caller guards memory")]
    pub unsafe fn from_fd_no_iommu(file: OwnedFd, id: Option<GroupId>) -> Self {
        let calls = Arc::new(vfio::Group::new(file));
        Self::new(calls, id, &System::host(), Guard::Caller)
    }

    fn open_path(system: &System, path: &str, id: Option<GroupId>, guard: Guard) -> Result<Self, Error> {
        let calls = system.files().group(Path::new(path));
        let calls = calls.map_err(|errno| Error::new(format!("open {path}"), ErrorKind::from_errno(errno)))?;
        Ok(Self::new(calls, id, system, guard))
    }

    fn new(calls: Arc<dyn GroupCalls>, id: Option<GroupId>, system: &System, guard: Guard) -> Self {
        let system = system.clone();
        Self {
            inner: Arc::new(GroupInner {
                calls,
                id,
                system,
                guard,
                is_claimed: AtomicBool::new(false),
            }),
        }
    }

    /// Refuses a group that no IOMMU guards, unless the caller answers for it. The file is asked, not the path: any file can be found by any
    /// path.
    pub(super) fn refuse_unguarded(&self) -> Result<(), ErrorKind> {
        match self.inner.guard {
            #[cfg(feature = "noiommu")]
            Guard::Caller => Ok(()),
            Guard::Kernel => unguarded::refuse(&self.inner.system, self.calls().descriptor()),
        }
    }

    /// Its number by what the kernel says of the file.
    pub(super) fn proved_id(&self) -> Option<GroupId> {
        let file = self.calls().descriptor().ok()??;
        unguarded::number_of_group(&self.inner.system, file)
    }

    /// Takes charge of it, while nobody is: of two, the first to go would take the group out under the other.
    pub(super) fn claim(&self) -> Result<GroupClaim, ErrorKind> {
        match self.inner.is_claimed.swap(true, Ordering::AcqRel) {
            false => Ok(GroupClaim(self.clone())),
            true => Err(ErrorKind::Busy(Errno::BUSY)),
        }
    }

    /// Its number; `None` of one handed in without.
    #[must_use]
    pub fn id(&self) -> Option<GroupId> {
        self.inner.id
    }

    /// Its state.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    #[doc(alias = "VFIO_GROUP_GET_STATUS")]
    pub fn status(&self) -> Result<GroupStatus, Error> {
        let status = self.calls().status();
        let status = status.map_err(|errno| Error::new("VFIO_GROUP_GET_STATUS", ErrorKind::from_errno(errno)))?;
        Ok(GroupStatus::from_bits_retain(status))
    }

    /// Whether the kernel would hand it out.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub fn viable(&self) -> Result<bool, Error> {
        Ok(self.status()?.contains(GroupStatus::VIABLE))
    }

    /// The functions that keep it from being handed out, as far as `/sys` tells.
    #[must_use]
    pub fn culprits(&self) -> Vec<Bdf> {
        let of = |id| culprits(&self.inner.system, id);
        self.inner.id.map(of).unwrap_or_default()
    }

    /// The same open file, as another process has it.
    #[cfg(all(test, feature = "fake"))]
    pub(super) fn twin(&self) -> Self {
        let inner = &self.inner;
        Self::new(Arc::clone(&inner.calls), inner.id, &inner.system, inner.guard)
    }

    pub(crate) fn calls(&self) -> &dyn GroupCalls {
        &*self.inner.calls
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.inner.id.map(|id| id.0)).finish()
    }
}

impl GroupClaim {
    pub(super) fn group(&self) -> &Group {
        &self.0
    }
}

impl Drop for GroupClaim {
    fn drop(&mut self) {
        self.0.inner.is_claimed.store(false, Ordering::Release);
    }
}
