//! Memory that devices may ask for.

use crate::space::{AddressSpace, DmaMapping, MapOptions, Reservation, Source};
use crate::{Error, Iova, IovaRange, Result};
use std::ops::Range;
use std::sync::Arc;
use vfio_core::{Access, Memory, StableMemory};

/// Which region it is. No other region is equal as long as somebody has a clone, though its IOVAs may be another's later.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity(Arc<u8>);

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A part of memory and its IOVAs, of which units are mapped now and then.
#[derive(Debug)]
pub(super) struct Region {
    identity: Identity,
    reservation: Reservation,
    memory: Arc<Memory>,
    part: Range<usize>,
    access: Access,
}

impl Region {
    pub(super) fn new(
        space: &AddressSpace,
        memory: &Arc<Memory>,
        part: Range<usize>,
        unit: u64,
        options: MapOptions,
    ) -> Result<Self> {
        let page = space.granule();
        let is_whole = |offset: usize| (offset as u64).is_multiple_of(page);
        if part.start >= part.end || part.end > memory.len() || !is_whole(part.start) || !is_whole(part.end) {
            return Err(Error::Invalid("no whole pages of the memory"));
        }
        let is_aligned = options.iova().is_none_or(|iova| iova.is_aligned_to(unit));
        if !is_aligned {
            return Err(Error::Invalid("the IOVA is not a multiple of the unit"));
        }
        // Units must not be shared with a neighbour.
        let wish = match options.iova() {
            Some(_) => options,
            None => options.aligned_to(unit.max((part.len() as u64).min(1 << 30).next_power_of_two())),
        };
        Ok(Self {
            identity: Identity::default(),
            reservation: space.reserve(part.len() as u64, &wish)?,
            memory: Arc::clone(memory),
            part,
            access: options.access(),
        })
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn range(&self) -> IovaRange {
        self.reservation.range()
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Where in the memory an IOVA of the region is.
    pub(super) fn offset(&self, iova: Iova) -> Option<usize> {
        let inside = iova.offset_from(self.range().start())?;
        self.part.start.checked_add(usize::try_from(inside).ok()?)
    }

    /// The part of a unit that belongs to the region.
    pub(super) fn unit(&self, start: Iova, unit: u64) -> Option<IovaRange> {
        let whole = IovaRange::new(start, unit)?;
        IovaRange::from_bounds(start, whole.last().min(self.range().last()))
    }

    /// Makes a range of the region present.
    pub(super) fn populate(&self, range: IovaRange) -> Result<()> {
        Ok(self.memory.populate(self.part_of(range)?)?)
    }

    /// Maps a range of the region.
    pub(super) fn map(&self, space: &AddressSpace, range: IovaRange) -> Result<DmaMapping> {
        let part = self.part_of(range)?;
        let memory: Arc<dyn StableMemory> = Arc::<Memory>::clone(&self.memory);
        let address = self.memory.address().addr() + part.start;
        space.map_reserved(&Source::Memory(memory, part), range, Some(address), self.access)
    }

    fn part_of(&self, range: IovaRange) -> Result<Range<usize>> {
        let outside = Error::NotAllowed(range);
        let start = self.offset(range.start()).ok_or_else(|| outside.clone())?;
        let last = self.offset(range.last()).ok_or(outside)?;
        Ok(start..last + 1)
    }
}
