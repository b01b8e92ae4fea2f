//! One IOVA space: mapped areas, reserved and allowed ranges, alignment.
//!
//! The rules of `drivers/iommu/iommufd/io_pagetable.c`: areas never overlap and are unmapped as wholes, a range that is reserved
//! takes no area, an IOVA that the kernel chooses keeps the alignment of the memory behind it.

use super::pages::{PAGE, Pages};
use crate::Access;
use crate::sys::Result;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A mapping.
#[derive(Debug, Clone)]
pub(crate) struct Area {
    pub(crate) last: u64,
    pub(crate) pages: Arc<Pages>,
    /// Where in `pages` it starts, in bytes.
    pub(crate) start_byte: u64,
    pub(crate) access: Access,
    /// Hardware queues that read it by physical address.
    pub(crate) locks: u32,
}

/// A part of [`Pages`].
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) pages: Arc<Pages>,
    pub(crate) start_byte: u64,
    pub(crate) len: u64,
}

/// Who keeps a range from being mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// What lies outside the reach of a page table.
    Table(u32),
    /// A reserved region of a device, by its id.
    Device(u32),
}

/// One IOVA space.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) areas: BTreeMap<u64, Area>,
    pub(super) reserved: Vec<(u64, u64, Owner)>,
    pub(super) allowed: Vec<(u64, u64)>,
    pub(super) alignment: u64,
    large_pages: bool,
    /// Smallest page size of each page table that is filled from here, by its id.
    tables: BTreeMap<u32, u64>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            areas: BTreeMap::new(),
            reserved: Vec::new(),
            allowed: Vec::new(),
            alignment: 1,
            large_pages: true,
            tables: BTreeMap::new(),
        }
    }
}

impl Table {
    /// Maps parts one behind the other; returns the first IOVA.
    pub(crate) fn map(&mut self, parts: &[Part], iova: Option<u64>, access: Access) -> Result<u64> {
        let len = parts.iter().map(|part| part.len).sum::<u64>();
        let first = parts.first().ok_or(Errno::INVAL)?;
        if len == 0 || !self.aligned(len) {
            return Err(Errno::INVAL);
        }
        let iova = match iova {
            None => self.choose(first.pages.address(first.start_byte), len)?,
            Some(iova) => self.check(iova, len)?,
        };
        for part in parts {
            if access.contains(Access::WRITE) && !part.pages.writable() {
                return Err(Errno::PERM);
            }
            if !self.aligned(part.start_byte % PAGE) {
                return Err(Errno::INVAL);
            }
        }
        let mut at = iova;
        for part in parts {
            let area = Area {
                last: at + (part.len - 1),
                pages: Arc::clone(&part.pages),
                start_byte: part.start_byte,
                access,
                locks: 0,
            };
            let next = area.last.wrapping_add(1);
            self.areas.insert(at, area);
            at = next;
        }
        Ok(iova)
    }

    /// Unmaps every area of a range. What was removed comes first: also beside a failure areas are gone.
    pub(crate) fn unmap(&mut self, start: u64, last: u64) -> (Vec<(u64, Area)>, u64, Result<()>) {
        let mut removed = Vec::new();
        let mut bytes = 0_u64;
        let mut from = start;
        while let Some((iova, area)) = self.first_overlap(from, last) {
            let failure = match area {
                area if area.locks > 0 => Some(Errno::BUSY),
                area if iova < start || area.last > last => Some(Errno::NOENT),
                _ => None,
            };
            if let Some(errno) = failure {
                return (removed, bytes, Err(errno));
            }
            let end = area.last;
            // The whole space has one byte more than fits; the kernel's counter wraps too.
            bytes = bytes.wrapping_add((end - iova).wrapping_add(1));
            removed.extend(self.areas.remove(&iova).map(|area| (iova, area)));
            if end >= last {
                break;
            }
            from = end + 1;
        }
        (removed, bytes, Ok(()))
    }

    /// What a range is mapped to; ENOENT when there is a hole in it.
    pub(crate) fn parts(&self, iova: u64, len: u64) -> Result<Vec<Part>> {
        let less_one = len.checked_sub(1).ok_or(Errno::INVAL)?;
        let last = iova.checked_add(less_one).ok_or(Errno::OVERFLOW)?;
        let mut parts = Vec::new();
        let mut at = iova;
        loop {
            let (start, area) = self.find(at).ok_or(Errno::NOENT)?;
            let end = area.last.min(last);
            parts.push(Part {
                pages: Arc::clone(&area.pages),
                start_byte: area.start_byte + (at - start),
                len: end - at + 1,
            });
            if end == last {
                return Ok(parts);
            }
            at = end + 1;
        }
    }

    /// The area that holds an address, and its first IOVA.
    pub(crate) fn find(&self, iova: u64) -> Option<(u64, &Area)> {
        let (start, area) = self.areas.range(..=iova).next_back()?;
        (area.last >= iova).then_some((*start, area))
    }

    /// The entry that translates an address, first and last: the largest page of the IOMMU that lies inside the area. As if all memory was on huge
    /// pages, at addresses that suit its IOVA.
    pub(crate) fn leaf(&self, iova: u64, page_sizes: u64) -> Option<(u64, u64)> {
        let (start, area) = self.find(iova)?;
        let largest = if self.large_pages { 63 } else { PAGE.trailing_zeros() };
        let sizes = (0..=largest).rev().map(|bit| 1_u64 << bit);
        let mut pages = sizes.filter(|size| page_sizes & size != 0).map(|size| {
            let first = iova & !(size - 1);
            (first, first | (size - 1))
        });
        pages.find(|(first, last)| *first >= start && *last <= area.last)
    }

    pub(crate) fn areas(&self) -> impl Iterator<Item = (u64, &Area)> {
        self.areas.iter().map(|(start, area)| (*start, area))
    }

    /// Keeps the areas of a range from being unmapped, or lets them go.
    pub(crate) fn lock(&mut self, start: u64, last: u64, lock: bool) {
        let first = self.find(start).map_or(start, |(iova, _)| iova);
        for (_, area) in self.areas.range_mut(first..=last) {
            area.locks = if lock {
                area.locks + 1
            } else {
                area.locks.saturating_sub(1)
            };
        }
    }

    /// Splits the area that holds `last`, so that one ends there (`iopt_area_split`).
    pub(crate) fn cut(&mut self, last: u64) -> Result<()> {
        let Some((start, area)) = self.find(last) else {
            return Ok(());
        };
        if last == start || last == area.last {
            return Ok(());
        }
        let next = last + 1;
        let tail = Area {
            start_byte: area.start_byte + (next - start),
            ..area.clone()
        };
        if !self.aligned(next) || !self.aligned(tail.start_byte) || (!self.tables.is_empty() && self.large_pages) {
            return Err(Errno::INVAL);
        }
        if let Some(head) = self.areas.get_mut(&start) {
            head.last = last;
        }
        self.areas.insert(next, tail);
        Ok(())
    }

    pub(crate) fn alignment(&self) -> u64 {
        self.alignment
    }

    pub(crate) fn large_pages(&self) -> bool {
        self.large_pages
    }

    /// Whether a page table is filled from here, so that the memory is pinned.
    pub(crate) fn filled(&self) -> bool {
        !self.tables.is_empty()
    }

    pub(crate) fn set_large_pages(&mut self, on: bool) -> Result<()> {
        if !on && self.large_pages && !self.tables.is_empty() && !self.areas.is_empty() {
            return Err(Errno::INVAL);
        }
        let before = std::mem::replace(&mut self.large_pages, on);
        self.realign().inspect_err(|_| self.large_pages = before)
    }

    /// Adds a page table: its smallest page and its aperture narrow what may be mapped.
    pub(crate) fn add_table(&mut self, id: u32, smallest_page: u64, aperture: (u64, u64)) -> Result<()> {
        let alignment = smallest_page.max(self.alignment);
        if alignment > PAGE {
            return Err(Errno::INVAL);
        }
        self.check_areas(alignment)?;
        let owner = Owner::Table(id);
        let below = aperture.0.checked_sub(1).map(|last| (0, last));
        let above = aperture.1.checked_add(1).map(|start| (start, u64::MAX));
        for (start, last) in below.into_iter().chain(above) {
            self.reserve(start, last, owner).inspect_err(|_| self.release(owner))?;
        }
        self.tables.insert(id, smallest_page);
        self.alignment = alignment;
        Ok(())
    }

    pub(crate) fn remove_table(&mut self, id: u32) {
        self.tables.remove(&id);
        self.release(Owner::Table(id));
        // Fewer constraints cannot be violated.
        self.alignment = self.strictest();
    }

    fn realign(&mut self) -> Result<()> {
        let alignment = self.strictest();
        if alignment > self.alignment {
            self.check_areas(alignment)?;
        }
        self.alignment = alignment;
        Ok(())
    }

    fn strictest(&self) -> u64 {
        let least = if self.large_pages { 1 } else { PAGE };
        self.tables.values().copied().fold(least, u64::max)
    }

    fn check_areas(&self, alignment: u64) -> Result<()> {
        let fits = |value: u64| value & (alignment - 1) == 0;
        let all = self.areas.iter().all(|(start, area)| {
            fits(*start) && fits((area.last - start).wrapping_add(1)) && fits(area.start_byte % PAGE)
        });
        if all { Ok(()) } else { Err(Errno::ADDRINUSE) }
    }

    fn aligned(&self, value: u64) -> bool {
        value & (self.alignment - 1) == 0
    }

    /// Whether the caller's IOVA can be taken.
    fn check(&self, iova: u64, len: u64) -> Result<u64> {
        if !self.aligned(iova) {
            return Err(Errno::INVAL);
        }
        let last = iova.checked_add(len - 1).ok_or(Errno::OVERFLOW)?;
        if self.is_reserved((iova, last)) {
            return Err(Errno::INVAL);
        }
        match self.first_overlap(iova, last) {
            Some(_) => Err(Errno::EXIST),
            None => Ok(iova),
        }
    }

    pub(super) fn first_overlap(&self, start: u64, last: u64) -> Option<(u64, &Area)> {
        self.find(start).or_else(|| {
            let after = (Bound::Excluded(start), Bound::Included(last));
            if start >= last {
                return None;
            }
            self.areas.range(after).next().map(|(start, area)| (*start, area))
        })
    }
}
