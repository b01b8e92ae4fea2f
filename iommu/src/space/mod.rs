//! Address spaces: which memory devices find where, over iommufd and type1 alike.
//!
//! An [`AddressSpace`] chooses IOVAs, keeps what is mapped alive, and knows where it is ([`AddressSpace::lookup`]). What it maps is
//! held by a [`DmaMapping`] and unmapped when that is dropped. An IOVA is handed out again only after the kernel has unmapped it: if it
//! refuses, the IOVA and the memory are both leaked, and `tracing` gets an error.

mod attach;
mod backend;
mod map;
mod mapping;
mod options;
mod peer;
mod reservation;
mod unmap;
mod writable;

pub use attach::Attached;
pub(crate) use backend::{Backend, Mapped, Source};
pub use mapping::DmaMapping;
pub use options::{MapOptions, Progress, WatchedMap};
pub use peer::PeerMapping;
pub(crate) use reservation::Reservation;
pub(crate) use writable::AllWritable;

use crate::allocator::IovaAllocator;
use crate::dirty::Logs;
use crate::error::Obstacle;
use crate::lookup::Translator;
use crate::sync::{Mutex, MutexGuard, locked};
use crate::{Error, Iova, IovaRange, Result};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};
use vfio_core::iommufd::{Ioas, Iommufd};
use vfio_core::{Access, AttachedGroup, Container, PageSize, RecentMap, StableMemory};

/// Memory for devices, at IOVAs of its own choice. Cheap to clone: clones are the same space.
///
/// ```no_run
/// use iommu::space::{AddressSpace, MapOptions};
/// use std::sync::Arc;
/// use vfio_core::{Access, Memory, MemoryOptions, System, iommufd::Iommufd};
///
/// let space = AddressSpace::iommufd(&Iommufd::open(&System::host())?)?;
/// let memory = Arc::new(Memory::new(1 << 20, MemoryOptions::default())?);
/// let mapping = space.map(&memory, 0..4096, MapOptions::new(Access::READ))?;
/// println!("the device reads at {}", mapping.iova());
/// # Ok::<(), iommu::Error>(())
/// ```
#[derive(Clone)]
pub struct AddressSpace {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Backend,
    allocator: Mutex<IovaAllocator>,
    translator: Translator,
    /// By first IOVA.
    mappings: Mutex<RecentMap<Iova, Box<Entry>>>,
    next_id: AtomicU64,
    /// Shared by those who make or undo one mapping, held alone by those who undo all in a range: what is noted and what is mapped
    /// change together.
    gate: RwLock<()>,
    /// What asks for dirty bits before they go with their mapping.
    logs: Mutex<Vec<Weak<Logs>>>,
    /// For how many reasons nothing may be mapped for reading only.
    all_writable: AtomicU32,
    /// IOVAs that nobody gets any more.
    leaked: Mutex<Vec<IovaRange>>,
    /// Groups that were opened for the space. They stay in its container as long as it lives.
    groups: Mutex<Vec<AttachedGroup>>,
}

/// What is mapped at a range.
#[derive(Debug)]
struct Entry {
    /// Which guard it belongs to.
    id: u64,
    /// Where it is mapped: while a watched map is being made, as far as it is.
    range: IovaRange,
    /// The IOVAs it has.
    taken: IovaRange,
    /// Where the process has the bytes.
    address: Option<usize>,
    access: Access,
    mapped: Mapped,
    /// The pieces that follow the first.
    more: Vec<Mapped>,
    /// Whether the IOVAs are a reservation's, which keeps them.
    is_reserved: bool,
    /// Where the translator has it.
    noted: Option<usize>,
    /// Held longer than the gate, and for the translator's sake where the kernel holds a file.
    memory: Option<Arc<dyn StableMemory>>,
}

impl AddressSpace {
    /// A new address space in an iommufd.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn iommufd(iommufd: &Iommufd) -> Result<Self> {
        Self::from_ioas(iommufd.alloc_ioas()?)
    }

    /// An address space in which nobody else maps: IOVAs are chosen here.
    ///
    /// # Errors
    ///
    /// Those of reading its ranges.
    pub fn from_ioas(ioas: Ioas) -> Result<Self> {
        Self::over(Backend::Iommufd(ioas))
    }

    /// The address space of a container that has a group and an IOMMU, and in which nobody else maps.
    ///
    /// # Errors
    ///
    /// Those of reading its ranges.
    pub fn type1(container: Container) -> Result<Self> {
        Self::over(Backend::Type1(container))
    }

    fn over(backend: Backend) -> Result<Self> {
        let (ranges, granule) = reach(&backend)?;
        let shared = Shared {
            allocator: Mutex::new(IovaAllocator::new(&ranges, granule)?),
            backend,
            translator: Translator::new(),
            mappings: Mutex::new(RecentMap::default()),
            next_id: AtomicU64::new(0),
            gate: RwLock::new(()),
            logs: Mutex::new(Vec::new()),
            all_writable: AtomicU32::new(0),
            leaked: Mutex::new(Vec::new()),
            groups: Mutex::new(Vec::new()),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// IOVA of `len` bytes of this process from `address`, if all of them are mapped here, and contiguously. Takes no lock.
    /// For memory that stays mapped during the call; [`Translator::lookup`] says what is found of memory that is mapped several times.
    #[must_use]
    #[inline]
    pub fn lookup(&self, address: usize, len: usize) -> Option<Iova> {
        self.shared.translator.lookup(address, len)
    }

    /// As [`lookup`](Self::lookup), for a part of `memory`.
    #[must_use]
    pub fn lookup_part(&self, memory: &dyn StableMemory, part: Range<usize>) -> Option<Iova> {
        self.shared.translator.lookup_part(memory, part)
    }

    /// Reads again where mappings may be made, as attaching a device can narrow it. Returns the ranges in use that are no longer
    /// allowed.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn refresh(&self) -> Result<Vec<IovaRange>> {
        // Locked first: of two who refresh, the later one must not note the older answer.
        let mut allocator = locked(&self.shared.allocator);
        let (ranges, granule) = reach(&self.shared.backend)?;
        if granule <= allocator.granule() {
            return Ok(allocator.set_allowed(&ranges));
        }
        if allocator.live() > 0 {
            return Err(Error::Unsupported(
                "an IOMMU with larger pages than those that memory was mapped in",
            ));
        }
        *allocator = IovaAllocator::new(&ranges, granule)?;
        Ok(Vec::new())
    }

    /// Where mappings may be made, as last read.
    #[must_use]
    pub fn allowed(&self) -> Vec<IovaRange> {
        locked(&self.shared.allocator).allowed().collect()
    }

    /// Bytes of which all IOVAs and lengths are multiples.
    #[must_use]
    pub fn granule(&self) -> u64 {
        locked(&self.shared.allocator).granule()
    }

    /// How many mappings there are.
    #[must_use]
    pub fn mappings(&self) -> usize {
        locked(&self.shared.mappings).len()
    }

    /// Refuses what RLIMIT_MEMLOCK does not let devices reach, before any of it is mapped: `bytes` beside those that count already, which each of the
    /// kernel's interfaces counts in its own way.
    ///
    /// # Errors
    ///
    /// [`MemlockExceeded`](vfio_core::ErrorKind::MemlockExceeded) with the limit that is needed.
    pub fn check_memlock(&self, bytes: u64) -> Result<()> {
        match &self.shared.backend {
            Backend::Iommufd(ioas) => Ok(ioas.iommufd().check_memlock(bytes)?),
            Backend::Type1(container) => Ok(container.check_memlock(bytes)?),
            #[cfg(test)]
            Backend::Test(_) => Ok(()),
        }
    }

    /// The kernel object, on iommufd.
    #[must_use]
    pub fn ioas(&self) -> Option<&Ioas> {
        match &self.shared.backend {
            Backend::Iommufd(ioas) => Some(ioas),
            _ => None,
        }
    }

    /// The container, on type1.
    #[must_use]
    pub fn container(&self) -> Option<&Container> {
        match &self.shared.backend {
            Backend::Type1(container) => Some(container),
            _ => None,
        }
    }

    /// The ranges that are mapped, in order.
    #[must_use]
    pub fn mapped(&self) -> Vec<IovaRange> {
        locked(&self.shared.mappings)
            .sorted()
            .values()
            .map(|entry| entry.range)
            .collect()
    }

    /// Groups that were opened for the space, on type1.
    pub(crate) fn groups(&self) -> MutexGuard<'_, Vec<AttachedGroup>> {
        locked(&self.shared.groups)
    }

    /// Whether both are the same space.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Shared {
    fn share(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, range: IovaRange) -> Result<()> {
        locked(&self.allocator).release(range)
    }

    /// IOVAs that nobody gets any more.
    fn leak(&self, range: IovaRange) {
        locked(&self.leaked).push(range);
    }

    /// Refuses a range of which IOVAs are leaked.
    fn check_leaked(&self, range: IovaRange) -> Result<()> {
        let leaked = locked(&self.leaked).iter().any(|leaked| leaked.overlaps(&range));
        let by = Obstacle::Leaked;
        let wanted = range;
        if leaked {
            Err(Error::InUse { wanted, range, by })
        } else {
            Ok(())
        }
    }

    /// Lets the memory be found. What is not in whole pages is not.
    fn note(&self, entry: &mut Entry) {
        let insert = |address: &usize| {
            let noted = self.translator.insert(*address, entry.len(), entry.range.start());
            noted.is_ok()
        };
        entry.noted = entry.noted.filter(insert);
    }

    /// Tells nobody any more where the memory is.
    fn forget(&self, entry: &Entry) {
        if let Some(address) = entry.noted
            && let Err(error) = self.translator.remove(address, entry.len(), entry.range.start())
        {
            tracing::debug!(%error, address, "forgotten already");
        }
    }
}

impl Entry {
    fn len(&self) -> usize {
        usize::try_from(self.range.len_bytes()).unwrap_or(usize::MAX)
    }

    /// Whether any of it is mapped, or all.
    fn is_mapped(&self) -> (bool, bool) {
        let is_first = self.mapped.is_mapped();
        let states = self.more.iter().map(Mapped::is_mapped);
        states.fold((is_first, is_first), |(any, all), is| (any || is, all && is))
    }
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("backend", &self.shared.backend)
            .field("mappings", &self.mappings())
            .finish_non_exhaustive()
    }
}

/// Where mappings may be made, and in which units. Without a device the kernel names no unit, but it pins whole pages.
fn reach(backend: &Backend) -> Result<(Vec<IovaRange>, u64)> {
    let (ranges, alignment) = backend.ranges()?;
    Ok((ranges, alignment.max(PageSize::Base.bytes() as u64)))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watched;
