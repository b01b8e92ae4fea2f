//! Ranges that were just released, by size: what the next request of that size gets without a search.

use super::Grains;
use std::collections::BTreeMap;

/// Released ranges that have not been joined with their neighbours. Bounded, so that giving them all back takes bounded time.
#[derive(Debug, Default)]
pub(super) struct Recent {
    by_count: BTreeMap<u64, Vec<u64>>,
}

/// Different sizes that wait at a time.
const SIZES: usize = 32;
/// Ranges of a size that wait at a time.
const DEPTH: usize = 128;

impl Recent {
    /// The last released range of `count` grains, if it lies `offset` behind a multiple of 2^`order` and ends by `last`.
    pub(super) fn take(&mut self, count: u64, order: u32, offset: u64, last: u64) -> Option<u64> {
        let waiting = self.by_count.get_mut(&count)?;
        let is_there = |first: u64| {
            first
                .checked_sub(offset)
                .is_some_and(|start| start.trailing_zeros() >= order)
        };
        let fits = |first: u64| is_there(first) && first + (count - 1) <= last;
        waiting.pop_if(|first| fits(*first))
    }

    /// Takes this very range, if it waits.
    pub(super) fn take_exactly(&mut self, grains: Grains) -> bool {
        let waiting = self.by_count.get_mut(&(grains.last - grains.first + 1));
        let found = waiting.and_then(|waiting| {
            let place = waiting.iter().rposition(|first| *first == grains.first)?;
            Some(waiting.swap_remove(place))
        });
        found.is_some()
    }

    /// Keeps a range; `false` if there are enough of its size.
    pub(super) fn put(&mut self, count: u64, first: u64) -> bool {
        let waiting = self.by_count.entry(count).or_default();
        let has_room = waiting.len() < DEPTH;
        if has_room {
            waiting.push(first);
        }
        has_room
    }

    /// Whether a range of a size that does not wait yet would be too many.
    pub(super) fn is_full(&self, count: u64) -> bool {
        self.by_count.len() >= SIZES && !self.by_count.contains_key(&count)
    }

    pub(super) fn into_ranges(self) -> impl Iterator<Item = Grains> {
        let sizes = self.by_count.into_iter();
        sizes.flat_map(|(count, waiting)| waiting.into_iter().map(move |first| Grains::new(first, count)))
    }
}
