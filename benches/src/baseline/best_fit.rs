//! Free ranges in a list, all of which are looked at for the smallest that fits: the class of libvfn's IOVA map.

/// Takes O(n) to find a range.
#[derive(Debug)]
pub struct BestFit {
    /// First address and length, by address.
    free: Vec<(u64, u64)>,
}

impl BestFit {
    /// All addresses from `start` to `end` are free.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            free: vec![(start, end - start)],
        }
    }

    /// The beginning of `len` addresses, at a multiple of `alignment`, which is a power of two.
    pub fn allocate(&mut self, len: u64, alignment: u64) -> Option<u64> {
        let fits = |&(at, &(first, free)): &(usize, &(u64, u64))| {
            let start = first.checked_next_multiple_of(alignment)?;
            (start - first + len <= free).then_some((free, at, first, start))
        };
        let fitting = self.free.iter().enumerate().filter_map(|range| fits(&range));
        let (free, at, first, start) = fitting.min_by_key(|(free, ..)| *free)?;
        let before = (first, start - first);
        let after = (start + len, first + free - (start + len));
        let left = [before, after].into_iter().filter(|(_, len)| *len > 0);
        self.free.splice(at..=at, left);
        Some(start)
    }

    /// Gives them back.
    pub fn release(&mut self, start: u64, len: u64) {
        let at = self.free.partition_point(|(first, _)| *first < start);
        let touches = |&(first, free): &(u64, u64)| first + free == start;
        let before = at
            .checked_sub(1)
            .filter(|before| self.free.get(*before).is_some_and(touches));
        let after = self.free.get(at).filter(|(first, _)| start + len == *first);
        let range = (
            before
                .and_then(|before| self.free.get(before))
                .map_or(start, |range| range.0),
            after.map_or(start + len, |(first, free)| first + free),
        );
        let end = at + usize::from(after.is_some());
        self.free
            .splice(before.unwrap_or(at)..end, [(range.0, range.1 - range.0)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_that_fits_is_taken_and_what_was_taken_comes_back_as_one() {
        let mut ranges = BestFit::new(0, 1024);
        let taken: Vec<_> = [100, 50, 100, 20, 100]
            .map(|len| ranges.allocate(len, 1).unwrap())
            .into();
        assert_eq!(taken, [0, 100, 150, 250, 270]);
        ranges.release(100, 50);
        ranges.release(250, 20);
        assert_eq!(ranges.allocate(15, 2), Some(250));
        assert_eq!(ranges.allocate(21, 2), Some(100));
        for (start, len) in [(0, 100), (250, 15), (100, 21), (270, 100), (150, 100)] {
            ranges.release(start, len);
        }
        assert_eq!(ranges.free, [(0, 1024)]);
    }
}
