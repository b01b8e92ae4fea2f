//! Groups of a kernel with `CONFIG_VFIO_GROUP`, and opening the devices of one.

use super::Container;
use crate::sys::vfio::{self, GroupCalls};
use crate::unguarded;
use crate::viability::{culprits, explain_denied};
use crate::{BoundDevice, Error, ErrorKind, System, VfToken};
use pci::{Bdf, GroupId};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Whether an [`AttachedGroup`] takes it out of its container one day.
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

const GET_DEVICE: &str = "VFIO_GROUP_GET_DEVICE_FD";

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

    /// Opens `/dev/vfio/noiommu-N`: a group that no IOMMU guards. Its devices go into a [`Container`] with
    /// [`set_no_iommu`](Container::set_no_iommu), or into an iommufd in place of one, where nothing more is asked.
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
    fn proved_id(&self) -> Option<GroupId> {
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

    pub(crate) fn calls(&self) -> &dyn GroupCalls {
        &*self.inner.calls
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.inner.id.map(|id| id.0)).finish()
    }
}

impl Drop for GroupClaim {
    fn drop(&mut self) {
        self.0.inner.is_claimed.store(false, Ordering::Release);
    }
}

/// A group in a container. Leaves it when the last clone, and every device that was opened through it, has gone. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AttachedGroup {
    inner: Arc<Attached>,
}

#[derive(Debug)]
struct Attached {
    // Fields drop in this order, after the group has left the container.
    claim: GroupClaim,
    container: Container,
    /// The kernel's names of the devices that are open.
    open: Mutex<BTreeSet<String>>,
}

/// A device of a group, open. Its name is free again when this is dropped: after its file.
#[derive(Debug)]
pub(crate) struct Member {
    group: AttachedGroup,
    name: String,
}

impl AttachedGroup {
    pub(super) fn new(claim: GroupClaim, container: &Container) -> Self {
        Self {
            inner: Arc::new(Attached {
                claim,
                container: container.clone(),
                open: Mutex::default(),
            }),
        }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.inner.claim.0
    }

    /// The container it is in.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.inner.container
    }

    /// Opens a function of the group, once: what is in use of it is kept track of by the device, of which clones are cheap. `token` is for VFs
    /// whose PF is on vfio-pci, and for that PF; give none to any other function.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a function that is not in the group or not on a VFIO driver; [`ErrorKind::Token`]; [`ErrorKind::Busy`]
    /// while it is open; [`ErrorKind::Invalid`] while the container has no IOMMU; [`ErrorKind::Unsafe`] and [`ErrorKind::GroupNotViable`] where an
    /// iommufd stands in for the container.
    #[doc(alias = "VFIO_GROUP_GET_DEVICE_FD")]
    pub fn device(&self, bdf: Bdf, token: Option<VfToken>) -> Result<BoundDevice, Error> {
        let name = match token {
            Some(token) => format!("{bdf} vf_token={token}"),
            None => bdf.to_string(),
        };
        self.open(&name, Some(bdf), token.is_some())
    }

    /// Opens a device that is no PCI function, such as a mediated one, by its name in `/sys/kernel/iommu_groups/N/devices`.
    ///
    /// # Errors
    ///
    /// As [`device`](Self::device).
    pub fn device_named(&self, name: &str) -> Result<BoundDevice, Error> {
        self.open(name, None, false)
    }

    /// Takes over a device of the group that another process opened. `bdf` says which function it is, for errors; without it the kernel is asked.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] unless the kernel says of the file that it is of this group (`vfio-device-syspath` in `/proc/self/fdinfo`, which
    /// older kernels do not say): [`device`](Self::device) opens it anew. [`ErrorKind::Busy`] while it is open here.
    pub fn adopt_device(&self, file: OwnedFd, bdf: Option<Bdf>) -> Result<BoundDevice, Error> {
        let failed = |kind| Error::new("read /proc/self/fdinfo", kind).on(bdf);
        let name = unguarded::refuse_stranger(self.container().system(), &file, self.group().proved_id());
        let name = name.map_err(failed)?;
        let member = self.member(&name).map_err(failed)?;
        let bdf = bdf.or_else(|| name.parse().ok());
        BoundDevice::in_group(Arc::new(vfio::Device::new(file)), bdf, member)
    }

    /// Claims the name of a device that nobody has open through this value.
    fn member(&self, name: &str) -> Result<Member, ErrorKind> {
        let name = name.to_owned();
        match self.inner.open().insert(name.clone()) {
            true => Ok(Member {
                group: self.clone(),
                name,
            }),
            false => Err(ErrorKind::Busy(Errno::BUSY)),
        }
    }

    fn open(&self, name: &str, bdf: Option<Bdf>, with_token: bool) -> Result<BoundDevice, Error> {
        // What follows the name are options.
        let plain = name.split(' ').next().unwrap_or(name);
        let member = self
            .member(plain)
            .map_err(|kind| Error::new(GET_DEVICE, kind).on(bdf))?;
        let calls = self.group().calls().device(name).map_err(|errno| {
            let kind = match errno {
                Errno::ACCESS => ErrorKind::Token,
                Errno::INVAL if with_token => ErrorKind::Token,
                Errno::INVAL => ErrorKind::Invalid("the container has no IOMMU"),
                // The group has no such device.
                Errno::NODEV => ErrorKind::NotFound(errno),
                Errno::PERM => explain_denied(self.container().system(), bdf, self.group().id()),
                other => ErrorKind::from_errno(other),
            };
            Error::new(GET_DEVICE, kind).on(bdf)
        })?;
        BoundDevice::in_group(calls, bdf, member)
    }
}

impl Attached {
    fn open(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let group = &self.claim.0;
        if let Err(errno) = self.container.remove(group) {
            tracing::error!(group = ?group.id(), %errno, "the group stays in its container until it is closed");
        }
    }
}

impl Member {
    pub(crate) fn group(&self) -> &AttachedGroup {
        &self.group
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.inner.open().remove(&self.name);
    }
}

#[cfg(all(test, feature = "fake"))]
mod tests {
    use super::*;
    use crate::fake::{Copier, Machine};
    use crate::{ContainerPath, IommuType, RegionIndex};

    const GROUP: GroupId = GroupId(7);

    fn bdf() -> Bdf {
        "0000:01:00.0".parse().unwrap()
    }

    fn machine() -> Machine {
        Machine::builder().device(bdf(), GROUP, Copier::new()).build()
    }

    /// The same open file, as another process has it.
    fn twin(group: &Group) -> Group {
        let inner = &group.inner;
        Group::new(Arc::clone(&inner.calls), inner.id, &inner.system, inner.guard)
    }

    fn is_busy<T>(result: Result<T, Error>) -> bool {
        matches!(result.map(drop).unwrap_err().kind, ErrorKind::Busy(_))
    }

    #[test]
    fn a_group_that_is_in_a_container_is_adopted_once() {
        for path in [ContainerPath::Vfio, ContainerPath::Iommu] {
            // One each: the forgotten group stays open.
            let machine = machine();
            let theirs = Group::open(&machine.system(), GROUP).unwrap();
            let group = twin(&theirs);
            let container = Container::open(&machine.system(), path).unwrap();
            let refused = container.adopt(&group).unwrap_err();
            assert!(matches!(refused.kind, ErrorKind::Invalid(_)), "{refused}");
            // As a process leaves it that hands both over.
            std::mem::forget(container.add(&theirs).unwrap());
            container.set_iommu(IommuType::Type1v2).unwrap();
            assert!(matches!(container.add(&group).unwrap_err().kind, ErrorKind::Invalid(_)));
            let adopted = container.adopt(&group).unwrap();
            let other = Container::open(&machine.system(), path).unwrap();
            assert!(is_busy(container.adopt(&group)) && is_busy(other.adopt(&group)));
            assert!(is_busy(container.add(&group)));
            let device = adopted.device(bdf(), None).unwrap();
            let stranger = tempfile::tempfile().unwrap().into();
            assert!(adopted.adopt_device(stranger, None).is_err());
            drop((device, adopted));
            assert!(!group.status().unwrap().contains(GroupStatus::CONTAINER_SET));
            drop(container.add(&group).unwrap());
        }
    }

    #[test]
    fn a_device_of_a_group_is_open_once() {
        let machine = machine();
        let group = Group::open(&machine.system(), GROUP).unwrap();
        let group = Container::with_group(&machine.system(), ContainerPath::Vfio, IommuType::Type1v2, &group).unwrap();
        let device = group.device(bdf(), None).unwrap();
        let token = VfToken([1; 16]);
        assert!(is_busy(group.device(bdf(), None)) && is_busy(group.device(bdf(), Some(token))));
        assert!(is_busy(group.device_named("0000:01:00.0")));
        let region = device.region(RegionIndex::BAR0).unwrap();
        drop(device);
        assert!(is_busy(group.device(bdf(), None)), "the region holds it open");
        drop(region);
        let refused = group.device(bdf(), Some(token)).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Token);
        group.device(bdf(), None).unwrap();
    }
}
