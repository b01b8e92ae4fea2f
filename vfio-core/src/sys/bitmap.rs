//! Bitmaps that the kernel fills: one bit for each page of a range, least significant first.
//!
//! For page tables and for the logs of devices the kernel is told no length. It pins whole pages of the bitmap, up to one more than the bitmap is on,
//! and sets bits up to the end of what it pinned: a dirty entry of a page table is reported whole, also as far as it lies beyond the range
//! (`drivers/iommu/iommufd/iova_bitmap.c`, `drivers/iommu/generic_pt/iommu_pt.h`). It gets a [`Bounce`], of pages that hold nothing else.

use super::Result;
use rustix::io::Errno;

/// How many bits a range has; EINVAL if it has none or `words` have not as many.
///
/// The kernel takes the lowest set bit of the page size for the size, so only a power of two means what it says.
pub(crate) fn bits(len: u64, page_size: u64, words: &[u64]) -> Result<usize> {
    if !page_size.is_power_of_two() || len == 0 {
        return Err(Errno::INVAL);
    }
    let bits = usize::try_from(len.div_ceil(page_size)).or(Err(Errno::INVAL))?;
    if bits.div_ceil(64) > words.len() {
        return Err(Errno::INVAL);
    }
    Ok(bits)
}

/// A clean bitmap on pages of its own, with one more behind it.
#[derive(Debug)]
pub(crate) struct Bounce {
    /// The pages are inside.
    words: Vec<u64>,
    /// Index of the first word on the first page.
    start: usize,
    bits: usize,
}

impl Bounce {
    /// For so many bits; ENOMEM without memory for it.
    pub(crate) fn new(bits: usize) -> Result<Self> {
        let page = rustix::param::page_size();
        // One page to be aligned, one that the kernel may pin behind the last.
        let len = bits.div_ceil(8).checked_next_multiple_of(page);
        let len = len.and_then(|len| len.checked_add(2 * page)).ok_or(Errno::NOMEM)?;
        let mut words: Vec<u64> = Vec::new();
        let count = len / size_of::<u64>();
        words.try_reserve_exact(count).or(Err(Errno::NOMEM))?;
        words.resize(count, 0);
        let address = words.as_ptr().addr();
        let start = (address.next_multiple_of(page) - address) / size_of::<u64>();
        Ok(Self { words, start, bits })
    }

    /// Where the bitmap is. Whole pages are writable there: those that the bits are on, and one more.
    pub(crate) fn address(&mut self) -> u64 {
        let pages = self.words.get_mut(self.start..).unwrap_or_default();
        pages.as_mut_ptr().expose_provenance() as u64
    }

    /// Sets in `bitmap` what is set here, and no bit beyond.
    pub(crate) fn add_to(&self, bitmap: &mut [u64]) {
        let found = self.words.get(self.start..).unwrap_or_default();
        let mut rest = self.bits;
        for (to, from) in bitmap.iter_mut().zip(found) {
            let mask = match rest {
                0 => break,
                1..64 => (1 << rest) - 1,
                _ => u64::MAX,
            };
            *to |= from & mask;
            rest = rest.saturating_sub(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What the kernel pins of a bitmap of so many bytes, from byte `first` on: as many pages as the rest would need, and one more
        /// if that does not begin a page.
        #[test]
        fn whatever_is_pinned_is_ours(bits in 1_usize..200_000, first in any::<prop::sample::Index>()) {
            let page = rustix::param::page_size();
            let mut bounce = Bounce::new(bits).unwrap();
            let address = usize::try_from(bounce.address()).unwrap();
            prop_assert!(address.is_multiple_of(page));
            let bytes = bits.div_ceil(8);
            let first = first.index(bytes);
            let pages = (bytes - first).div_ceil(page) + usize::from(!first.is_multiple_of(page));
            let end = (address + first) / page * page + pages * page;
            let ours = bounce.words.as_ptr_range();
            prop_assert!(ours.start.addr() <= address && end <= ours.end.addr());
        }

        #[test]
        fn only_the_bits_of_the_range_come_back(bits in 1_usize..700, before in prop::collection::vec(any::<u64>(), 12)) {
            let mut bounce = Bounce::new(bits).unwrap();
            bounce.words.fill(u64::MAX);
            let mut bitmap = before.clone();
            bounce.add_to(&mut bitmap);
            for bit in 0..bitmap.len() * 64 {
                let is_set = |words: &[u64]| words[bit / 64] >> (bit % 64) & 1 == 1;
                prop_assert_eq!(is_set(&bitmap), bit < bits || is_set(&before));
            }
        }
    }

    #[test]
    fn a_bitmap_is_as_long_as_the_kernel_takes_it_to_be() {
        let words = [0; 2];
        assert_eq!(bits(128 * 4096, 4096, &words), Ok(128));
        assert_eq!(bits(1, 4096, &words), Ok(1));
        assert_eq!(bits(u64::MAX, 1 << 63, &words), Ok(2));
        // 12 KiB pages would be counted as 4 KiB ones: three times as many.
        for (len, page_size) in [
            (128 * 4096 + 1, 4096),
            (12 << 10, 12 << 10),
            (0, 4096),
            (4096, 0),
            (u64::MAX, 1),
        ] {
            assert_eq!(bits(len, page_size, &words), Err(Errno::INVAL), "{len} {page_size}");
        }
    }
}
