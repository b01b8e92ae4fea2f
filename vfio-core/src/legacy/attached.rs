//! A group in a container, and opening its devices.

use super::Container;
use super::group::{Group, GroupClaim};
use crate::sys::vfio;
use crate::unguarded;
use crate::viability::explain_denied;
use crate::{BoundDevice, Error, ErrorKind, VfToken};
use pci::Bdf;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const GET_DEVICE: &str = "VFIO_GROUP_GET_DEVICE_FD";

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
        self.inner.claim.group()
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
        let group = self.claim.group();
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
    use super::super::{ContainerPath, GroupStatus, IommuType};
    use super::*;
    use crate::RegionIndex;
    use crate::fake::{Copier, Machine};
    use pci::{GroupId, RoutingId, Segment};

    const GROUP: GroupId = GroupId(7);
    /// 0000:01:00.0
    const BDF: Bdf = Bdf::new(Segment(0), RoutingId(0x0100));

    fn machine() -> Machine {
        Machine::builder().device(BDF, GROUP, Copier::new()).build()
    }

    fn is_busy<T>(result: Result<T, Error>) -> bool {
        matches!(result, Err(error) if matches!(error.kind, ErrorKind::Busy(_)))
    }

    #[test]
    fn a_group_that_is_in_a_container_is_adopted_once() {
        for path in [ContainerPath::Vfio, ContainerPath::Iommu] {
            // One each: the forgotten group stays open.
            let machine = machine();
            let theirs = Group::open(&machine.system(), GROUP).unwrap();
            let group = theirs.twin();
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
            let device = adopted.device(BDF, None).unwrap();
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
        let device = group.device(BDF, None).unwrap();
        let token = VfToken([1; 16]);
        assert!(is_busy(group.device(BDF, None)) && is_busy(group.device(BDF, Some(token))));
        assert!(is_busy(group.device_named("0000:01:00.0")));
        let region = device.region(RegionIndex::BAR0).unwrap();
        drop(device);
        assert!(is_busy(group.device(BDF, None)), "the region holds it open");
        drop(region);
        let refused = group.device(BDF, Some(token)).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Token);
        group.device(BDF, None).unwrap();
    }
}
