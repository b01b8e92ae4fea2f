//! The ranges that are handed out, by their first grain.
//!
//! Extendible hashing (Fagin, Nievergelt, Pippenger, Strong, ACM TODS 4(3), 1979): a directory leads from the first bits of a hash to a page
//! of a few ranges, and a page that is full becomes two. No call ever moves more than a page, and a directory of four bytes for each of
//! them, and nothing is copied when the table grows. The hash is another one for each table, so nobody can choose ranges that fill one page.

use super::Grains;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// First grain and number of grains of each.
pub(super) struct Live {
    /// Indices of pages, by the first [`depth`](Self::depth) bits of a hash.
    directory: Vec<u32>,
    depth: u32,
    pages: Vec<Box<Page>>,
    seed: u64,
    len: usize,
}

/// The ranges whose hashes have the first `depth` bits in common, each at the place that its hash gives or, where others are, behind them.
struct Page {
    depth: u32,
    used: usize,
    slots: [Slot; SLOTS],
}

/// None has no grains.
type Slot = (u64, u64);

const SLOTS: usize = 64;
/// More in a page, and a search would take long.
const MOST: usize = SLOTS - SLOTS / 8;

impl Live {
    pub(super) fn new() -> Self {
        Self {
            directory: vec![0],
            depth: 0,
            pages: vec![Box::new(Page::new(0))],
            seed: RandomState::new().hash_one(()),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many grains the range has that begins there.
    pub(super) fn count(&self, first: u64) -> Option<u64> {
        let hash = hash(first, self.seed);
        let page = self.pages.get(self.page_of(hash))?;
        let (_, count) = page.slots.get(page.find(first, hash)?)?;
        Some(*count)
    }

    /// Adds a range of at least one grain. None may begin there.
    pub(super) fn insert(&mut self, first: u64, count: u64) {
        let hash = hash(first, self.seed);
        loop {
            let index = self.page_of(hash);
            let Some(page) = self.pages.get_mut(index) else { return };
            if page.used < MOST {
                page.insert((first, count), hash);
                self.len += 1;
                return;
            }
            self.split(index, hash);
        }
    }

    /// Removes this range, if there is this very one.
    pub(super) fn remove(&mut self, first: u64, count: u64) -> bool {
        let (hash, seed) = (hash(first, self.seed), self.seed);
        let index = self.page_of(hash);
        let Some(page) = self.pages.get_mut(index) else {
            return false;
        };
        let found = page.find(first, hash);
        let found = found.filter(|&at| page.slots.get(at) == Some(&(first, count)));
        let Some(at) = found else { return false };
        page.remove(at, seed);
        self.len -= 1;
        true
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Grains> {
        let slots = self.pages.iter().flat_map(|page| &page.slots);
        let used = slots.filter(|(_, count)| *count > 0);
        used.map(|&(first, count)| Grains::new(first, count))
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
        let full = std::mem::replace(&mut **page, Page::new(depth));
        let mut upper = Box::new(Page::new(depth));
        for slot in full.slots.into_iter().filter(|(_, count)| *count > 0) {
            let hash = self::hash(slot.0, self.seed);
            let is_upper = leading(hash, depth) % 2 == 1;
            if is_upper { &mut upper } else { &mut *page }.insert(slot, hash);
        }
        self.pages.push(upper);
        // Those with one more bit in common, of which it is set.
        let (from, width) = (leading(hash, depth) | 1, self.depth - depth);
        let upper = self.directory.get_mut(from << width..(from + 1) << width);
        upper.unwrap_or_default().fill(new);
    }
}

impl Page {
    fn new(depth: u32) -> Self {
        Self {
            depth,
            used: 0,
            slots: [(0, 0); SLOTS],
        }
    }

    /// Where the range is that begins there.
    fn find(&self, first: u64, hash: u64) -> Option<usize> {
        let mut at = place(hash);
        // Some place is vacant.
        loop {
            match self.slots.get(at)? {
                (_, 0) => return None,
                (found, _) if *found == first => return Some(at),
                _ => at = (at + 1) % SLOTS,
            }
        }
    }

    /// Adds a range to a page that is not full.
    fn insert(&mut self, slot: Slot, hash: u64) {
        let mut at = place(hash);
        while let Some(there) = self.slots.get_mut(at) {
            if there.1 == 0 {
                *there = slot;
                self.used += 1;
                return;
            }
            at = (at + 1) % SLOTS;
        }
    }

    /// Vacates a place, and moves those up that would not be found behind a vacant one.
    fn remove(&mut self, at: usize, seed: u64) {
        self.used -= 1;
        let (mut vacant, mut at) = (at, at);
        let distance = |from: usize, to: usize| to.wrapping_sub(from) % SLOTS;
        loop {
            at = (at + 1) % SLOTS;
            let next = self.slots.get(at).filter(|(_, count)| *count > 0).copied();
            let moved = next.filter(|(first, _)| distance(place(hash(*first, seed)), at) >= distance(vacant, at));
            if next.is_some() && moved.is_none() {
                continue;
            }
            if let Some(slot) = self.slots.get_mut(vacant) {
                *slot = moved.unwrap_or_default();
            }
            if next.is_none() {
                return;
            }
            vacant = at;
        }
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

/// By bits that are no leading ones, as these are the same in a page.
fn place(hash: u64) -> usize {
    usize::try_from((hash >> 24) % SLOTS as u64).unwrap_or(0)
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
            live.pages.len() > 2 && live.len() * 3 > live.pages.len() * SLOTS,
            "{}",
            live.pages.len()
        );
        assert!(live.directory.len() < 32 * live.pages.len(), "{}", live.depth);
    }
}
