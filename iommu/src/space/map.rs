//! Mapping: choosing IOVAs, and filling them at once or piece by piece.

use super::{AddressSpace, DmaMapping, Entry, MapOptions, Progress, Reservation, Shared, Source, WatchedMap};
use crate::error::Obstacle;
use crate::sync::locked;
use crate::{Error, Iova, IovaRange, Result, prefault};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vfio_core::{Access, Memory, StableMemory};

/// A watched map is made in pieces that end at multiples of this: no IOMMU has larger pages.
const PIECE: u64 = 1 << 30;

/// What is to be mapped.
struct Whole<'a> {
    source: Source,
    len: u64,
    /// Where the process has the bytes.
    address: Option<usize>,
    /// Held for the look-up's sake where the kernel holds a file.
    memory: Option<Arc<dyn StableMemory>>,
    /// What can be populated, and from where on.
    own: Option<(&'a Memory, usize)>,
}

impl AddressSpace {
    /// Maps a part of memory of the process's own.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], or for a fixed IOVA [`Error::InUse`] and [`Error::NotAllowed`]; [`Error::Invalid`] for a part outside the
    /// memory, and for options that contradict each other; [`Error::Cancelled`]; [`Error::Unsupported`] for reading only where
    /// [`Nesting`](crate::nested::Nesting) does not allow it; the kernel's, among them
    /// [`MemlockExceeded`](vfio_core::ErrorKind::MemlockExceeded). Nothing is mapped then, and the IOVA is free again.
    pub fn map<'a>(
        &self,
        memory: &Arc<Memory>,
        part: Range<usize>,
        options: impl Into<WatchedMap<'a>>,
    ) -> Result<DmaMapping> {
        let held: Arc<dyn StableMemory> = Arc::<Memory>::clone(memory);
        let whole = Whole {
            len: part_len(&part, memory.len())?,
            address: Some(memory.address().addr() + part.start),
            memory: None,
            own: Some((memory, part.start)),
            source: Source::Memory(held, part),
        };
        self.place(&whole, options.into())
    }

    /// Maps a part of memory that others may share, by its file where the kernel can: then the mapping outlives this process's own view of
    /// the memory, and can be handed to another process. Elsewhere it is mapped as [`map`](Self::map) does it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for memory that is not [`Shared`](vfio_core::Backing::Shared); those of [`map`](Self::map).
    pub fn map_shared<'a>(
        &self,
        memory: &Arc<Memory>,
        part: Range<usize>,
        options: impl Into<WatchedMap<'a>>,
    ) -> Result<DmaMapping> {
        let file = memory.file().ok_or(Error::Invalid("the memory has no file to share"))?;
        if self.ioas().is_none() {
            return self.map(memory, part, options);
        }
        let len = part_len(&part, memory.len())?;
        let file = file
            .try_clone_to_owned()
            .map_err(|_no_descriptors| Error::Invalid("no file descriptor is left"))?;
        let held: Arc<dyn StableMemory> = Arc::<Memory>::clone(memory);
        let whole = Whole {
            len,
            address: Some(memory.address().addr() + part.start),
            memory: Some(held),
            own: Some((memory, part.start)),
            source: Source::File(Arc::new(file), part.start as u64..part.end as u64),
        };
        self.place(&whole, options.into())
    }

    /// Maps a part of memory that is not the process's own in Rust's sense: a guest's, another library's. Whoever implements
    /// [`StableMemory`] promises that it stays where it is; that is where the `unsafe` is.
    ///
    /// # Errors
    ///
    /// Those of [`map`](Self::map).
    pub fn map_unowned<'a>(
        &self,
        memory: Arc<dyn StableMemory>,
        part: Range<usize>,
        options: impl Into<WatchedMap<'a>>,
    ) -> Result<DmaMapping> {
        let whole = Whole {
            len: part_len(&part, memory.len())?,
            address: Some(memory.address().addr() + part.start),
            memory: None,
            own: None,
            source: Source::Memory(memory, part),
        };
        self.place(&whole, options.into())
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
        let whole = Whole {
            source: Source::File(Arc::new(file), 0..len),
            len,
            address: None,
            memory: None,
            own: None,
        };
        self.place(&whole, options.into())
    }

    /// Chooses IOVAs and maps there.
    fn place(&self, whole: &Whole<'_>, mut watched: WatchedMap<'_>) -> Result<DmaMapping> {
        let options = watched.options;
        if options.threads().is_some() && whole.own.is_none() {
            return Err(NOT_OWN);
        }
        let taken = self.shared.take(whole.len, &options, whole.address)?;
        let reservation = Reservation::new(self.clone(), taken);
        let mut progress = Progress {
            total: whole.len,
            ..Progress::default()
        };
        let (first, pieces) = match watched.watcher {
            Some(_) => pieces(taken.start(), whole.len),
            None => (0..whole.len, Vec::new()),
        };
        self.populate(whole, &first, &mut watched, &mut progress)?;
        let id = self.begin(whole, &first, taken, options.access())?;
        // From here on the mapping has the IOVAs, and is undone if the rest fails.
        reservation.hand_over();
        let mapping = DmaMapping::new(self.clone(), taken, options.access(), id);
        advance(&mut watched, &mut progress, &first)?;
        for piece in pieces {
            self.populate(whole, &piece, &mut watched, &mut progress)?;
            self.extend(whole, &piece, &mapping, id)?;
            advance(&mut watched, &mut progress, &piece)?;
        }
        if progress.mapped > first.end {
            self.complete(&mapping, id)?;
        }
        Ok(mapping)
    }

    /// Makes the pages of a piece present, if that was asked for.
    fn populate(
        &self,
        whole: &Whole<'_>,
        piece: &Range<u64>,
        watched: &mut WatchedMap<'_>,
        progress: &mut Progress,
    ) -> Result<()> {
        let (Some(threads), Some((memory, start))) = (watched.options.threads(), whole.own) else {
            return Ok(());
        };
        let part = in_memory(start, piece)?;
        prefault::populate_watched(memory, part, threads, |done, _| {
            progress.populated = piece.start + done as u64;
            watched.tell(*progress)
        })
    }

    /// Maps the first piece and notes the mapping, whose look-up begins when it is complete.
    fn begin(&self, whole: &Whole<'_>, piece: &Range<u64>, taken: IovaRange, access: Access) -> Result<u64> {
        let _shared = self.shared.share();
        let entry = NewEntry {
            range: part_of(taken, piece)?,
            taken,
            access,
            address: whole.address,
            noted: whole.address.filter(|_| piece.end == whole.len),
            memory: whole.memory.clone(),
            is_reserved: false,
        };
        if piece.end == whole.len {
            return self.enter(&whole.source, entry);
        }
        self.enter(&whole.source.piece(piece)?, entry)
    }

    /// Maps the next piece, unless what there was so far has been unmapped.
    fn extend(&self, whole: &Whole<'_>, piece: &Range<u64>, mapping: &DmaMapping, id: u64) -> Result<()> {
        // While it is held nothing is unmapped but by its own guard, which is ours.
        let _shared = self.shared.share();
        if !self.is_live(mapping.iova(), id) {
            return Err(Error::Cancelled);
        }
        let range = part_of(mapping.range(), piece)?;
        let source = whole.source.piece(piece)?;
        let mapped = self.shared.backend.map(&source, range, mapping.access())?;
        let mut mappings = locked(&self.shared.mappings);
        let entry = mappings.get_mut(mapping.iova()).ok_or(Error::Cancelled)?;
        entry.more.push(mapped);
        entry.range = IovaRange::from_bounds(mapping.iova(), range.last()).unwrap_or(range);
        Ok(())
    }

    /// Lets a mapping of several pieces be found.
    fn complete(&self, mapping: &DmaMapping, id: u64) -> Result<()> {
        let _shared = self.shared.share();
        let mut mappings = locked(&self.shared.mappings);
        let entry = mappings.get_mut(mapping.iova()).filter(|entry| entry.id == id);
        let entry = entry.filter(|entry| entry.is_mapped().1).ok_or(Error::Cancelled)?;
        entry.noted = entry.address;
        self.shared.note(entry);
        Ok(())
    }

    /// Takes IOVAs without mapping anything.
    pub(crate) fn reserve(&self, len: u64, options: &MapOptions) -> Result<Reservation> {
        if options.threads().is_some() {
            return Err(NOT_OWN);
        }
        Ok(Reservation::new(self.clone(), self.shared.take(len, options, None)?))
    }

    /// Maps memory into a part of a reservation. [`Error::InUse`] where something may still be mapped.
    pub(crate) fn map_reserved(
        &self,
        source: &Source,
        range: IovaRange,
        address: Option<usize>,
        access: Access,
    ) -> Result<DmaMapping> {
        let _shared = self.shared.share();
        self.shared.check_leaked(range)?;
        let entry = NewEntry {
            range,
            taken: range,
            access,
            address,
            noted: address,
            memory: None,
            is_reserved: true,
        };
        let id = self.enter(source, entry)?;
        Ok(DmaMapping::new(self.clone(), range, access, id))
    }

    /// Maps, with the gate held, and notes it; returns the guard's number.
    fn enter(&self, source: &Source, new: NewEntry) -> Result<u64> {
        self.check_access(new.access)?;
        let memory = match source {
            Source::Memory(memory, _) => Some(Arc::clone(memory)),
            Source::File(..) => new.memory,
        };
        let mapped = self.shared.backend.map(source, new.range, new.access)?;
        let mut entry = Box::new(Entry {
            id: self.shared.next_id.fetch_add(1, Ordering::Relaxed),
            range: new.range,
            taken: new.taken,
            address: new.address,
            access: new.access,
            mapped,
            more: Vec::new(),
            is_reserved: new.is_reserved,
            noted: new.noted,
            memory,
        });
        self.shared.note(&mut entry);
        let id = entry.id;
        locked(&self.shared.mappings).insert(new.range.start(), entry);
        Ok(id)
    }
}

/// What is known of an entry before it is mapped.
struct NewEntry {
    range: IovaRange,
    taken: IovaRange,
    access: Access,
    address: Option<usize>,
    noted: Option<usize>,
    memory: Option<Arc<dyn StableMemory>>,
    is_reserved: bool,
}

impl Shared {
    fn take(&self, len: u64, options: &MapOptions, address: Option<usize>) -> Result<IovaRange> {
        let mut allocator = locked(&self.allocator);
        if !len.is_multiple_of(allocator.granule()) {
            return Err(Error::Invalid("the length is not a multiple of the IOMMU's page size"));
        }
        let Some(iova) = options.iova() else {
            return allocator.allocate(options.request(len, address));
        };
        if !iova.is_aligned_to(allocator.granule()) {
            return Err(Error::Invalid("the IOVA is not a multiple of the IOMMU's page size"));
        }
        let range = IovaRange::new(iova, len).ok_or(Error::Invalid("the IOVAs overflow"))?;
        options.check_fixed(range)?;
        let reserved = allocator.reserve(range);
        drop(allocator);
        reserved.map_err(|error| match error {
            Error::InUse { wanted, range, .. } => Error::InUse {
                wanted,
                range,
                by: self.obstacle(range),
            },
            other => other,
        })
    }

    /// What IOVAs are in use for.
    fn obstacle(&self, range: IovaRange) -> Obstacle {
        if self.check_leaked(range).is_err() {
            return Obstacle::Leaked;
        }
        let mappings = locked(&self.mappings);
        let before = mappings.last_until(range.last());
        match before
            .map(|(_, entry)| entry)
            .filter(|entry| entry.range.overlaps(&range))
        {
            Some(entry) if entry.is_reserved => Obstacle::Kept,
            Some(entry) if entry.address.is_some() => Obstacle::Memory,
            Some(_) => Obstacle::File,
            None => Obstacle::Kept,
        }
    }
}

const NOT_OWN: Error = Error::Invalid("prefault is for memory of the process's own that is mapped at once");

/// Notes that a piece is mapped, and asks whether to go on.
fn advance(watched: &mut WatchedMap<'_>, progress: &mut Progress, piece: &Range<u64>) -> Result<()> {
    progress.mapped = piece.end;
    let is_over = watched.tell(*progress).is_break();
    if is_over { Err(Error::Cancelled) } else { Ok(()) }
}

/// Cuts `len` bytes where their IOVAs are multiples of [`PIECE`], in bytes from the first: the first piece, and what follows.
fn pieces(start: Iova, len: u64) -> (Range<u64>, Vec<Range<u64>>) {
    let first = (PIECE - start.0 % PIECE).min(len);
    let begins = std::iter::successors(Some(first), |begin| begin.checked_add(PIECE));
    let rest = begins.take_while(|begin| *begin < len);
    (
        0..first,
        rest.map(|begin| begin..begin.saturating_add(PIECE).min(len)).collect(),
    )
}

/// The IOVAs of a piece of what has `taken`.
fn part_of(taken: IovaRange, piece: &Range<u64>) -> Result<IovaRange> {
    let start = taken.start().checked_add(piece.start);
    match start.and_then(|start| IovaRange::new(start, piece.end - piece.start)) {
        Some(range) => Ok(range),
        None => Err(Error::Invalid("the IOVAs overflow")),
    }
}

/// The bytes of a piece, in memory of which the whole begins at `start`.
pub(super) fn in_memory(start: usize, piece: &Range<u64>) -> Result<Range<usize>> {
    let at = |offset: u64| {
        usize::try_from(offset)
            .ok()
            .and_then(|offset| start.checked_add(offset))
    };
    match at(piece.start).zip(at(piece.end)) {
        Some((start, end)) => Ok(start..end),
        None => Err(Error::Invalid("no part of the memory")),
    }
}

/// Bytes of a part, at least one, that lies inside memory of `len` bytes.
fn part_len(part: &Range<usize>, len: usize) -> Result<u64> {
    if part.start >= part.end || part.end > len {
        return Err(Error::Invalid("no part of the memory"));
    }
    Ok(part.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_multiples_of_the_largest_page() {
        const G: u64 = 1 << 30;
        assert_eq!(pieces(Iova(0), 4096), (0..4096, vec![]));
        assert_eq!(pieces(Iova(G), 3 * G), (0..G, vec![G..2 * G, 2 * G..3 * G]));
        assert_eq!(
            pieces(Iova(G - 4096), G + 8192),
            (0..4096, vec![4096..4096 + G, 4096 + G..8192 + G])
        );
        assert_eq!(pieces(Iova(u64::MAX - 4095), 4096), (0..4096, vec![]));
    }
}
