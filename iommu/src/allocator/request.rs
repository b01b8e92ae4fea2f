//! What an allocation must satisfy: length, alignment, reach.

use super::LARGEST_PAGE;

/// What is asked of the allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub(super) len: u64,
    pub(super) alignment: Option<u64>,
    pub(super) width: u32,
    address: u64,
}

/// Sizes of large pages that processors and IOMMUs share, from the largest.
const LARGE_PAGES: [u64; 2] = [LARGEST_PAGE, 2 << 20];

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

    /// Sizes of large pages that the range can hold, down to the first in which its address is aligned; and where in one it begins.
    /// `None` where there are none, as mostly.
    #[inline]
    pub(super) fn pages_begun(self) -> Option<impl Iterator<Item = (u64, u64)>> {
        let [.., least] = LARGE_PAGES;
        if self.len < least || self.address == 0 {
            return None;
        }
        let fitting = LARGE_PAGES.into_iter().filter(move |size| *size <= self.len);
        let begun = fitting.map(move |size| (size, self.address % size));
        Some(begun.take_while(|(_, offset)| *offset != 0))
    }
}
