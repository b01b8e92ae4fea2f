//! The ranges that are handed out, by their first grain.
//!
//! Extendible hashing (Fagin, Nievergelt, Pippenger, Strong, ACM TODS 4(3), 1979): a directory leads from the first bits of a hash to a page
//! of a few ranges, and a page that is full becomes two. A call moves what is in a page or two, and copies the directory where that
//! doubles, but never all ranges. The hash is another one for each table, so nobody can choose ranges that fill one page.

use super::Grains;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// First grain and number of grains of each.
pub(super) struct Live {
    /// Indices of pages, by the first [`depth`](Self::depth) bits of a hash.
    directory: Vec<u32>,
    depth: u32,
    #[expect(clippy::vec_box, reason = "they are not to be copied when there are more of them")]
    pages: Vec<Box<Page>>,
    seed: u64,
    len: usize,
}

/// The ranges whose hashes have the first `depth` bits in common, in no order.
#[derive(Default)]
struct Page {
    depth: u32,
    used: u32,
    firsts: [u64; SLOTS],
    counts: [u64; SLOTS],
}

/// Fewer, and the directory would outgrow the pages; more, and a search would take long.
const SLOTS: usize = 16;

impl Live {
    pub(super) fn new() -> Self {
        Self {
            directory: vec![0],
            depth: 0,
            pages: vec![Box::default()],
            seed: RandomState::new().hash_one(()),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many grains the range has that begins there.
    pub(super) fn count(&self, first: u64) -> Option<u64> {
        let page = self.pages.get(self.page_of(hash(first, self.seed)))?;
        page.counts.get(page.find(first)?).copied()
    }

    /// Adds a range of at least one grain. None may begin there.
    pub(super) fn insert(&mut self, first: u64, count: u64) {
        let hash = hash(first, self.seed);
        loop {
            let index = self.page_of(hash);
            let Some(page) = self.pages.get_mut(index) else { return };
            if page.push(first, count) {
                self.len += 1;
                return;
            }
            self.split(index, hash);
        }
    }

    /// Removes this range, if there is this very one.
    pub(super) fn remove(&mut self, first: u64, count: u64) -> bool {
        let index = self.page_of(hash(first, self.seed));
        let is_removed = self.pages.get_mut(index).is_some_and(|page| page.remove(first, count));
        self.len -= usize::from(is_removed);
        is_removed
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Grains> {
        self.pages.iter().flat_map(|page| page.iter())
    }

    fn page_of(&self, hash: u64) -> usize {
        let page = self.directory.get(leading(hash, self.depth));
        page.map_or(usize::MAX, |page| *page as usize)
    }

    /// Makes two of the full page that a hash leads to.
    fn split(&mut self, index: usize, hash: u64) {
        let (Ok(new), Some(page)) = (u32::try_from(self.pages.len()), self.pages.get_mut(index)) else {
            return;
        };
        if page.depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&page| [page, page]).collect();
            self.depth += 1;
        }
        let depth = page.depth + 1;
        let empty = || Page {
            depth,
            ..Page::default()
        };
        let full = std::mem::replace(&mut **page, empty());
        let mut upper = Box::new(empty());
        for range in full.iter() {
            let is_upper = leading(self::hash(range.first, self.seed), depth) % 2 == 1;
            let half = if is_upper { &mut upper } else { &mut *page };
            // A new page has room for all that was in one.
            let _has_room = half.push(range.first, range.last - range.first + 1);
        }
        self.pages.push(upper);
        // Those with one more bit in common, of which it is set.
        let (from, width) = (leading(hash, depth) | 1, self.depth - depth);
        let upper = self.directory.get_mut(from << width..(from + 1) << width);
        upper.unwrap_or_default().fill(new);
    }
}

impl Page {
    fn iter(&self) -> impl Iterator<Item = Grains> {
        let ranges = self.firsts.iter().zip(&self.counts);
        let ranges = ranges.take(self.used as usize);
        ranges.map(|(&first, &count)| Grains::new(first, count))
    }

    /// Where the range is that begins there.
    fn find(&self, first: u64) -> Option<usize> {
        let used = self.firsts.get(..self.used as usize)?;
        used.iter().position(|found| *found == first)
    }

    /// Adds a range; `false` if the page is full.
    #[must_use]
    fn push(&mut self, first: u64, count: u64) -> bool {
        let at = self.used as usize;
        let (Some(place), Some(its_count)) = (self.firsts.get_mut(at), self.counts.get_mut(at)) else {
            return false;
        };
        (*place, *its_count) = (first, count);
        self.used += 1;
        true
    }

    /// Removes this range, if there is this very one. The last one takes its place.
    fn remove(&mut self, first: u64, count: u64) -> bool {
        let found = self.find(first);
        let Some(at) = found.filter(|&at| self.counts.get(at) == Some(&count)) else {
            return false;
        };
        self.used -= 1;
        let last = self.used as usize;
        self.firsts.swap(at, last);
        self.counts.swap(at, last);
        true
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Different for each grain. The factors are those of the `SplitMix64` generator.
fn hash(first: u64, seed: u64) -> u64 {
    let mixed = (first ^ seed).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 32)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// The first bits of a hash.
fn leading(hash: u64, bits: u32) -> usize {
    let leading = hash.checked_shr(u64::BITS - bits).unwrap_or(0);
    usize::try_from(leading).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

        #[test]
        fn it_holds_what_a_sorted_map_does(
            actions in prop::collection::vec((0_u64..600, 1_u64..4, any::<bool>()), 1..4000), step in prop::sample::select(vec![1_u64, 512, 1 << 40]),
        ) {
            let (mut live, mut model) = (Live::new(), BTreeMap::new());
            for (key, count, adds) in actions {
                let first = key * step;
                prop_assert_eq!(live.count(first), model.get(&first).copied());
                if adds && !model.contains_key(&first) {
                    live.insert(first, count);
                    model.insert(first, count);
                } else {
                    let is_it = model.get(&first) == Some(&count);
                    prop_assert_eq!(live.remove(first, count), is_it);
                    if is_it {
                        model.remove(&first);
                    }
                }
                prop_assert_eq!(live.len(), model.len());
            }
            let mut all: Vec<_> = live.iter().collect();
            all.sort_unstable();
            let model: Vec<_> = model.into_iter().map(|(first, count)| Grains::new(first, count)).collect();
            prop_assert_eq!(all, model);
        }
    }

    #[test]
    fn pages_become_two_and_are_well_used() {
        let mut live = Live::new();
        let ranges = if cfg!(miri) { 500 } else { 20_000 };
        for first in 0..ranges {
            live.insert(first << 9, 1);
        }
        assert!((0..ranges).all(|first| live.count(first << 9) == Some(1)));
        assert!(
            live.pages.len() > 2 && live.len() * 2 > live.pages.len() * SLOTS,
            "{}",
            live.pages.len()
        );
        assert!(live.directory.len() < 32 * live.pages.len(), "{}", live.depth);
    }
}
