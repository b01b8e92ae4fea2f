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

    /// Those parts of each window that lie in the window of `limits` of the same kind.
    #[must_use]
    pub fn within(self, limits: Self) -> Self {
        Self {
            memory: self.memory.and(limits.memory),
            prefetchable: self.prefetchable.and(limits.prefetchable),
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
