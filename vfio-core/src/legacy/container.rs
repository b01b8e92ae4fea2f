//! Containers: one address space and the groups that use it.

use super::group::{AttachedGroup, Group};
use super::mapping::LegacyMapping;
use crate::info::ContainerInfo;
use crate::registry::Registry;
use crate::sys::vfio::{self, ContainerCalls};
use crate::viability::explain_denied;
use crate::{Access, Error, ErrorKind, Iova, IovaRange, StableMemory, System};
use rustix::io::Errno;
use std::fmt;
use std::ops::Range;
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
    registry: Registry,
    /// How many groups are in it. Held while one comes or goes.
    groups: Mutex<usize>,
}

/// `VFIO_API_VERSION`.
const API_VERSION: i32 = 0;

pub(super) const MAP: &str = "VFIO_IOMMU_MAP_DMA";
pub(super) const UNMAP: &str = "VFIO_IOMMU_UNMAP_DMA";

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
        let calls = calls.map_err(|errno| Error::new(step, errno.into()))?;
        let container = Self::new(calls, path, system);
        container.check_version()?;
        Ok(container)
    }

    /// Takes over a container that another process opened, with the groups that are in it and what is mapped: neither is known here.
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
        Self {
            inner: Arc::new(Inner {
                calls,
                path,
                system: system.clone(),
                registry: Registry::default(),
                groups: Mutex::new(0),
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
            Err(errno) => Err(failed(errno.into())),
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
        let answer = answer.map_err(|errno| Error::new("VFIO_CHECK_EXTENSION", errno.into()))?;
        Ok(answer > 0)
    }

    /// Adds a group. It leaves when what is returned, and every device that was opened through it, has gone; with the last group the kernel
    /// unmaps everything (not if the container is an iommufd).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::GroupNotViable`] while a function of the group is on a host driver; [`ErrorKind::Invalid`] for a group that is in a
    /// container; [`ErrorKind::Unsafe`] when the container has an IOMMU and this group's interrupts cannot be isolated.
    #[doc(alias = "VFIO_GROUP_SET_CONTAINER")]
    pub fn add(&self, group: &Group) -> Result<AttachedGroup, Error> {
        const STEP: &str = "VFIO_GROUP_SET_CONTAINER";
        let mut groups = self.groups();
        group.calls().set_container(&*self.inner.calls).map_err(|errno| {
            let kind = match errno {
                Errno::PERM => match (group.id(), group.viable()) {
                    (Some(group_id), Ok(false)) => ErrorKind::GroupNotViable {
                        group: group_id,
                        culprits: group.culprits(),
                    },
                    _ => explain_denied(&self.inner.system, None, group.id()),
                },
                Errno::INVAL => ErrorKind::Invalid("the group is in a container, or this is none"),
                other => other.into(),
            };
            Error::new(STEP, kind)
        })?;
        *groups += 1;
        Ok(AttachedGroup::new(group, self))
    }

    /// Takes a group out; whatever it still had mapped is gone if it was the last.
    pub(super) fn remove(&self, group: &Group) -> Result<(), Errno> {
        let mut groups = self.groups();
        // Nobody maps between the last group's end and the end of what was mapped.
        self.inner.registry.alone(|entries| {
            group.calls().unset_container()?;
            *groups = groups.saturating_sub(1);
            if *groups == 0 && self.inner.path == ContainerPath::Vfio {
                let all = entries.inside(IovaRange::ALL).unwrap_or_default();
                all.into_iter().for_each(|entry| entries.remove(entry));
            }
            Ok(())
        })
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
                other => other.into(),
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
        let answer = self.calls().info().map_err(|errno| failed(errno.into()))?;
        ContainerInfo::parse(&answer).map_err(failed)
    }

    /// Maps a part of `memory`, in bytes from its start. The memory is pinned, and held alive until the mapping is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyMapped`], [`ErrorKind::NotAllowed`], [`ErrorKind::MappingLimit`], [`ErrorKind::MemlockExceeded`];
    /// [`ErrorKind::Invalid`] for a part outside the memory or anything off its alignment; [`ErrorKind::Os`] with EOVERFLOW past the end
    /// of the address space, EFAULT where memory cannot be pinned.
    #[doc(alias = "VFIO_IOMMU_MAP_DMA")]
    pub fn map(
        &self,
        memory: Arc<dyn StableMemory>,
        part: Range<usize>,
        iova: Iova,
        access: Access,
    ) -> Result<LegacyMapping, Error> {
        let invalid = |why| Error::new(MAP, ErrorKind::Invalid(why));
        let len = part.end.checked_sub(part.start).filter(|_| part.end <= memory.len());
        let len = len.ok_or_else(|| invalid("the part lies outside the memory"))? as u64;
        if len == 0 || access.is_empty() {
            return Err(invalid("a mapping of no bytes, or without access"));
        }
        let range = IovaRange::new(iova, len);
        let range = range.ok_or_else(|| Error::new(MAP, ErrorKind::Os(Errno::OVERFLOW)))?;
        let shared = self.inner.registry.share();
        let mapped = self.calls().map_dma(&memory, part, iova.0, access);
        mapped.map_err(|errno| Error::new(MAP, self.explain(errno, range)))?;
        let guard = shared.enter(range);
        Ok(LegacyMapping::new(self.clone(), range, access, guard, memory))
    }

    /// Unmaps all mappings that lie inside a range and returns how many bytes that were, 0 if there are none. Their guards have nothing
    /// left to unmap.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotMapped`] if the range cuts a mapping, in which case nothing was unmapped (also in version 1, where the
    /// kernel would have cut it); [`ErrorKind::ShortUnmap`].
    #[doc(alias = "VFIO_IOMMU_UNMAP_DMA")]
    #[doc(alias = "VFIO_DMA_UNMAP_FLAG_ALL")]
    pub fn unmap(&self, range: IovaRange) -> Result<u64, Error> {
        let failed = |kind| Error::new(UNMAP, kind);
        self.inner.registry.alone(|entries| {
            let inside = entries.inside(range);
            let inside = inside.ok_or_else(|| failed(ErrorKind::NotMapped(range)))?;
            let unmapped = match u64::try_from(range.len_bytes()) {
                Ok(len) => self.calls().unmap_dma(range.start().0, len, None),
                // The one range that has no length.
                Err(_) => self.calls().unmap_all(),
            };
            let got = unmapped.map_err(|errno| failed(unmap_kind(errno, range)))?;
            let want = inside
                .iter()
                .fold(0, |sum: u64, entry| sum.saturating_add(length(*entry)));
            if got < want {
                // Which of them are gone is not told: their guards find out one by one.
                return Err(failed(ErrorKind::ShortUnmap { want, got }));
            }
            inside.into_iter().for_each(|entry| entries.remove(entry));
            Ok(got)
        })
    }

    /// Unmaps everything and returns how many bytes that were.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    pub fn unmap_all(&self) -> Result<u64, Error> {
        self.unmap(IovaRange::ALL)
    }

    /// Another descriptor of the same container, to hand to another process. What is mapped or unmapped through it is unknown here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] of a fake machine; when the process has no descriptors left.
    pub fn try_clone_fd(&self) -> Result<OwnedFd, Error> {
        let failed = |kind| Error::new("fcntl F_DUPFD_CLOEXEC", kind);
        let file = self.calls().descriptor().map_err(|errno| failed(errno.into()))?;
        let unsupported = ErrorKind::Unsupported {
            errno: Errno::OPNOTSUPP,
            since: "the running kernel",
        };
        file.ok_or_else(|| failed(unsupported))
    }

    pub(super) fn calls(&self) -> &dyn ContainerCalls {
        &*self.inner.calls
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    pub(super) fn system(&self) -> &System {
        &self.inner.system
    }

    fn groups(&self) -> MutexGuard<'_, usize> {
        self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which of its reasons the kernel had not to map.
    fn explain(&self, errno: Errno, range: IovaRange) -> ErrorKind {
        let allowed = |info: &ContainerInfo| match &info.iova_ranges {
            Some(ranges) => ranges.iter().any(|allowed| allowed.contains(&range)),
            None => true,
        };
        match errno {
            Errno::EXIST => ErrorKind::AlreadyMapped(range),
            Errno::NOSPC => ErrorKind::MappingLimit,
            Errno::NOMEM => {
                let files = self.inner.system.files();
                let need = files.memlock_used().saturating_add(length(range));
                match files.memlock_limit() {
                    Some(limit) if need > limit => ErrorKind::MemlockExceeded { need, limit },
                    _ => errno.into(),
                }
            }
            Errno::INVAL | Errno::ADDRINUSE => match self.info() {
                Ok(info) if !Iova(range.start().0 | length(range)).is_aligned_to(info.granule()) => {
                    ErrorKind::Invalid("IOVA or length off the IOMMU's page size")
                }
                Ok(info) if !allowed(&info) => ErrorKind::NotAllowed(range),
                _ => errno.into(),
            },
            other => other.into(),
        }
    }
}

#[cfg(feature = "noiommu")]
const NO_IOMMU: u32 = 8;

/// Length of a range that was mapped, which is less than everything.
pub(super) fn length(range: IovaRange) -> u64 {
    u64::try_from(range.len_bytes()).unwrap_or(u64::MAX)
}

pub(super) fn unmap_kind(errno: Errno, range: IovaRange) -> ErrorKind {
    match errno {
        Errno::NOENT | Errno::INVAL => ErrorKind::NotMapped(range),
        other => other.into(),
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.calls.fmt(f)
    }
}
