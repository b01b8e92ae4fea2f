//! Free ranges ordered by address, of which the first that fits is taken: the class of crosvm's address allocator.

use std::collections::BTreeMap;

/// Takes O(n) to find a range, O(log n) to give one back.
#[derive(Debug)]
pub struct FirstFit {
    /// First address and length.
    free: BTreeMap<u64, u64>,
}

impl FirstFit {
    /// All addresses from `start` to `end` are free.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            free: BTreeMap::from([(start, end - start)]),
        }
    }

    /// The beginning of `len` addresses, at a multiple of `alignment`, which is a power of two.
    pub fn allocate(&mut self, len: u64, alignment: u64) -> Option<u64> {
        let (first, free, start) = self.free.iter().find_map(|(&first, &free)| {
            let start = first.checked_next_multiple_of(alignment)?;
            (start - first + len <= free).then_some((first, free, start))
        })?;
        self.free.remove(&first);
        if start > first {
            self.free.insert(first, start - first);
        }
        let (end, free_end) = (start + len, first + free);
        if end < free_end {
            self.free.insert(end, free_end - end);
        }
        Some(start)
    }

    /// Gives them back.
    pub fn release(&mut self, start: u64, len: u64) {
        let (mut start, mut len) = (start, len);
        if let Some((&before, &free)) = self.free.range(..start).next_back()
            && before + free == start
        {
            self.free.remove(&before);
            (start, len) = (before, len + free);
        }
        if let Some(free) = self.free.remove(&(start + len)) {
            len += free;
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_back_as_one() {
        let mut ranges = FirstFit::new(16, 1024);
        let taken: Vec<_> = (0..5).map(|_| ranges.allocate(24, 32).unwrap()).collect();
        assert_eq!(taken, [32, 64, 96, 128, 160]);
        for start in [64, 160, 32, 128, 96] {
            ranges.release(start, 24);
        }
        assert_eq!(ranges.free, BTreeMap::from([(16, 1008)]));
        assert_eq!(ranges.allocate(1009, 1), None);
    }
}
