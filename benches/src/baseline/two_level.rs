//! A table of two levels, by the GiB and by the page in it, without a lock: the class of SPDK's memory maps.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const GIB_BITS: u32 = 30;
const ADDRESS_BITS: u32 = 47;
/// In an entry, beside the IOVA.
const VALID: u64 = 1;

/// Takes two loads to find a page, all of which have one size; 1 MiB for the first level.
#[derive(Debug)]
pub struct TwoLevel {
    page_bits: u32,
    gibibytes: Vec<OnceLock<Box<[AtomicU64]>>>,
}

impl TwoLevel {
    /// Of pages of 2^`page_bits` bytes, at most 30.
    #[must_use]
    pub fn new(page_bits: u32) -> Self {
        Self {
            page_bits,
            gibibytes: (0..1_usize << (ADDRESS_BITS - GIB_BITS))
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    /// Notes a page.
    pub fn insert(&self, address: u64, iova: u64) {
        let Some(gibibyte) = self.gibibytes.get(index(address >> GIB_BITS)) else {
            return;
        };
        let pages = 1_usize << (GIB_BITS - self.page_bits);
        let pages = gibibyte.get_or_init(|| (0..pages).map(|_| AtomicU64::new(0)).collect());
        if let Some(entry) = pages.get(self.page(address)) {
            entry.store(iova | VALID, Ordering::Release);
        }
    }

    /// The IOVA of a byte.
    #[must_use]
    #[inline]
    pub fn lookup(&self, address: u64) -> Option<u64> {
        let pages = self.gibibytes.get(index(address >> GIB_BITS))?.get()?;
        let entry = pages.get(self.page(address))?.load(Ordering::Acquire);
        let offset = address & ((1 << self.page_bits) - 1);
        (entry & VALID != 0).then_some((entry & !VALID) + offset)
    }

    #[inline]
    fn page(&self, address: u64) -> usize {
        index((address & ((1 << GIB_BITS) - 1)) >> self.page_bits)
    }
}

#[inline]
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_found_and_nothing_else() {
        let table = TwoLevel::new(21);
        table.insert(0x7f00_0020_0000, 0x4000_0000);
        assert_eq!(table.lookup(0x7f00_003f_ffff), Some(0x401f_ffff));
        for address in [0x7f00_001f_ffff, 0x7f00_0040_0000, 0, u64::MAX] {
            assert_eq!(table.lookup(address), None, "{address:#x}");
        }
    }
}
