//! Addresses as a device sees them. Arithmetic is checked: an IOVA that wraps would reach memory nobody meant.

use std::fmt;

/// An I/O virtual address, in bytes: what a device puts on the bus, before the IOMMU translates it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Iova(pub u64);

impl Iova {
    /// The address `bytes` further on; `None` past the end of the address space.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// How many bytes `self` lies after `base`; `None` if it lies before.
    #[must_use]
    pub const fn offset_from(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }

    /// Whether the address is a multiple of `alignment`, a power of two.
    #[must_use]
    pub const fn is_aligned_to(self, alignment: u64) -> bool {
        self.0 & alignment.wrapping_sub(1) == 0
    }
}

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// As it is displayed: nobody reads an address in decimal.
impl fmt::Debug for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::LowerHex for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// A range of IOVAs that holds at least one byte. Both ends belong to it, so that it can reach the last address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IovaRange {
    start: Iova,
    last: Iova,
}

impl IovaRange {
    /// Every address.
    pub const ALL: Self = Self {
        start: Iova(0),
        last: Iova(u64::MAX),
    };

    /// `len` bytes from `start`; `None` if that is nothing, or more than there is.
    #[must_use]
    pub const fn new(start: Iova, len: u64) -> Option<Self> {
        let Some(len_less_one) = len.checked_sub(1) else {
            return None;
        };
        match start.checked_add(len_less_one) {
            Some(last) => Some(Self { start, last }),
            None => None,
        }
    }

    /// From `start` to `last`, both included; `None` if `last` comes first.
    #[must_use]
    pub const fn from_bounds(start: Iova, last: Iova) -> Option<Self> {
        if start.0 <= last.0 {
            Some(Self { start, last })
        } else {
            None
        }
    }

    /// The first address.
    #[must_use]
    pub const fn start(&self) -> Iova {
        self.start
    }

    /// The last address that belongs to the range.
    #[must_use]
    pub const fn last(&self) -> Iova {
        self.last
    }

    /// Length in bytes; the whole address space has one byte more than a `u64` counts.
    #[must_use]
    pub const fn len_bytes(&self) -> u128 {
        (self.last.0 - self.start.0) as u128 + 1
    }

    /// Whether `other` lies inside.
    #[must_use]
    pub const fn contains(&self, other: &Self) -> bool {
        self.start.0 <= other.start.0 && other.last.0 <= self.last.0
    }

    /// Whether they share an address.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start.0 <= other.last.0 && other.start.0 <= self.last.0
    }
}

impl fmt::Display for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.last)
    }
}

impl fmt::Debug for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_holds_what_it_was_made_of(start: u64, len in 1_u64..) {
            match IovaRange::new(Iova(start), len) {
                Some(range) => {
                    prop_assert_eq!(range.len_bytes(), u128::from(len));
                    prop_assert_eq!(range.last().offset_from(range.start()), Some(len - 1));
                }
                None => prop_assert!(u128::from(start) + u128::from(len) > 1 << 64),
            }
        }

        #[test]
        fn overlap_is_a_shared_address(a: u8, b: u8, c: u8, d: u8) {
            let range = |x: u8, y: u8| IovaRange::from_bounds(Iova(x.min(y).into()), Iova(x.max(y).into())).unwrap();
            let (p, q) = (range(a, b), range(c, d));
            let has = |r: &IovaRange, x: u64| r.start().0 <= x && x <= r.last().0;
            prop_assert_eq!(p.overlaps(&q), (0..256).any(|x| has(&p, x) && has(&q, x)));
            prop_assert_eq!(p.contains(&q), (0..256).all(|x| !has(&q, x) || has(&p, x)));
        }
    }

    #[test]
    fn nothing_is_no_range() {
        assert_eq!(IovaRange::new(Iova(4096), 0), None);
        assert_eq!(IovaRange::from_bounds(Iova(2), Iova(1)), None);
        assert_eq!(IovaRange::ALL.len_bytes(), 1 << 64);
    }
}
