//! Which IOVAs are free.
//!
//! [`IovaAllocator`] hands out ranges of the allowed IOVAs. It finds one whenever there is one, and a range is aligned to its own size
//! unless asked otherwise, so that the IOMMU can use large pages for it and a device's page walks stay short.
//!
//! Addresses below 4 GiB are handed out last, so that devices that reach no further find some; of these the lowest come last of all.
//! Above, lower ones come first, because a device that is attached later may reach less.
//!
//! # Cost
//!
//! Live ranges are in a hash table, and the last 4096 that were released wait in a stack for each size: what is handed out from there
//! costs the same however many are live. What has waited too long is joined with its neighbours, and what is not found there is searched
//! for: both are O(log n) in the number of ranges. The factor is the bits of an address: a free range is indexed once for each alignment
//! that an address in it is the first to have, at most 64 times, and a search looks once at each alignment of each power of two of
//! addresses, at most 2000 times when nothing is found.
//!
//! Some calls cost more: a request that fails at first joins the waiting ranges with their neighbours and looks again;
//! [`set_allowed`](IovaAllocator::set_allowed) goes through all ranges, and so may a [`reserve`](IovaAllocator::reserve) that is refused,
//! to say what is in the way; and when the number of live ranges has grown to several times what it was, a table of some 4 bytes for each
//! is copied.
//!
//! A live range takes 20 to 40 bytes. A free range takes twice 16 bytes in B-trees whose nodes are at least half full, and 16 again for each
//! further alignment that it is indexed under. The waiting ranges take 96 KiB at most.

mod free;
mod live;
mod recent;

use crate::error::Obstacle;
use crate::{Error, Result};
use free::FreeRanges;
use live::Live;
use recent::Recent;
use vfio_core::{Iova, IovaRange};

/// Hands out IOVA ranges that never overlap.
///
/// ```
/// use iommu::allocator::{IovaAllocator, Request};
/// use vfio_core::{Iova, IovaRange};
///
/// let allowed = IovaRange::from_bounds(Iova(0), Iova(0xffff_ffff)).unwrap();
/// let mut allocator = IovaAllocator::new(&[allowed], 4096)?;
/// let ring = allocator.allocate(Request::new(0x3000))?;
/// assert!(ring.start().is_aligned_to(0x4000)); // the next power of two
/// allocator.release(ring)?;
/// # Ok::<(), iommu::Error>(())
/// ```
#[derive(Debug)]
pub struct IovaAllocator {
    /// Binary logarithm of the bytes to a grain, the unit of everything below.
    shift: u32,
    /// Sorted, disjoint, not touching.
    allowed: Vec<Grains>,
    /// Allowed, and neither live nor recent; never grain 0.
    free: FreeRanges,
    live: Live,
    recent: Recent,
}

/// What is asked of the allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    len: u64,
    alignment: Option<u64>,
    width: u32,
    address: u64,
}

/// Grains from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Grains {
    first: u64,
    last: u64,
}

/// Ranges are aligned to their size up to this one: no IOMMU has larger pages.
const LARGEST_PAGE: u64 = 1 << 30;

/// Sizes of large pages that processors and IOMMUs share, from the largest.
const LARGE_PAGES: [u64; 2] = [LARGEST_PAGE, 2 << 20];

/// Grains that a range in the way is first looked for at.
const NEAR: usize = 64;

/// Bits of an address that every device is expected to have.
const NARROW: u32 = 32;

impl IovaAllocator {
    /// Hands out ranges inside `allowed`, in units of `granule` bytes (the kernel's `out_iova_alignment`). IOVA 0 is handed out only by
    /// [`reserve`](Self::reserve): too many devices take it for no address.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `granule` is not a power of two, or is 1.
    pub fn new(allowed: &[IovaRange], granule: u64) -> Result<Self> {
        if !granule.is_power_of_two() || granule == 1 {
            return Err(Error::Invalid("the granule is not a power of two above 1"));
        }
        let mut allocator = Self {
            shift: granule.trailing_zeros(),
            allowed: Vec::new(),
            free: FreeRanges::new(NARROW.saturating_sub(granule.trailing_zeros())),
            live: Live::new(),
            recent: Recent::default(),
        };
        allocator.set_allowed(allowed);
        Ok(allocator)
    }

    /// Bytes to which starts and lengths are rounded.
    #[must_use]
    pub fn granule(&self) -> u64 {
        1 << self.shift
    }

    /// How many ranges are handed out.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Hands out a range. Its length is rounded up to whole granules.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`] if no free range fits; [`Error::Invalid`] for a length of 0, one that overflows, or an alignment that is no
    /// power of two.
    pub fn allocate(&mut self, request: Request) -> Result<IovaRange> {
        let (count, order) = self.in_grains(&request)?;
        let first = self.last_grain(request.width).and_then(|last| {
            let beside = request.pages_begun().and_then(|mut pages| {
                pages.find_map(|(size, offset)| {
                    let order = (size >> self.shift).checked_ilog2()?;
                    self.take(count, order, offset >> self.shift, last)
                })
            });
            beside.or_else(|| self.take(count, order, 0, last))
        });
        let Some(first) = first else {
            return Err(Error::NoSpace {
                len: request.len,
                alignment: self.granule() << order,
            });
        };
        self.live.insert(first, count);
        Ok(self.in_bytes(Grains::new(first, count)))
    }

    /// Hands out exactly this range, widened to whole granules.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] if part of it may not be used, [`Error::InUse`] if part of it is handed out.
    pub fn reserve(&mut self, range: IovaRange) -> Result<IovaRange> {
        let grains = Grains {
            first: range.start().0 >> self.shift,
            last: range.last().0 >> self.shift,
        };
        if !self.is_allowed(grains) {
            return Err(Error::NotAllowed(range));
        }
        let mut is_free = self.is_free(grains);
        if !is_free && self.recent.take_exactly(grains) {
            self.live.insert(grains.first, grains.last - grains.first + 1);
            return Ok(self.in_bytes(grains));
        }
        if !is_free {
            self.flush();
            is_free = self.is_free(grains);
        }
        if !is_free {
            return Err(Error::InUse {
                wanted: range,
                range: self.live_in(grains).map_or(range, |live| self.in_bytes(live)),
                by: Obstacle::Allocated,
            });
        }
        if let Some(rest) = grains.without_zero() {
            self.free.remove(rest);
        }
        self.live.insert(grains.first, grains.last - grains.first + 1);
        Ok(self.in_bytes(grains))
    }

    /// A range handed out that has a part of these: mostly one that begins there.
    fn live_in(&self, grains: Grains) -> Option<Grains> {
        let near = (grains.first..=grains.last).take(NEAR);
        let begins = near.filter_map(|first| Some(Grains::new(first, self.live.count(first)?)));
        let overlaps = |live: &Grains| live.first <= grains.last && grains.first <= live.last;
        begins.chain(self.live.iter()).find(overlaps)
    }

    /// Takes back a range that was handed out.
    ///
    /// # Errors
    ///
    /// [`Error::NotAllocated`] if it was not, or not as one whole; nothing changes then.
    pub fn release(&mut self, range: IovaRange) -> Result<()> {
        let (first, last) = (range.start().0 >> self.shift, range.last().0 >> self.shift);
        let grains = Grains { first, last };
        // Whole grains: nothing below the first, and all of the last.
        let is_whole = (range.start().0 | !range.last().0).trailing_zeros() >= self.shift;
        if !is_whole || !self.live.remove(first, last - first + 1) {
            return Err(Error::NotAllocated(range));
        }
        // What is no longer allowed must not come back, and grain 0 belongs to nobody.
        let is_ordinary = first != 0 && self.is_allowed(grains);
        let free = match is_ordinary {
            true => self.recent.put(last - first + 1, first),
            false => Some(grains),
        };
        if let Some(free) = free {
            self.give(free);
        }
        Ok(())
    }

    /// Replaces the allowed ranges, as they are to be read again after each attach. Ranges that are handed out stay so; those that are not
    /// wholly allowed any more are returned, sorted.
    pub fn set_allowed(&mut self, allowed: &[IovaRange]) -> Vec<IovaRange> {
        self.recent = Recent::default();
        self.allowed = merged(allowed.iter().filter_map(|range| self.inside(range)).collect());
        let mut live: Vec<_> = self.live.iter().collect();
        live.sort_unstable();
        self.free.clear();
        for &allowed in &self.allowed {
            let mut next = allowed.first.max(1);
            let from = live.partition_point(|range| range.last < next);
            for range in live.iter().skip(from).take_while(|range| range.first <= allowed.last) {
                if let Some(before) = range.first.checked_sub(1).filter(|&before| before >= next) {
                    self.free.insert(Grains {
                        first: next,
                        last: before,
                    });
                }
                next = range.last + 1;
            }
            if next <= allowed.last {
                self.free.insert(Grains {
                    first: next,
                    last: allowed.last,
                });
            }
        }
        let illegal = live.into_iter().filter(|&range| !self.is_allowed(range));
        illegal.map(|range| self.in_bytes(range)).collect()
    }

    /// The allowed ranges, cut to whole granules, sorted.
    pub fn allowed(&self) -> impl Iterator<Item = IovaRange> {
        self.allowed.iter().map(|&grains| self.in_bytes(grains))
    }

    /// Takes `count` grains from `offset` behind a multiple of 2^`order`, up to `last`.
    fn take(&mut self, count: u64, order: u32, offset: u64, last: u64) -> Option<u64> {
        if let Some(recent) = self.recent.take(count, order, offset, last) {
            return Some(recent);
        }
        let with_offset = count.checked_add(offset)?;
        let start = self.free.find(with_offset, order, last).or_else(|| {
            self.flush();
            self.free.find(with_offset, order, last)
        })?;
        let first = start + offset;
        self.free.remove(Grains::new(first, count));
        Some(first)
    }

    fn is_allowed(&self, grains: Grains) -> bool {
        let index = self.allowed.partition_point(|allowed| allowed.last < grains.first);
        self.allowed.get(index).is_some_and(|allowed| allowed.contains(grains))
    }

    fn is_free(&self, grains: Grains) -> bool {
        let is_zero_free = grains.first != 0 || self.live.count(0).is_none();
        is_zero_free && grains.without_zero().is_none_or(|rest| self.free.contains(rest))
    }

    fn flush(&mut self) {
        for grains in std::mem::take(&mut self.recent).into_ranges() {
            self.give(grains);
        }
    }

    /// Makes the allowed parts of a range free.
    fn give(&mut self, grains: Grains) {
        let from = self.allowed.partition_point(|allowed| allowed.last < grains.first);
        let touched = self.allowed.iter().skip(from);
        for allowed in touched.take_while(|allowed| allowed.first <= grains.last) {
            let part = Grains {
                first: allowed.first.max(grains.first),
                last: allowed.last.min(grains.last),
            };
            if let Some(rest) = part.without_zero() {
                self.free.insert(rest);
            }
        }
    }

    /// Number of grains, and the power of two of grains to align to.
    fn in_grains(&self, request: &Request) -> Result<(u64, u32)> {
        if request.len == 0 {
            return Err(Error::Invalid("a range of no bytes"));
        }
        let count = ((request.len - 1) >> self.shift) + 1;
        let alignment = match request.alignment {
            Some(alignment) if !alignment.is_power_of_two() => {
                return Err(Error::Invalid("the alignment is not a power of two"));
            }
            Some(alignment) => alignment,
            None => request.len.min(LARGEST_PAGE).next_power_of_two(),
        };
        Ok((count, alignment.trailing_zeros().saturating_sub(self.shift)))
    }

    /// The last whole grain that an address of `width` bits reaches.
    fn last_grain(&self, width: u32) -> Option<u64> {
        // A granule is a power of two above 1.
        let bits = width.min(u64::BITS).checked_sub(self.shift)?;
        Some((1 << bits) - 1)
    }

    /// The whole grains of a range.
    fn inside(&self, range: &IovaRange) -> Option<Grains> {
        let first = range.start().0.div_ceil(self.granule());
        let end = (u128::from(range.last().0) + 1) >> self.shift;
        let last = u64::try_from(end).ok()?.checked_sub(1)?;
        (first <= last).then_some(Grains { first, last })
    }

    fn in_bytes(&self, grains: Grains) -> IovaRange {
        grains.in_bytes(self.shift)
    }
}

impl Request {
    /// `len` bytes, aligned to the next power of two of up to 1 GiB, anywhere.
    #[must_use]
    pub const fn new(len: u64) -> Self {
        Self {
            len,
            alignment: None,
            width: u64::BITS,
            address: 0,
        }
    }

    /// Aligned to `alignment` bytes, a power of two, and not to its size.
    #[must_use]
    pub const fn aligned_to(self, alignment: u64) -> Self {
        Self {
            alignment: Some(alignment),
            ..self
        }
    }

    /// Not aligned to its size, but as far behind a multiple of 1 GiB or 2 MiB as `address` is, so that the IOMMU can use pages of this
    /// size where the memory at that address has them: of the larger size that is not above the length, if there is such a place. Where
    /// there is none, and for an address that is aligned itself, the request stays as it was.
    #[must_use]
    pub const fn congruent_to(self, address: u64) -> Self {
        Self { address, ..self }
    }

    /// Within reach of a device that has `bits` address bits; 64 unless this is called, where the allowed ranges are the limit.
    #[must_use]
    pub const fn within(self, bits: u32) -> Self {
        Self { width: bits, ..self }
    }
}

impl Request {
    /// Sizes of large pages that the range can hold, down to the first in which its address is aligned; and where in one it begins.
    /// `None` where there are none, as mostly.
    #[inline]
    fn pages_begun(self) -> Option<impl Iterator<Item = (u64, u64)>> {
        let [.., least] = LARGE_PAGES;
        if self.len < least || self.address == 0 {
            return None;
        }
        let fitting = LARGE_PAGES.into_iter().filter(move |size| *size <= self.len);
        let begun = fitting.map(move |size| (size, self.address % size));
        Some(begun.take_while(|(_, offset)| *offset != 0))
    }
}

impl Grains {
    /// `count` grains, at least one.
    fn new(first: u64, count: u64) -> Self {
        Self {
            first,
            last: first + (count - 1),
        }
    }

    fn in_bytes(self, shift: u32) -> IovaRange {
        let last = Iova((self.last << shift) | ((1 << shift) - 1));
        IovaRange::from_bounds(Iova(self.first << shift), last).unwrap_or(IovaRange::ALL)
    }

    fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    fn without_zero(self) -> Option<Self> {
        let first = self.first.max(1);
        (first <= self.last).then_some(Self { first, ..self })
    }
}

/// Sorts ranges and joins those that overlap or touch.
fn merged(mut ranges: Vec<Grains>) -> Vec<Grains> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let joins = next.first <= before.last.saturating_add(1);
        if joins {
            before.last = before.last.max(next.last);
        }
        joins
    });
    ranges
}

#[cfg(test)]
mod tests;
