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
//! Some calls cost more: a request that finds nothing at first, or nothing above 4 GiB, joins the waiting ranges with their neighbours,
//! which their releases have paid for, and looks again; [`set_allowed`](IovaAllocator::set_allowed) goes through all ranges; and when
//! the number of live ranges has grown to several times what it was, a directory of some 4 bytes for each is copied.
//!
//! A live range takes up to 50 bytes, of as many as were live at most since `set_allowed`. Neighbours of one size share them, 4 to 32 of them,
//! if their size is a power of two and they are aligned to it: a million of single pages take less than 2 MiB. A free range takes twice 16
//! bytes in B-trees whose nodes are at least half full, and 16 again for each further alignment that it is indexed under. The waiting ranges
//! take 96 KiB at most.

mod free;
mod live;
mod recent;
mod request;
mod table;

use crate::error::Obstacle;
use crate::{Error, Result};
use free::FreeRanges;
use live::Live;
use recent::Recent;
pub use request::Request;
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

/// Grains from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Grains {
    first: u64,
    last: u64,
}

/// Ranges are aligned to their size up to this one: no IOMMU has larger pages.
const LARGEST_PAGE: u64 = 1 << 30;

/// Ranges beside each other that are looked at to say which one is in the way.
const NEAR: usize = 64;

/// Released ranges that wait at a time.
const WAITING: u64 = 4096;

/// Bits of an address that every device is expected to have.
const NARROW: u32 = 32;

/// Finds so many grains at a multiple of a power of two, up to a last one.
type Find = fn(&FreeRanges, u64, u32, u64) -> Option<u64>;

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
            recent: Recent::new(WAITING),
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

    /// The first range handed out that has a part of these, of which not all are free and none is recent; `None` also when it would have
    /// to be searched for.
    fn live_in(&self, grains: Grains) -> Option<Grains> {
        let live = |first| Some(Grains::new(first, self.live.count(first)?));
        if grains.first == 0 && self.live.count(0).is_some() {
            return live(0);
        }
        let first = grains.first.max(1);
        // What is allowed and not free is live.
        let taken = self.free.end(first).map_or(first, |last| last + 1);
        if let Some(found) = live(taken) {
            return Some(found);
        }
        let index = self.allowed.partition_point(|allowed| allowed.last < taken);
        let begin = self.allowed.get(index)?.first;
        let mut next = self.free.last_before(taken).map_or(begin, |last| begin.max(last + 1));
        let mut beside = std::iter::repeat_with(|| {
            let found = live(next)?;
            next = found.last.checked_add(1)?;
            Some(found)
        });
        let mut beside = beside.by_ref().take(NEAR).map_while(|found| found);
        beside.find(|found| found.last >= taken)
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
            give(&mut self.free, &self.allowed, free);
        }
        Ok(())
    }

    /// Replaces the allowed ranges, as they are to be read again after each attach. Ranges that are handed out stay so; those that are not
    /// wholly allowed any more are returned, sorted.
    pub fn set_allowed(&mut self, allowed: &[IovaRange]) -> Vec<IovaRange> {
        self.recent.drain().for_each(drop);
        self.allowed = merged(allowed.iter().filter_map(|range| self.inside(range)).collect());
        let mut live: Vec<_> = self.live.iter().collect();
        live.sort_unstable();
        self.live = Live::new();
        for range in &live {
            self.live.insert(range.first, range.last - range.first + 1);
        }
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
        let highest = self.allowed.last()?.last.min(last);
        let wide = Some(self.free.wide()).filter(|&wide| wide <= highest);
        let within = Grains {
            first: wide.unwrap_or(0),
            last,
        };
        if let Some(recent) = self.recent.take(count, order, offset, within) {
            return Some(recent);
        }
        let count_behind = count.checked_add(offset)?;
        let start = match wide.and_then(|_| self.find(FreeRanges::find_wide, count_behind, order, last)) {
            Some(start) => start,
            None => self.find(FreeRanges::find_narrow, count_behind, order, last)?,
        };
        let first = start + offset;
        self.free.remove(Grains::new(first, count));
        Some(first)
    }

    /// Looks for free grains, if need be once more when those that wait are joined with them.
    fn find(&mut self, find: Find, count: u64, order: u32, last: u64) -> Option<u64> {
        let found = find(&self.free, count, order, last);
        found.or_else(|| self.flush().then(|| find(&self.free, count, order, last))?)
    }

    fn is_allowed(&self, grains: Grains) -> bool {
        let index = self.allowed.partition_point(|allowed| allowed.last < grains.first);
        self.allowed.get(index).is_some_and(|allowed| allowed.contains(grains))
    }

    fn is_free(&self, grains: Grains) -> bool {
        let is_zero_free = grains.first != 0 || self.live.count(0).is_none();
        is_zero_free && grains.without_zero().is_none_or(|rest| self.free.contains(rest))
    }

    /// Makes all free that wait; whether there were any.
    fn flush(&mut self) -> bool {
        let mut any = false;
        for grains in self.recent.drain() {
            give(&mut self.free, &self.allowed, grains);
            any = true;
        }
        any
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

/// Makes the allowed parts of a range free.
fn give(free: &mut FreeRanges, allowed: &[Grains], grains: Grains) {
    let from = allowed.partition_point(|allowed| allowed.last < grains.first);
    let touched = allowed.iter().skip(from);
    for allowed in touched.take_while(|allowed| allowed.first <= grains.last) {
        let part = Grains {
            first: allowed.first.max(grains.first),
            last: allowed.last.min(grains.last),
        };
        if let Some(rest) = part.without_zero() {
            free.insert(rest);
        }
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
