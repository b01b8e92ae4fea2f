//! I/O address spaces: which memory devices find where.

use super::command::{self, Command};
use super::mapping::Mapping;
use super::object::sealed;
use super::{Iommufd, OPTION_HUGE_PAGES, Object, ObjectId, PageTable};
use crate::error::misaligned;
use crate::sys::iommufd::Calls;
use crate::sys::located::Located;
use crate::sys::space::{self, Failed, IoasTable, Loan, NotLent, Space};
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
    space: Arc<Space<IoasTable>>,
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
        let iommufd = object.iommufd();
        let (calls, sharing) = (Arc::clone(iommufd.calls()), Arc::clone(iommufd.sharing()));
        let table = IoasTable::new(calls, object.id().0, sharing);
        let space = Space::new(table);
        Self {
            inner: Arc::new(Inner { object, space }),
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
    /// outside the memory, of no bytes or without access, [`ErrorKind::Misaligned`]; [`ErrorKind::Os`] with EOVERFLOW past the end of the address space, ENOSPC
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
        let located = Located::new(memory);
        let len = part.end.checked_sub(part.start).filter(|_| part.end <= located.len());
        let len = len.ok_or_else(|| command.invalid("the part lies outside the memory"))? as u64;
        check(command, len, access)?;
        let first = located.address().addr().wrapping_add(part.start) as u64;
        let lent = self.space().map(located, part, placement.fixed(), access);
        self.guard(command, lent, len, placement, access, Some(("address", first)))
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
        check(command, len, access)?;
        let file = file.as_fd();
        let lent = self.space().map_file(file, start, len, placement.fixed(), access);
        self.guard(command, lent, len, placement, access, Some(("offset", start)))
    }

    /// Maps here what `from` maps in this or another address space of the same iommufd. Its pages stay pinned once.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); [`ErrorKind::NotMapped`] if `from` was unmapped meanwhile, [`ErrorKind::Invalid`] for write access to what
    /// is mapped without, and once others may have a descriptor of the iommufd ([`Iommufd::from_fd`], [`Iommufd::try_clone_fd`],
    /// [`Iommufd::set_vfio_ioas`]): what is there may be theirs, and may go while devices still reach the copy.
    #[doc(alias = "IOMMU_IOAS_COPY")]
    pub fn copy(&self, from: &Mapping, placement: Placement, access: Access) -> Result<Mapping, Error> {
        let command = command::IOAS_COPY;
        let (other, range) = (from.ioas(), from.range());
        let iommufd = self.object().iommufd();
        iommufd.check_own(other.object().iommufd(), command)?;
        check(command, 1, access)?;
        let not_mapped = || command.fail(ErrorKind::NotMapped(range));
        let lent = self
            .space()
            .copy(from.loan().ok_or_else(not_mapped)?, placement.fixed(), access);
        match lent {
            Err(NotLent::Kernel(Errno::PERM)) => Err(command.invalid("write access to what is mapped without")),
            Err(NotLent::Kernel(Errno::NOENT)) => Err(not_mapped()),
            Err(NotLent::Kernel(Errno::STALE)) => {
                Err(command.invalid("others may have replaced it: map the memory again"))
            }
            _ => self.guard(command, lent, space::length(range), placement, access, None),
        }
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
        let unmapped = self.space().unmap(range);
        unmapped.map_err(|failed| command::IOAS_UNMAP.fail(unmap_kind(failed, range)))
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
        &**self.inner.object.iommufd().calls()
    }

    pub(super) fn space(&self) -> &Arc<Space<IoasTable>> {
        &self.inner.space
    }

    /// Makes the guard of a new mapping.
    fn guard(
        &self,
        command: Command,
        lent: Result<Loan<IoasTable>, NotLent>,
        len: u64,
        placement: Placement,
        access: Access,
        first: Option<(&'static str, u64)>,
    ) -> Result<Mapping, Error> {
        match lent {
            Ok(loan) => Ok(Mapping::new(self.clone(), access, loan)),
            Err(NotLent::Kernel(errno)) => Err(self.explain(command, errno, placement, len, first)),
            Err(NotLent::Elsewhere(_)) => Err(command.malformed("mapped elsewhere than asked for")),
        }
    }

    /// Says which of its many reasons the kernel had. `first` is where the bytes lie, in the process or in their file, and what that is called.
    fn explain(
        &self,
        command: Command,
        errno: Errno,
        placement: Placement,
        len: u64,
        first: Option<(&'static str, u64)>,
    ) -> Error {
        let range = placement.fixed().and_then(|start| IovaRange::new(Iova(start), len));
        match (errno, range) {
            (Errno::EXIST, Some(range)) => command.fail(ErrorKind::AlreadyMapped(range)),
            (Errno::ADDRINUSE | Errno::NOSPC, Some(range)) => command.fail(ErrorKind::NotAllowed(range)),
            (Errno::INVAL, range) => {
                let Ok(now) = self.iova_ranges() else {
                    return command.error(errno);
                };
                let (what, first) = first.map_or(("address", None), |(what, first)| (what, Some(first)));
                let numbers = [("IOVA", placement.fixed()), ("length", Some(len)), (what, first)];
                match (misaligned(numbers, now.alignment), range) {
                    (Some(kind), _) => command.fail(kind),
                    (None, Some(range)) if !now.contains(&range) => command.fail(ErrorKind::NotAllowed(range)),
                    _ => command.error(errno),
                }
            }
            (Errno::NOMEM, _) => match self.object().iommufd().memlock_exceeded(len) {
                Some(kind) => command.fail(kind),
                None => command.error(errno),
            },
            _ => command.error(errno),
        }
    }
}

impl sealed::Sealed for Ioas {}

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

/// Refuses what no kernel maps, and for which it says no more than EINVAL.
fn check(command: Command, len: u64, access: Access) -> Result<(), Error> {
    if len == 0 {
        return Err(command.invalid("a mapping of no bytes"));
    }
    if access.is_empty() {
        return Err(command.invalid("a mapping that may be neither read nor written"));
    }
    Ok(())
}

impl Placement {
    fn fixed(self) -> Option<u64> {
        match self {
            Self::Fixed(iova) => Some(iova.0),
            Self::Any => None,
        }
    }
}

/// What is said of a range that is not unmapped, besides what the kernel has its own words for.
pub(super) fn unmap_kind(failed: Failed, range: IovaRange) -> ErrorKind {
    match failed {
        Failed::Cut | Failed::Kernel(Errno::NOENT) => ErrorKind::NotMapped(range),
        Failed::Unclear => ErrorKind::Invalid(
            "whether it is mapped cannot be told: a ranged unmap failed, or somebody else mapped here",
        ),
        Failed::Short { want, got } => ErrorKind::ShortUnmap { want, got },
        Failed::Bits(errno) => ErrorKind::DirtyUnknown { range, errno },
        Failed::Kernel(errno) => command::IOAS_UNMAP.error(errno).kind,
    }
}
