//! Containers: one address space and the groups that use it.

use super::attached::AttachedGroup;
use super::group::{Group, GroupStatus};
use crate::info::ContainerInfo;
use crate::sys::space::{Space, Type1Table};
use crate::sys::vfio::{self, ContainerCalls};
use crate::viability::explain_denied;
use crate::{Error, ErrorKind, System};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which file stands for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerPath {
    /// `/dev/vfio/vfio`: the kernel's own type1.
    Vfio,
    /// `/dev/iommu`: an iommufd that behaves like type1. It keeps no log of dirty pages and maps no BARs.
    Iommu,
}

/// The IOMMU of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IommuType {
    /// Version 1. Superpages are off in an iommufd that behaves like it.
    Type1 = 1,
    /// Version 2: mappings are unmapped as they were made.
    Type1v2 = 3,
}

/// An address space for the devices of groups. Cheap to clone; closed with the last clone, mapping and group.
///
/// ```no_run
/// use std::sync::Arc;
/// use vfio_core::{Access, Container, ContainerPath, Group, IommuType, Iova, Memory, MemoryOptions, System};
///
/// let system = System::host();
/// let container = Container::open(&system, ContainerPath::Vfio)?;
/// let group = container.add(&Group::open(&system, pci::GroupId(7))?)?;
/// container.set_iommu(IommuType::Type1v2)?;
/// let device = group.device("0000:01:00.0".parse().unwrap(), None)?;
/// let memory = Arc::new(Memory::new(1 << 20, MemoryOptions::default())?);
/// let mapping = container.map(memory, 0..1 << 20, Iova(1 << 20), Access::READ | Access::WRITE)?;
/// # Ok::<(), vfio_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Container {
    inner: Arc<Inner>,
}

struct Inner {
    calls: Arc<dyn ContainerCalls>,
    path: ContainerPath,
    system: System,
    space: Arc<Space<Type1Table>>,
    /// Held while a group comes or goes.
    groups: Mutex<()>,
}

/// `VFIO_API_VERSION`.
const API_VERSION: i32 = 0;

impl Container {
    /// Opens a container, without groups.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the kernel has none of this kind (or the module `vfio` is not loaded), [`ErrorKind::Denied`];
    /// [`ErrorKind::Unsupported`] when it speaks another version.
    pub fn open(system: &System, path: ContainerPath) -> Result<Self, Error> {
        let step = match path {
            ContainerPath::Vfio => "open /dev/vfio/vfio",
            ContainerPath::Iommu => "open /dev/iommu",
        };
        let file = step.strip_prefix("open ").unwrap_or_default();
        let calls = system.files().container(Path::new(file));
        let calls = calls.map_err(|errno| {
            let kind = match errno {
                // A static node without the driver.
                Errno::NODEV | Errno::NXIO => ErrorKind::Unsupported {
                    errno,
                    since: "the module vfio, or iommufd",
                },
                other => ErrorKind::from_errno(other),
            };
            Error::new(step, kind)
        })?;
        let container = Self::new(calls, path, system);
        container.check_version()?;
        Ok(container)
    }

    /// Takes over a container that another process opened, with the groups that are in it ([`adopt`](Self::adopt)) and what is mapped: neither
    /// is known here.
    #[must_use]
    pub fn from_fd(file: OwnedFd, path: ContainerPath) -> Self {
        Self::new(Arc::new(vfio::Container::new(file)), path, &System::host())
    }

    /// Opens a container, adds a group and sets the IOMMU.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), [`add`](Self::add) and [`set_iommu`](Self::set_iommu).
    pub fn with_group(
        system: &System,
        path: ContainerPath,
        kind: IommuType,
        group: &Group,
    ) -> Result<AttachedGroup, Error> {
        let container = Self::open(system, path)?;
        let attached = container.add(group)?;
        container.set_iommu(kind)?;
        Ok(attached)
    }

    fn new(calls: Arc<dyn ContainerCalls>, path: ContainerPath, system: &System) -> Self {
        let space = Space::new(Type1Table::new(Arc::clone(&calls)));
        Self {
            inner: Arc::new(Inner {
                calls,
                path,
                system: system.clone(),
                space,
                groups: Mutex::default(),
            }),
        }
    }

    fn check_version(&self) -> Result<(), Error> {
        let failed = |kind| Error::new("VFIO_GET_API_VERSION", kind);
        match self.calls().api_version() {
            Ok(API_VERSION) => Ok(()),
            Ok(_) => Err(failed(ErrorKind::Unsupported {
                errno: Errno::PROTONOSUPPORT,
                since: "version 0 of the VFIO API",
            })),
            // An iommufd without the compatible mode.
            Err(errno @ Errno::NOTTY) => Err(failed(ErrorKind::Unsupported {
                errno,
                since: "Linux 6.2 with CONFIG_IOMMUFD and CONFIG_VFIO_GROUP",
            })),
            Err(errno) => Err(failed(ErrorKind::from_errno(errno))),
        }
    }

    /// Which file stands for it.
    #[must_use]
    pub fn path(&self) -> ContainerPath {
        self.inner.path
    }

    /// Whether both are the same container.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether the kernel offers an IOMMU of this type.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    #[doc(alias = "VFIO_CHECK_EXTENSION")]
    pub fn offers(&self, kind: IommuType) -> Result<bool, Error> {
        self.has_extension(kind as u32)
    }

    pub(crate) fn has_extension(&self, number: u32) -> Result<bool, Error> {
        let answer = self.calls().check_extension(number);
        let answer = answer.map_err(|errno| Error::new("VFIO_CHECK_EXTENSION", ErrorKind::from_errno(errno)))?;
        Ok(answer > 0)
    }

    /// Adds a group. It leaves when what is returned, and every device that was opened through it, has gone; with the last group the kernel
    /// unmaps everything (not if the container is an iommufd).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::GroupNotViable`] while a function of the group is on a host driver; [`ErrorKind::Busy`] while an [`AttachedGroup`] of it lives,
    /// and [`ErrorKind::Invalid`] for a group that is in a container without one; [`ErrorKind::Unsafe`] when the container has an IOMMU and this group's interrupts cannot be isolated.
    #[doc(alias = "VFIO_GROUP_SET_CONTAINER")]
    pub fn add(&self, group: &Group) -> Result<AttachedGroup, Error> {
        const STEP: &str = "VFIO_GROUP_SET_CONTAINER";
        group.refuse_unguarded().map_err(|kind| Error::new(STEP, kind))?;
        let claim = group.claim().map_err(|kind| Error::new(STEP, kind))?;
        let joined = {
            let _coming = self.groups();
            group.calls().set_container(&*self.inner.calls)
        };
        joined.map_err(|errno| {
            let kind = match errno {
                Errno::PERM => match (group.id(), group.viable()) {
                    (Some(group_id), Ok(false)) => ErrorKind::GroupNotViable {
                        group: group_id,
                        culprits: group.culprits(),
                    },
                    _ => explain_denied(&self.inner.system, None, group.id()),
                },
                Errno::INVAL => ErrorKind::Invalid("the group is in a container, or this is none"),
                other => ErrorKind::from_errno(other),
            };
            Error::new(STEP, kind)
        })?;
        Ok(AttachedGroup::new(claim, self))
    }

    /// Takes charge of a group that is in the container already, where another process opened both and handed them over. It leaves as one that
    /// was [added](Self::add).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a group that is in no container, and for one that no IOMMU guards; [`ErrorKind::Busy`] while an
    /// [`AttachedGroup`] of it lives, of whichever container. Which container it is in the kernel does not tell: the caller knows it.
    pub fn adopt(&self, group: &Group) -> Result<AttachedGroup, Error> {
        let failed = |kind| Error::new("VFIO_GROUP_GET_STATUS", kind);
        group.refuse_unguarded().map_err(failed)?;
        let claim = group.claim().map_err(failed)?;
        if !group.status()?.contains(GroupStatus::CONTAINER_SET) {
            return Err(failed(ErrorKind::Invalid("the group is in no container")));
        }
        Ok(AttachedGroup::new(claim, self))
    }

    /// Takes a group out; whatever it still had mapped is gone if it was the last.
    pub(super) fn remove(&self, group: &Group) -> Result<(), Errno> {
        let _going = self.groups();
        match self.inner.path {
            ContainerPath::Vfio => self.space().leave(|| group.calls().unset_container()),
            // What is mapped stays.
            ContainerPath::Iommu => group.calls().unset_container(),
        }
    }

    /// Gives the container an IOMMU, which it keeps while it has groups.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsafe`] where interrupts cannot be isolated (EPERM); [`ErrorKind::Invalid`] without a group;
    /// [`ErrorKind::Unsupported`] when the kernel has none of this type.
    #[doc(alias = "VFIO_SET_IOMMU")]
    pub fn set_iommu(&self, kind: IommuType) -> Result<(), Error> {
        self.set_any(kind as u32)
    }

    /// Runs the container without an IOMMU.
    ///
    /// # Safety
    ///
    /// The devices reach all memory of the machine, this process's included: they are never told to access any but memory that was made for
    /// them and is locked at the time.
    ///
    /// # Errors
    ///
    /// As [`set_iommu`](Self::set_iommu); [`ErrorKind::Denied`] without `CAP_SYS_RAWIO`.
    #[cfg(feature = "noiommu")]
    #[doc(alias = "VFIO_NOIOMMU_IOMMU")]
    #[expect(unsafe_code, reason = "nothing but the caller guards memory")]
    pub unsafe fn set_no_iommu(&self) -> Result<(), Error> {
        self.set_any(NO_IOMMU)
    }

    fn set_any(&self, kind: u32) -> Result<(), Error> {
        self.calls().set_iommu(kind).map_err(|errno| {
            let kind = match errno {
                Errno::PERM => ErrorKind::Unsafe(errno),
                Errno::INVAL => ErrorKind::Invalid("the container has no group, or an IOMMU already"),
                Errno::NODEV | Errno::NOTTY => ErrorKind::Unsupported {
                    errno,
                    since: "a container of a group, and the module vfio_iommu_type1",
                },
                other => ErrorKind::from_errno(other),
            };
            Error::new("VFIO_SET_IOMMU", kind)
        })
    }

    /// Page sizes, allowed IOVAs, free mappings, dirty logging. To be asked again after each group that is added.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`]; the kernel's errno without an IOMMU.
    #[doc(alias = "VFIO_IOMMU_GET_INFO")]
    pub fn info(&self) -> Result<ContainerInfo, Error> {
        let failed = |kind| Error::new("VFIO_IOMMU_GET_INFO", kind);
        let answer = self
            .calls()
            .info()
            .map_err(|errno| failed(ErrorKind::from_errno(errno)))?;
        ContainerInfo::parse(&answer).map_err(failed)
    }

    /// Another descriptor of the same container, to hand to another process. What is mapped or unmapped through it is unknown here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] of a fake machine; when the process has no descriptors left.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, Error> {
        let failed = |kind| Error::new("fcntl F_DUPFD_CLOEXEC", kind);
        let file = self
            .calls()
            .descriptor()
            .map_err(|errno| failed(ErrorKind::from_errno(errno)))?;
        let unsupported = ErrorKind::Unsupported {
            errno: Errno::OPNOTSUPP,
            since: "the running kernel",
        };
        file.ok_or_else(|| failed(unsupported))
    }

    pub(super) fn calls(&self) -> &dyn ContainerCalls {
        &*self.inner.calls
    }

    pub(super) fn space(&self) -> &Arc<Space<Type1Table>> {
        &self.inner.space
    }

    pub(super) fn system(&self) -> &System {
        &self.inner.system
    }

    fn groups(&self) -> MutexGuard<'_, ()> {
        self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(feature = "noiommu")]
const NO_IOMMU: u32 = 8;

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.calls.fmt(f)
    }
}

#[cfg(all(test, feature = "fake"))]
mod tests {
    use super::*;
    use crate::fake::{Copier, Machine};
    use crate::sys::located::tests::Asked;
    use crate::{Access, Iova, Memory, MemoryOptions};
    use pci::GroupId;

    #[test]
    fn what_another_process_put_there_keeps_mappings_alive() {
        let builder = Machine::builder().device("0000:01:00.0".parse().unwrap(), GroupId(7), Copier::new());
        let machine = builder
            .device("0000:02:00.0".parse().unwrap(), GroupId(8), Copier::new())
            .build();
        let system = machine.system();
        let group = |id| Group::open(&system, GroupId(id)).unwrap();
        let theirs = Container::with_group(&system, ContainerPath::Vfio, IommuType::Type1v2, &group(8)).unwrap();
        let calls = Arc::clone(&theirs.container().inner.calls);
        let ours = Container::new(calls, ContainerPath::Vfio, &system);
        let own = ours.add(&group(7)).unwrap();
        let memory = Arc::new(Memory::new(1 << 16, MemoryOptions::default()).unwrap());
        let mapping = ours
            .map(memory, 0..1 << 16, Iova(1 << 20), Access::READ | Access::WRITE)
            .unwrap();
        drop(own);
        let range = mapping.range();
        mapping.unmap().unwrap();
        assert_eq!(theirs.container().unmap(range).unwrap(), 0, "its guard has unmapped it");
    }

    #[test]
    fn bytes_of_others_do_not_stand_for_our_own() {
        let machine = Machine::builder()
            .device("0000:01:00.0".parse().unwrap(), GroupId(7), Copier::new())
            .build();
        let system = machine.system();
        let group = Group::open(&system, GroupId(7)).unwrap();
        let attached = Container::with_group(&system, ContainerPath::Vfio, IommuType::Type1v2, &group).unwrap();
        let ours = attached.container();
        let theirs = Container::new(Arc::clone(&ours.inner.calls), ContainerPath::Vfio, &system);
        let memory = Arc::new(Memory::new(1 << 16, MemoryOptions::default()).unwrap());
        let map = |container: &Container, start| {
            let memory: Arc<Memory> = Arc::clone(&memory);
            container.map(memory, 0..1 << 16, Iova(start), Access::READ).unwrap()
        };
        let (own, other) = (map(ours, 1 << 20), map(&theirs, 2 << 20));
        // More than is known here: whether that is all of it nobody can tell.
        let (want, got) = (1 << 16, 2 << 16);
        assert_eq!(ours.unmap_all().unwrap_err().kind, ErrorKind::ShortUnmap { want, got });
        assert!(!own.is_mapped());
        own.unmap().unwrap_err();
        other.unmap().unwrap_err();
        assert_eq!(Arc::strong_count(&memory), 3, "both are leaked");
    }

    #[test]
    fn memory_is_asked_with_nothing_locked() {
        let machine = Machine::builder()
            .device("0000:01:00.0".parse().unwrap(), GroupId(7), Copier::new())
            .build();
        let system = machine.system();
        let group = Group::open(&system, GroupId(7)).unwrap();
        let attached = Container::with_group(&system, ContainerPath::Vfio, IommuType::Type1v2, &group).unwrap();
        let container = attached.container();
        let asking = container.clone();
        let memory = Asked::shared(move || assert_eq!(asking.space().is_open_for(), (true, true)));
        let map = |start| container.map(Arc::clone(&memory), 0..4096, Iova(start), Access::READ);
        drop(map(1 << 20).unwrap());
        let refused = map((1 << 20) + 8).unwrap_err();
        let expected = "VFIO_IOMMU_MAP_DMA: the IOVA must be a multiple of 0x1000, and is 0x100008";
        assert_eq!(refused.to_string(), expected);
    }
}
