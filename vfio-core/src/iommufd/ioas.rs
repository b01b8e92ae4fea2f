//! I/O address spaces: which memory devices find where.

use super::command::{self, Command};
use super::mapping::Mapping;
use super::{Iommufd, OPTION_HUGE_PAGES, Object, ObjectId, PageTable, RlimitMode};
use crate::registry::{Entries, Registry, Shared};
use crate::sys::iommufd::Calls;
use crate::{Access, Error, ErrorKind, Iova, IovaRange, StableMemory};
use rustix::io::Errno;
use std::fmt;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

/// An I/O address space. Cheap to clone; destroyed when the last clone, mapping and attachment are gone.
///
/// ```no_run
/// use std::sync::Arc;
/// use vfio_core::iommufd::{Iommufd, Placement};
/// use vfio_core::{Access, Iova, IovaRange, Memory, MemoryOptions, System};
///
/// let ioas = Iommufd::open(&System::host())?.alloc_ioas()?;
/// let memory = Arc::new(Memory::new(8192, MemoryOptions::default())?);
/// let page = |number: u64| Placement::Fixed(Iova(0x10_0000 + number * 4096));
/// let read = ioas.map(memory.clone(), 0..4096, page(0), Access::READ)?;
/// let written = ioas.map(memory, 4096..8192, page(1), Access::WRITE)?;
/// // One call for both; the guards have nothing left to do, whatever is mapped there next.
/// assert_eq!(ioas.unmap(IovaRange::ALL)?, 8192);
/// drop((read, written));
/// # Ok::<(), vfio_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Ioas {
    inner: Arc<Inner>,
}

struct Inner {
    object: Arc<Object>,
    registry: Registry,
}

/// Where a mapping goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// There and nowhere else.
    Fixed(Iova),
    /// Wherever the kernel finds room, as aligned as the memory is. Never at 0.
    Any,
}

impl Ioas {
    pub(super) fn new(object: Arc<Object>) -> Self {
        let registry = Registry::default();
        Self {
            inner: Arc::new(Inner { object, registry }),
        }
    }

    /// The iommufd it is in.
    #[must_use]
    pub fn iommufd(&self) -> &Iommufd {
        self.object().iommufd()
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.inner.object.id()
    }

    /// Maps a part of `memory`, in bytes from its start. The memory is pinned while a device is attached, and held alive until the mapping is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyMapped`], [`ErrorKind::NotAllowed`], [`ErrorKind::MemlockExceeded`]; [`ErrorKind::Invalid`] for a part
    /// outside the memory, no access, or anything off its alignment; [`ErrorKind::Os`] with EOVERFLOW past the end of the address space, ENOSPC
    /// without room, EFAULT where memory cannot be pinned.
    #[doc(alias = "IOMMU_IOAS_MAP")]
    pub fn map(
        &self,
        memory: Arc<dyn StableMemory>,
        part: Range<usize>,
        placement: Placement,
        access: Access,
    ) -> Result<Mapping, Error> {
        let command = command::IOAS_MAP;
        let len = part.end.checked_sub(part.start).filter(|_| part.end <= memory.len());
        let len = len.ok_or_else(|| command.invalid("the part lies outside the memory"))? as u64;
        // Should mapping fail, the memory goes after the lock: what its drop does is not known here.
        let _kept = Arc::clone(&memory);
        let shared = self.registry().share();
        let mapped = self
            .calls()
            .ioas_map(self.id().0, &memory, part, placement.fixed(), access);
        self.enter(&shared, command, mapped, len, placement, access, Some(memory))
    }

    /// Maps `len` bytes of a memfd or of a dma-buf, from byte `start`. The kernel holds the file.
    ///
    /// The exporter of a dma-buf may take it back: vfio-pci does when the device that shows its BAR is reset, switches memory decoding off, goes to low
    /// power or is closed. Devices then find nothing at these IOVAs, for good, and nobody is told: drop the mapping and map the file again when
    /// its memory is back.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); [`ErrorKind::Os`] with EINVAL outside the file or for a file of another kind, ENODEV for a dma-buf whose
    /// exporter has taken it back.
    #[doc(alias = "IOMMU_IOAS_MAP_FILE")]
    pub fn map_file(
        &self,
        file: impl AsFd,
        start: u64,
        len: u64,
        placement: Placement,
        access: Access,
    ) -> Result<Mapping, Error> {
        let command = command::IOAS_MAP_FILE;
        let shared = self.registry().share();
        let calls = self.calls();
        let mapped = calls.ioas_map_file(self.id().0, file.as_fd(), start, len, placement.fixed(), access);
        self.enter(&shared, command, mapped, len, placement, access, None)
    }

    /// Maps here what `from` maps in this or another address space of the same iommufd. Its pages stay pinned once.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); [`ErrorKind::NotMapped`] if `from` was unmapped meanwhile, [`ErrorKind::Invalid`] for write access to what
    /// is mapped without.
    #[doc(alias = "IOMMU_IOAS_COPY")]
    pub fn copy(&self, from: &Mapping, placement: Placement, access: Access) -> Result<Mapping, Error> {
        let command = command::IOAS_COPY;
        let (other, range) = (from.ioas(), from.range());
        let iommufd = self.object().iommufd();
        iommufd.check_own(other.object().iommufd(), command)?;
        self.share_with(other, |here, there| {
            // Somebody else's memory may be in its place by now.
            if !there.is_live(range.start(), from.guard()) {
                return Err(command.fail(ErrorKind::NotMapped(range)));
            }
            let (len, source) = (self.length(range), (other.id().0, range.start().0));
            let copied = self
                .calls()
                .ioas_copy(self.id().0, source, len, placement.fixed(), access);
            match copied {
                Err(Errno::PERM) => Err(command.invalid("write access to what is mapped without")),
                Err(Errno::NOENT) => Err(command.fail(ErrorKind::NotMapped(range))),
                _ => self.enter(here, command, copied, len, placement, access, from.memory().cloned()),
            }
        })
    }

    /// Unmaps all mappings that lie inside a range and returns how many bytes that were. Their guards have nothing left to unmap. Waits for
    /// calls in progress that map here or unmap one mapping, and makes later ones wait.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotMapped`] if the range cuts a mapping, in which case nothing was unmapped, or holds none (except that
    /// [`IovaRange::ALL`] may); [`ErrorKind::Busy`] if a [`HwQueue`](super::HwQueue) uses one of them, [`ErrorKind::ShortUnmap`].
    /// Then some may be unmapped and others not, and each guard knows which.
    #[doc(alias = "IOMMU_IOAS_UNMAP")]
    pub fn unmap(&self, range: IovaRange) -> Result<u64, Error> {
        let command = command::IOAS_UNMAP;
        let not_mapped = || command.fail(ErrorKind::NotMapped(range));
        self.registry().alone(|entries| {
            let inside = entries.inside(range).ok_or_else(not_mapped)?;
            let want = inside
                .iter()
                .fold(0, |sum: u64, entry| sum.saturating_add(self.length(*entry)));
            match self
                .calls()
                .ioas_unmap(self.id().0, range.start().0, self.length(range))
            {
                Ok(got) if got >= want => {
                    inside.iter().for_each(|entry| entries.remove(*entry));
                    Ok(got)
                }
                Ok(got) => {
                    self.sort_out(entries, &inside);
                    Err(command.fail(ErrorKind::ShortUnmap { want, got }))
                }
                Err(errno) => {
                    self.sort_out(entries, &inside);
                    Err(if errno == Errno::NOENT {
                        not_mapped()
                    } else {
                        command.error(errno)
                    })
                }
            }
        })
    }

    /// Whether pages that lie together are joined to larger ones in the page tables.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    #[doc(alias = "IOMMU_OPTION_HUGE_PAGES")]
    pub fn huge_pages(&self) -> Result<bool, Error> {
        match self.calls().option_get(OPTION_HUGE_PAGES, self.id().0) {
            Ok(value) => Ok(value != 0),
            Err(errno) => Err(command::OPTION.error(errno)),
        }
    }

    /// Sets whether they are; they are unless told otherwise.
    ///
    /// # Errors
    ///
    /// What the kernel answers, for example when something is mapped already.
    #[doc(alias = "IOMMU_OPTION_HUGE_PAGES")]
    pub fn set_huge_pages(&self, on: bool) -> Result<(), Error> {
        let set = self.calls().option_set(OPTION_HUGE_PAGES, self.id().0, on.into());
        set.map_err(|errno| command::OPTION.error(errno))
    }

    /// Physical address of an IOVA, and how many bytes from there lie together: for a device without an IOMMU, which must be told
    /// physical addresses. Linux 7.3.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] without CAP_SYS_RAWIO, [`ErrorKind::NotFound`] where nothing is mapped, [`ErrorKind::Unsupported`] where
    /// the device has an IOMMU.
    #[doc(alias = "IOMMU_IOAS_NOIOMMU_GET_PA")]
    pub fn get_pa(&self, iova: Iova) -> Result<(u64, u64), Error> {
        let found = self.calls().ioas_noiommu_get_pa(self.id().0, iova.0);
        found.map_err(|errno| command::IOAS_NOIOMMU_GET_PA.error(errno))
    }

    pub(super) fn calls(&self) -> &dyn Calls {
        self.inner.object.iommufd().calls()
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Length as the kernel counts it: its word for everything is `u64::MAX`.
    pub(super) fn length(&self, range: IovaRange) -> u64 {
        u64::try_from(range.len_bytes()).unwrap_or(u64::MAX)
    }

    /// Makes the guard of a new mapping.
    #[expect(
        clippy::too_many_arguments,
        reason = "one place for what three ways to map have in common"
    )]
    fn enter(
        &self,
        shared: &Shared<'_>,
        command: Command,
        mapped: Result<u64, Errno>,
        len: u64,
        placement: Placement,
        access: Access,
        memory: Option<Arc<dyn StableMemory>>,
    ) -> Result<Mapping, Error> {
        let iova = Iova(mapped.map_err(|errno| self.explain(command, errno, placement, len))?);
        let elsewhere = placement.fixed().is_some_and(|asked| asked != iova.0);
        match IovaRange::new(iova, len) {
            Some(range) if !elsewhere => {
                let guard = shared.enter(range);
                Ok(Mapping::new(self.clone(), range, access, guard, memory))
            }
            _ => {
                tracing::error!(%iova, len, "mapped where it cannot be; the memory is leaked");
                std::mem::forget(memory);
                Err(command.malformed("mapped elsewhere than asked for"))
            }
        }
    }

    /// Says which of its many reasons the kernel had.
    fn explain(&self, command: Command, errno: Errno, placement: Placement, len: u64) -> Error {
        let range = placement.fixed().and_then(|start| IovaRange::new(Iova(start), len));
        match (errno, range) {
            (Errno::EXIST, Some(range)) => command.fail(ErrorKind::AlreadyMapped(range)),
            (Errno::ADDRINUSE | Errno::NOSPC, Some(range)) => command.fail(ErrorKind::NotAllowed(range)),
            (Errno::INVAL, range) => match (self.iova_ranges(), range) {
                (Ok(now), _) if !Iova(placement.fixed().unwrap_or(0) | len).is_aligned_to(now.alignment) => {
                    command.invalid("IOVA or length off the address space's alignment")
                }
                (Ok(now), Some(range)) if !now.contains(&range) => command.fail(ErrorKind::NotAllowed(range)),
                _ => command.error(errno),
            },
            (Errno::NOMEM, _) => {
                let iommufd = self.object().iommufd();
                let files = iommufd.system().files();
                let used = match iommufd.rlimit_mode() {
                    Ok(RlimitMode::Process) => files.memlock_used(),
                    _ => files.pinned(),
                };
                let need = used.saturating_add(len);
                match files.memlock_limit() {
                    Some(limit) if need > limit => command.fail(ErrorKind::MemlockExceeded { need, limit }),
                    _ => command.error(errno),
                }
            }
            _ => command.error(errno),
        }
    }

    /// Finds out which mappings a ranged unmap that failed has left: a copy of a mapping to its own place fails with EEXIST
    /// where it is and with ENOENT where it is not, and changes nothing. Where others have the descriptor, ENOENT may also mean that they left a part.
    fn sort_out(&self, entries: &mut Entries, inside: &[IovaRange]) {
        for entry in inside {
            let (id, start) = (self.id().0, entry.start().0);
            match self
                .calls()
                .ioas_copy(id, (id, start), self.length(*entry), Some(start), Access::READ)
            {
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) if !self.object().iommufd().is_shared() => entries.remove(*entry),
                _ => entries.make_unclear(*entry),
            }
        }
    }

    /// Runs `work` with the registries of both held shared. They are taken in a fixed order: two copies in opposite directions, each with a
    /// ranged unmap waiting, would otherwise wait for each other.
    fn share_with<T>(&self, other: &Self, work: impl FnOnce(&Shared<'_>, &Shared<'_>) -> T) -> T {
        let (here, there) = (Arc::as_ptr(&self.inner), Arc::as_ptr(&other.inner));
        if here == there {
            let both = self.registry().share();
            work(&both, &both)
        } else if here < there {
            let here = self.registry().share();
            work(&here, &other.registry().share())
        } else {
            let there = other.registry().share();
            work(&self.registry().share(), &there)
        }
    }
}

impl PageTable for Ioas {
    fn object(&self) -> &Arc<Object> {
        &self.inner.object
    }
}

impl fmt::Debug for Ioas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.object.fmt(f)
    }
}

impl Placement {
    fn fixed(self) -> Option<u64> {
        match self {
            Self::Fixed(iova) => Some(iova.0),
            Self::Any => None,
        }
    }
}
