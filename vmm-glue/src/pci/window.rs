//! Addresses that a bridge forwards to its bus.

use std::ops::Range;

/// The memory windows of a bridge. Both may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Windows {
    memory: Span,
    prefetchable: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Span {
    start: u64,
    end: u64,
}

impl Windows {
    /// Nothing is forwarded.
    pub const NONE: Self = Self {
        memory: Span { start: 0, end: 0 },
        prefetchable: Span { start: 0, end: 0 },
    };

    /// Two windows; an empty or inverted range is no window.
    #[must_use]
    pub fn new(memory: Range<u64>, prefetchable: Range<u64>) -> Self {
        Self {
            memory: Span::new(&memory),
            prefetchable: Span::new(&prefetchable),
        }
    }

    /// The window for memory below 4 GiB.
    #[must_use]
    pub fn memory(self) -> Range<u64> {
        self.memory.range()
    }

    /// The window for prefetchable memory.
    #[must_use]
    pub fn prefetchable(self) -> Range<u64> {
        self.prefetchable.range()
    }

    /// Whether all of `range`, which is not empty, lies in one of them.
    #[must_use]
    pub fn contain(self, range: &Range<u64>) -> bool {
        let is_in = |span: Span| !range.is_empty() && span.start <= range.start && range.end <= span.end;
        is_in(self.memory) || is_in(self.prefetchable)
    }

    /// Those parts of them that lie in `limits`. Prefetchable memory may also be where memory may be: below 4 GiB.
    #[must_use]
    pub fn within(self, limits: Self) -> Self {
        let low = self.prefetchable.and(limits.memory);
        Self {
            memory: self.memory.and(limits.memory),
            prefetchable: if low.range().is_empty() {
                self.prefetchable.and(limits.prefetchable)
            } else {
                low
            },
        }
    }
}

impl Span {
    fn new(range: &Range<u64>) -> Self {
        let Range { start, end } = *range;
        if start < end {
            Self { start, end }
        } else {
            Self::default()
        }
    }

    const fn range(self) -> Range<u64> {
        self.start..self.end
    }

    fn and(self, other: Self) -> Self {
        Self::new(&(self.start.max(other.start)..self.end.min(other.end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_wholly_in_one_window_is_contained() {
        let windows = Windows::new(0x1000..0x3000, 0x3000..0x8000);
        for inside in [0x1000..0x3000, 0x3000..0x8000, 0x2FFF..0x3000] {
            assert!(windows.contain(&inside));
        }
        for outside in [
            0xFFF..0x1001,
            0x2FFF..0x3001,
            0x7000..0x8001,
            0x1000..0x1000,
            0..u64::MAX,
        ] {
            assert!(!windows.contain(&outside), "{outside:x?}");
        }
        let inverted = Range { start: 2, end: 1 };
        assert_eq!(Windows::new(inverted, 5..5), Windows::NONE);
    }

    #[test]
    fn a_window_ends_where_it_may_not_go_on() {
        let limits = Windows::new(0xC000_0000..0xE000_0000, 1 << 38..1 << 39);
        let low = Windows::new(0..0xFFFF_FFFF, 0xD000_0000..0xF000_0000);
        assert_eq!(
            low.within(limits),
            Windows::new(0xC000_0000..0xE000_0000, 0xD000_0000..0xE000_0000)
        );
        let high = Windows::new(0..0x1000, 1 << 37..1 << 40);
        assert_eq!(high.within(limits), Windows::new(0..0, 1 << 38..1 << 39));
        assert_eq!(Windows::NONE.within(limits), Windows::NONE);
    }
}
