//! Which pages devices have written.

use crate::error::misaligned;
use crate::{Error, ErrorKind, Iova, IovaRange};
use rustix::io::Errno;
use std::fmt;

/// One bit for each page of a range of IOVAs, set where a device may have written.
///
/// Filled by [`Hwpt::dirty_bitmap`](crate::iommufd::Hwpt::dirty_bitmap) and other logs of the kernel, which only ever set bits.
///
/// ```
/// use vfio_core::{DirtyBitmap, Iova, IovaRange};
///
/// let range = IovaRange::new(Iova(0x10000), 0x8000).unwrap();
/// let mut bitmap = DirtyBitmap::new(range, 4096)?;
/// bitmap.mark(IovaRange::new(Iova(0x11800), 0x1000).unwrap());
/// let dirty: Vec<_> = bitmap.ranges().collect();
/// assert_eq!(dirty, [IovaRange::new(Iova(0x11000), 0x2000).unwrap()]);
/// # Ok::<(), vfio_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyBitmap {
    range: IovaRange,
    page_size: u64,
    pages: u64,
    words: Vec<u64>,
}

impl DirtyBitmap {
    /// A bitmap of `range` in pages of `page_size` bytes, all clean.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the page size is no power of two, [`ErrorKind::Misaligned`] if the range is not made of whole pages; ENOMEM if there is no
    /// memory for it.
    pub fn new(range: IovaRange, page_size: u64) -> Result<Self, Error> {
        let fail = |kind| Error::new("dirty bitmap", kind);
        let invalid = |why| fail(ErrorKind::Invalid(why));
        if !page_size.is_power_of_two() {
            return Err(invalid("a page size that is no power of two"));
        }
        let len = u64::try_from(range.len_bytes()).map_err(|_too_long| invalid("a range of all addresses"))?;
        let numbers = [("start", Some(range.start().0)), ("length", Some(len))];
        if let Some(kind) = misaligned(numbers, page_size) {
            return Err(fail(kind));
        }
        let pages = len / page_size;
        let count = usize::try_from(pages.div_ceil(64)).map_err(|_too_long| fail(ErrorKind::Os(Errno::NOMEM)))?;
        let mut words = Vec::new();
        let reserved = words.try_reserve_exact(count);
        reserved.map_err(|_no_memory| fail(ErrorKind::Os(Errno::NOMEM)))?;
        words.resize(count, 0);
        Ok(Self {
            range,
            page_size,
            pages,
            words,
        })
    }

    /// The range it is of.
    #[must_use]
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// Bytes for each bit.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The dirty ranges, in order, as long as they can be.
    #[must_use]
    pub fn ranges(&self) -> DirtyRanges<'_> {
        DirtyRanges { bitmap: self, page: 0 }
    }

    /// How many pages are dirty.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges().fold(0, |sum, range| {
            sum + (range.last().0 - range.start().0) / self.page_size + 1
        })
    }

    /// Whether the page of an address is dirty; not outside the range.
    #[must_use]
    pub fn is_dirty(&self, iova: Iova) -> bool {
        let page = iova
            .offset_from(self.range.start())
            .map(|offset| offset / self.page_size);
        page.is_some_and(|page| page < self.pages && self.word(page) >> (page % 64) & 1 == 1)
    }

    /// Sets the pages that a range touches; what lies outside is left out.
    pub fn mark(&mut self, range: IovaRange) {
        if !self.range.overlaps(&range) {
            return;
        }
        let start = self.range.start().0;
        let first = (range.start().0.max(start) - start) / self.page_size;
        let last = (range.last().0.min(self.range.last().0) - start) / self.page_size;
        for index in first / 64..=last / 64 {
            let low = if index == first / 64 { first % 64 } else { 0 };
            let high = if index == last / 64 { last % 64 } else { 63 };
            let place = usize::try_from(index).ok();
            if let Some(word) = place.and_then(|place| self.words.get_mut(place)) {
                *word |= (u64::MAX >> (63 - high)) & (u64::MAX << low);
            }
        }
    }

    /// Makes all pages clean.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.pages * self.page_size
    }

    /// For the kernel to set bits in, least significant first.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// The same bits, to give to the kernel.
    #[cfg(feature = "selftest")]
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    fn word(&self, page: u64) -> u64 {
        let index = usize::try_from(page / 64).ok();
        index
            .and_then(|index| self.words.get(index))
            .copied()
            .unwrap_or_default()
    }

    /// The first page from `page` on that is dirty, or that is clean; the number of pages if there is none.
    fn find(&self, mut page: u64, dirty: bool) -> u64 {
        while page < self.pages {
            let word = if dirty { self.word(page) } else { !self.word(page) };
            let rest = word >> (page % 64);
            if rest != 0 {
                return (page + u64::from(rest.trailing_zeros())).min(self.pages);
            }
            page = (page / 64 + 1) * 64;
        }
        self.pages
    }
}

impl fmt::Debug for DirtyBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pages dirty in {}", self.count(), self.pages, self.range)
    }
}

/// Iterator over the dirty ranges of a [`DirtyBitmap`].
#[derive(Debug, Clone)]
pub struct DirtyRanges<'a> {
    bitmap: &'a DirtyBitmap,
    page: u64,
}

impl Iterator for DirtyRanges<'_> {
    type Item = IovaRange;

    fn next(&mut self) -> Option<IovaRange> {
        let first = self.bitmap.find(self.page, true);
        if first == self.bitmap.pages {
            self.page = first;
            return None;
        }
        self.page = self.bitmap.find(first, false);
        let start = self.bitmap.range.start().checked_add(first * self.bitmap.page_size)?;
        IovaRange::new(start, (self.page - first) * self.bitmap.page_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bitmap(pages: u64) -> DirtyBitmap {
        let start = u64::MAX - pages * 4096 + 1;
        DirtyBitmap::new(IovaRange::new(Iova(start), pages * 4096).unwrap(), 4096).unwrap()
    }

    proptest! {
        #[test]
        fn ranges_are_the_runs_of_set_bits(words in proptest::collection::vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 5), pages in 1_u64..320) {
            let mut bitmap = bitmap(pages);
            let words: Vec<u64> = words.into_iter().take(bitmap.words.len()).collect();
            bitmap.words_mut().copy_from_slice(&words);
            let start = bitmap.range().start();
            let is_set = |page: u64| page < pages && words[usize::try_from(page / 64).unwrap()] >> (page % 64) & 1 == 1;
            let mut model = Vec::new();
            for page in (0..pages).filter(|page| is_set(*page)) {
                let first = (page == 0 || !is_set(page - 1)).then_some(page);
                if let Some(first) = first {
                    model.push((first, 0));
                }
                model.last_mut().unwrap().1 += 1;
            }
            let model: Vec<_> = model.into_iter().map(|(first, count)| IovaRange::new(Iova(start.0 + first * 4096), count * 4096).unwrap()).collect();
            prop_assert_eq!(bitmap.ranges().collect::<Vec<_>>(), model);
            prop_assert_eq!(bitmap.count(), (0..pages).filter(|page| is_set(*page)).count() as u64);
            for page in 0..pages {
                prop_assert_eq!(bitmap.is_dirty(Iova(start.0 + page * 4096 + 7)), is_set(page));
            }
        }

        #[test]
        fn marking_sets_what_is_touched(pages in 1_u64..320, first in 0_u64..400, len in 1_u64..1_000_000) {
            let mut bitmap = bitmap(pages);
            let base = bitmap.range().start().0;
            let Some(start) = base.checked_add(first * 4096 + 100) else { return Ok(()) };
            let Some(marked) = IovaRange::new(Iova(start), len) else { return Ok(()) };
            bitmap.mark(marked);
            for page in 0..pages {
                let page = IovaRange::new(Iova(base + page * 4096), 4096).unwrap();
                prop_assert_eq!(bitmap.is_dirty(page.start()), page.overlaps(&marked));
            }
        }
    }

    #[test]
    fn only_whole_pages_have_bits() {
        let range = |start, len| IovaRange::new(Iova(start), len).unwrap();
        assert!(DirtyBitmap::new(range(4096, 4096), 4096).is_ok());
        assert!(DirtyBitmap::new(range(4096, 4097), 4096).is_err());
        assert!(DirtyBitmap::new(range(4095, 4096), 4096).is_err());
        assert!(DirtyBitmap::new(range(0, 4096), 3000).is_err());
        assert!(DirtyBitmap::new(range(0, 4096), 0).is_err());
        assert!(DirtyBitmap::new(IovaRange::ALL, 4096).is_err());
        assert!(
            DirtyBitmap::new(range(0, u64::MAX), 1).is_err(),
            "no machine has the memory"
        );
    }
}
