//! Address spaces: which memory devices find where, over iommufd and type1 alike.
//!
//! An [`AddressSpace`] chooses IOVAs, keeps what is mapped alive, and knows where it is ([`AddressSpace::lookup`]). What it maps is
//! held by a [`DmaMapping`] and unmapped when that is dropped. An IOVA is handed out again only after the kernel has unmapped it: if it
//! refuses, the IOVA and the memory are both leaked, and `tracing` gets an error.

mod attach;
mod backend;
mod mapping;
mod options;
mod peer;
mod reservation;
mod unmap;
mod writable;

pub use attach::Attached;
pub(crate) use backend::{Backend, Mapped, Source};
pub use mapping::DmaMapping;
pub use options::MapOptions;
pub use peer::PeerMapping;
pub(crate) use reservation::Reservation;
pub(crate) use writable::AllWritable;

use crate::allocator::IovaAllocator;
use crate::dirty::Logs;
use crate::lookup::Translator;
use crate::sync::{Mutex, locked};
use crate::{Error, Iova, IovaRange, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};
use vfio_core::iommufd::{Ioas, Iommufd};
use vfio_core::{Access, Container, Memory, PageSize, StableMemory};

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
    backend: Box<dyn Backend>,
    kind: Kind,
    allocator: Mutex<IovaAllocator>,
    translator: Translator,
    /// By first IOVA.
    mappings: Mutex<BTreeMap<Iova, Entry>>,
    next_id: AtomicU64,
    /// Shared by those who make or undo one mapping, held alone by those who undo all in a range: what is noted and what is mapped
    /// change together.
    gate: RwLock<()>,
    /// What asks for dirty bits before they go with their mapping.
    logs: Mutex<Vec<Weak<Logs>>>,
    /// For how many reasons nothing may be mapped for reading only.
    all_writable: AtomicU32,
}

/// Which of the kernel's interfaces it is on.
#[derive(Debug)]
enum Kind {
    Iommufd(Ioas),
    Type1(Container),
    #[cfg(test)]
    Test,
}

/// What is mapped at a range.
#[derive(Debug)]
struct Entry {
    /// Which guard it belongs to.
    id: u64,
    range: IovaRange,
    /// Where the process has the bytes.
    address: Option<usize>,
    access: Access,
    mapped: Box<dyn Mapped>,
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
        Self::over(Box::new(ioas.clone()), Kind::Iommufd(ioas))
    }

    /// The address space of a container that has a group and an IOMMU, and in which nobody else maps.
    ///
    /// # Errors
    ///
    /// Those of reading its ranges.
    pub fn type1(container: Container) -> Result<Self> {
        Self::over(Box::new(container.clone()), Kind::Type1(container))
    }

    fn over(backend: Box<dyn Backend>, kind: Kind) -> Result<Self> {
        let (ranges, granule) = reach(&*backend)?;
        let shared = Shared {
            allocator: Mutex::new(IovaAllocator::new(&ranges, granule)?),
            backend,
            kind,
            translator: Translator::new(),
            mappings: Mutex::new(BTreeMap::new()),
            next_id: AtomicU64::new(0),
            gate: RwLock::new(()),
            logs: Mutex::new(Vec::new()),
            all_writable: AtomicU32::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Maps a part of memory of the process's own.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], or for a fixed IOVA [`Error::InUse`] and [`Error::NotAllowed`]; [`Error::Invalid`] for a part outside the
    /// memory; [`Error::Unsupported`] for reading only where [`Nesting`](crate::nested::Nesting) does not allow it; the kernel's, among them
    /// [`MemlockExceeded`](vfio_core::ErrorKind::MemlockExceeded). The IOVA is free again then.
    pub fn map(&self, memory: &Arc<Memory>, part: Range<usize>, options: MapOptions) -> Result<DmaMapping> {
        let memory: Arc<dyn StableMemory> = Arc::<Memory>::clone(memory);
        self.map_unowned(memory, part, options)
    }

    /// Maps a part of memory that others may share, by its file where the kernel can: then the mapping outlives this process's own view of
    /// the memory, and can be handed to another process. Elsewhere it is mapped as [`map`](Self::map) does it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for memory that is not [`Shared`](vfio_core::Backing::Shared); those of [`map`](Self::map).
    pub fn map_shared(&self, memory: &Arc<Memory>, part: Range<usize>, options: MapOptions) -> Result<DmaMapping> {
        let file = memory.file().ok_or(Error::Invalid("the memory has no file to share"))?;
        if self.ioas().is_none() {
            return self.map(memory, part, options);
        }
        let len = part_len(&part, memory.len())?;
        let file = file
            .try_clone_to_owned()
            .map_err(|_no_descriptors| Error::Invalid("no file descriptor is left"))?;
        let source = Source::File(file, part.start as u64..part.end as u64);
        let held: Arc<dyn StableMemory> = Arc::<Memory>::clone(memory);
        let address = memory.address().addr() + part.start;
        self.place(&source, len, Some(address), Some(held), options)
    }

    /// Maps a part of memory that is not the process's own in Rust's sense: a guest's, another library's. Whoever implements
    /// [`StableMemory`] promises that it stays where it is; that is where the `unsafe` is.
    ///
    /// # Errors
    ///
    /// Those of [`map`](Self::map).
    pub fn map_unowned(
        &self,
        memory: Arc<dyn StableMemory>,
        part: Range<usize>,
        options: MapOptions,
    ) -> Result<DmaMapping> {
        let len = part_len(&part, memory.len())?;
        let address = memory.address().addr() + part.start;
        let source = Source::Memory(memory, part);
        self.place(&source, len, Some(address), None, options)
    }

    /// Maps a dma-buf, for example a part of another function's BAR.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on type1; those of [`map`](Self::map).
    pub fn map_dma_buf(&self, file: OwnedFd, len: u64, options: MapOptions) -> Result<DmaMapping> {
        if self.ioas().is_none() {
            return Err(Error::Unsupported("type1 maps no dma-buf; iommufd does"));
        }
        self.place(&Source::File(file, 0..len), len, None, None, options)
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
        let (ranges, granule) = reach(&*self.shared.backend)?;
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

    /// The kernel object, on iommufd.
    #[must_use]
    pub fn ioas(&self) -> Option<&Ioas> {
        match &self.shared.kind {
            Kind::Iommufd(ioas) => Some(ioas),
            _ => None,
        }
    }

    /// The container, on type1.
    #[must_use]
    pub fn container(&self) -> Option<&Container> {
        match &self.shared.kind {
            Kind::Type1(container) => Some(container),
            _ => None,
        }
    }

    /// The ranges that are mapped, in order.
    #[must_use]
    pub fn mapped(&self) -> Vec<IovaRange> {
        locked(&self.shared.mappings)
            .values()
            .map(|entry| entry.range)
            .collect()
    }

    /// Whether both are the same space.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Chooses an IOVA and maps there. `address` is where the process has the bytes.
    fn place(
        &self,
        source: &Source,
        len: u64,
        address: Option<usize>,
        memory: Option<Arc<dyn StableMemory>>,
        options: MapOptions,
    ) -> Result<DmaMapping> {
        let reservation = Reservation::new(self.clone(), self.shared.take(len, &options, address)?);
        let range = reservation.range();
        let _shared = self.shared.share();
        let access = options.access();
        let id = self.enter(source, range, access, address, memory, false)?;
        // From here on the mapping has the IOVAs.
        reservation.leak();
        Ok(DmaMapping::new(self.clone(), range, access, id))
    }

    /// Takes IOVAs without mapping anything.
    pub(crate) fn reserve(&self, len: u64, options: &MapOptions) -> Result<Reservation> {
        Ok(Reservation::new(self.clone(), self.shared.take(len, options, None)?))
    }

    /// Maps memory into a part of a reservation.
    pub(crate) fn map_reserved(
        &self,
        source: &Source,
        range: IovaRange,
        address: Option<usize>,
        access: Access,
    ) -> Result<DmaMapping> {
        let _shared = self.shared.share();
        let id = self.enter(source, range, access, address, None, true)?;
        Ok(DmaMapping::new(self.clone(), range, access, id))
    }

    /// Maps, with the gate held, and notes it; returns the guard's number.
    fn enter(
        &self,
        source: &Source,
        range: IovaRange,
        access: Access,
        address: Option<usize>,
        memory: Option<Arc<dyn StableMemory>>,
        is_reserved: bool,
    ) -> Result<u64> {
        self.check_access(access)?;
        let mapped = self.shared.backend.map(source, range, access)?;
        let held = match source {
            Source::Memory(memory, _) => Some(Arc::clone(memory)),
            Source::File(..) => memory,
        };
        let mut entry = Entry {
            id: self.shared.next_id.fetch_add(1, Ordering::Relaxed),
            range,
            address,
            access,
            mapped,
            is_reserved,
            noted: address,
            memory: held,
        };
        self.shared.note(&mut entry);
        let id = entry.id;
        locked(&self.shared.mappings).insert(range.start(), entry);
        Ok(id)
    }
}

impl Shared {
    fn take(&self, len: u64, options: &MapOptions, address: Option<usize>) -> Result<IovaRange> {
        let mut allocator = locked(&self.allocator);
        if !len.is_multiple_of(allocator.granule()) {
            return Err(Error::Invalid("the length is not a multiple of the IOMMU's page size"));
        }
        match options.iova() {
            Some(iova) if !iova.is_aligned_to(allocator.granule()) => {
                Err(Error::Invalid("the IOVA is not a multiple of the IOMMU's page size"))
            }
            Some(iova) => {
                let range = IovaRange::new(iova, len).ok_or(Error::Invalid("the IOVAs overflow"))?;
                allocator.reserve(range)
            }
            None => allocator.allocate(options.request(len, address)),
        }
    }

    fn share(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, range: IovaRange) -> Result<()> {
        locked(&self.allocator).release(range)
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
fn reach(backend: &dyn Backend) -> Result<(Vec<IovaRange>, u64)> {
    let (ranges, alignment) = backend.ranges()?;
    Ok((ranges, alignment.max(PageSize::Base.bytes() as u64)))
}

/// Bytes of a part, at least one, that lies inside memory of `len` bytes.
fn part_len(part: &Range<usize>, len: usize) -> Result<u64> {
    if part.start >= part.end || part.end > len {
        return Err(Error::Invalid("no part of the memory"));
    }
    Ok(part.len() as u64)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
