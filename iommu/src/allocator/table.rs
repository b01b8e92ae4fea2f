//! A hash table that grows without moving all that is in it.
//!
//! Extendible hashing (Fagin, Nievergelt, Pippenger, Strong, ACM TODS 4(3), 1979): a directory leads from the first bits of a hash to a page
//! of a few entries. A page that is full becomes two, and two that are half empty become one. A call moves what is in a page or two, and
//! copies the directory where that doubles, but never all entries. The hash is another one for each table, so nobody can choose keys that fill one page.

use std::hash::{BuildHasher, RandomState};

/// Numbers other than 0 by key, which is any but [`NO_KEY`].
pub(super) struct Table {
    /// Numbers of pages, by the first [`depth`](Self::depth) bits of a hash, of which there is one at least.
    directory: Vec<u32>,
    depth: u32,
    pages: Pages,
    seed: u64,
}

/// Pages by number. They lie in chunks that have room for [`CHUNK`] of them from the beginning, so that none ever moves.
struct Pages {
    chunks: Vec<Vec<Page>>,
    /// Those that nothing leads to.
    unused: Vec<u32>,
}

/// The entries whose hashes have the first `depth` bits in common, in no order. Four cache lines, of which a search reads what it goes through.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Page {
    depth: u32,
    entries: [Entry; SLOTS],
}

/// One whose value is 0 may be replaced by another. Until then its key finds it, as what was taken away often comes again.
#[derive(Clone, Copy)]
struct Entry {
    key: u64,
    value: u64,
}

/// Fewer, and the directory would outgrow the pages; more, and a search would take long.
const SLOTS: usize = 15;

/// Pages of a chunk.
const CHUNK: usize = 64;

/// Entries of two pages that become one: few enough that it is not two again soon.
const FEW: usize = 10;

/// Of an entry that was never used.
const NO_KEY: u64 = u64::MAX;

impl Table {
    pub(super) fn new() -> Self {
        Self {
            directory: vec![0; 2],
            depth: 1,
            pages: Pages::new(),
            seed: RandomState::new().hash_one(()),
        }
    }

    /// What the key has, 0 if nothing.
    pub(super) fn value(&self, key: u64) -> u64 {
        let hash = hash(key, self.seed);
        let page = self.pages.page(self.page_of(hash));
        let entry = page.and_then(|page| page.entries.get(page.find(key, hash)?));
        entry.map_or(0, |entry| entry.value)
    }

    /// Replaces what the key has by what `change` makes of it, unless that is `None`; whether it did.
    #[inline]
    pub(super) fn update(&mut self, key: u64, change: impl Fn(u64) -> Option<u64>) -> bool {
        let hash = hash(key, self.seed);
        let page = self.pages.page_mut(self.page_of(hash));
        let entry = page.and_then(|page| {
            let at = page.find(key, hash)?;
            page.entries.get_mut(at)
        });
        if let Some(entry) = entry {
            let Some(value) = change(entry.value) else { return false };
            entry.value = value;
            return true;
        }
        change(0).is_some_and(|value| value == 0 || self.push(Entry { key, value }, hash).is_some())
    }

    /// Adds an entry whose key has none.
    #[inline(never)]
    fn push(&mut self, entry: Entry, hash: u64) -> Option<()> {
        loop {
            let number = self.page_of(hash);
            if self.pages.page_mut(number)?.push(entry, hash) {
                return Some(());
            }
            self.split(number, hash)?;
        }
    }

    /// All keys and what they have, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let entries = self.pages.chunks.iter().flatten().flat_map(Page::used);
        entries.map(|entry| (entry.key, entry.value))
    }

    fn page_of(&self, hash: u64) -> u32 {
        let page = self.directory.get(leading(hash, self.depth));
        page.map_or(u32::MAX, |page| *page)
    }

    /// Makes two of the full page that a hash leads to; `None` if there is no number for another.
    fn split(&mut self, number: u32, hash: u64) -> Option<()> {
        let full = *self.pages.page(number)?;
        let depth = full.depth + 1;
        let mut halves = [Page {
            depth,
            ..Page::default()
        }; 2];
        for entry in full.used() {
            let hash = self::hash(entry.key, self.seed);
            let half = halves.get_mut(leading(hash, depth) % 2)?;
            // A new page has room for all that was in one.
            let _has_room = half.push(*entry, hash);
        }
        let [lower, upper] = halves;
        let new = self.pages.push(upper)?;
        *self.pages.page_mut(number)? = lower;
        if full.depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&page| [page, page]).collect();
            self.depth += 1;
        }
        // Those with one more bit in common, of which it is set.
        self.lead(leading(hash, depth) | 1, depth, new)
    }

    /// Makes one of the page that a key is in and the other half of what was one, if both are whole and hold little; `None` if not. To be called
    /// once in a while for a key whose value became 0.
    #[inline(never)]
    pub(super) fn join(&mut self, key: u64) -> Option<()> {
        let hash = hash(key, self.seed);
        let number = self.page_of(hash);
        let page = self.pages.page(number)?;
        // The directory never has less than two places.
        let depth = page.depth.checked_sub(1).filter(|depth| *depth > 0)?;
        let other = self.page_of(hash ^ (1 << (u64::BITS - page.depth)));
        let half = self.pages.page(other)?;
        if half.depth != page.depth || page.used().chain(half.used()).count() > FEW {
            return None;
        }
        let mut joined = Page {
            depth,
            ..Page::default()
        };
        for entry in page.used().chain(half.used()) {
            let _has_room = joined.push(*entry, self::hash(entry.key, self.seed));
        }
        *self.pages.page_mut(number)? = joined;
        self.lead(leading(hash, depth), depth, number)?;
        self.pages.release(other)
    }

    /// Makes all hashes with these first `depth` bits lead to a page.
    fn lead(&mut self, bits: usize, depth: u32, number: u32) -> Option<()> {
        let width = self.depth - depth;
        self.directory.get_mut(bits << width..(bits + 1) << width)?.fill(number);
        Some(())
    }
}

impl Pages {
    fn new() -> Self {
        let mut first = Vec::with_capacity(CHUNK);
        first.push(Page::default());
        Self {
            chunks: vec![first],
            unused: Vec::new(),
        }
    }

    fn page(&self, number: u32) -> Option<&Page> {
        let number = number as usize;
        self.chunks.get(number / CHUNK)?.get(number % CHUNK)
    }

    fn page_mut(&mut self, number: u32) -> Option<&mut Page> {
        let number = number as usize;
        self.chunks.get_mut(number / CHUNK)?.get_mut(number % CHUNK)
    }

    /// The number of the new one.
    fn push(&mut self, page: Page) -> Option<u32> {
        if let Some(number) = self.unused.pop() {
            *self.page_mut(number)? = page;
            return Some(number);
        }
        if self.chunks.last()?.len() == CHUNK {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut()?;
        let number = u32::try_from(before + chunk.len()).ok()?;
        chunk.push(page);
        Some(number)
    }

    fn release(&mut self, number: u32) -> Option<()> {
        *self.page_mut(number)? = Page::default();
        self.unused.push(number);
        Some(())
    }
}

impl Page {
    fn used(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.value != 0)
    }

    /// Where the entry of a key is: mostly where its hash says.
    #[inline]
    fn find(&self, key: u64, hash: u64) -> Option<usize> {
        let home = home(hash);
        if self.entries.get(home).is_some_and(|entry| entry.key == key) {
            return Some(home);
        }
        self.entries.iter().position(|entry| entry.key == key)
    }

    /// Adds an entry, there if it can; `false` if the page is full.
    #[must_use]
    fn push(&mut self, entry: Entry, hash: u64) -> bool {
        let home = home(hash);
        let (before, behind) = self.entries.split_at_mut(home);
        let free = behind.iter_mut().chain(before).find(|entry| entry.value == 0);
        free.map(|free| *free = entry).is_some()
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self { key: NO_KEY, value: 0 }
    }
}

/// The place in a page that the last bits of a hash say.
fn home(hash: u64) -> usize {
    usize::try_from(((hash & 0xff) * SLOTS as u64) >> 8).unwrap_or(0)
}

/// Different for each key. The factors are those of the `SplitMix64` generator.
fn hash(key: u64, seed: u64) -> u64 {
    let mixed = (key ^ seed).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 32)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// The first bits of a hash, from 1 to 64.
fn leading(hash: u64, bits: u32) -> usize {
    usize::try_from(hash.wrapping_shr(u64::BITS - bits)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

        #[test]
        fn it_holds_what_a_sorted_map_does(actions in prop::collection::vec((0_u64..600, 0_u64..4), 1..4000)) {
            let (mut table, mut model) = (Table::new(), BTreeMap::new());
            for (key, value) in actions {
                let before = model.get(&key).copied().unwrap_or(0);
                prop_assert_eq!(table.value(key), before);
                // What is to become what it was stays alone.
                let changes = table.update(key, |found| (found != value).then_some(value));
                prop_assert_eq!(changes, before != value);
                match value {
                    0 => {
                        let _is_joined = table.join(key);
                        model.remove(&key)
                    }
                    _ => model.insert(key, value),
                };
            }
            let mut all: Vec<_> = table.iter().collect();
            all.sort_unstable();
            prop_assert_eq!(all, Vec::from_iter(model));
        }
    }

    #[test]
    fn a_page_is_four_cache_lines() {
        assert_eq!((size_of::<Page>(), align_of::<Page>()), (256, 64));
    }

    #[test]
    fn entries_that_come_and_go_need_no_more_pages() {
        let (most, turns) = if cfg!(miri) { (100, 3) } else { (1000, 400) };
        let (mut table, mut random) = (Table::new(), 1);
        // Each in the place of any other, so that a page has now many of them, now few.
        let mut keys: Vec<u64> = (0..most).collect();
        keys.iter().for_each(|&key| assert!(table.update(key, |_| Some(1))));
        for new in most..most * turns {
            random = hash(random, 0);
            let at = leading(random, 64) % keys.len();
            let old = std::mem::replace(&mut keys[at], new << 9);
            assert!(table.update(old, |_| Some(0)) && table.value(old) == 0);
            let _is_joined = (new % 32 == 0).then(|| table.join(old));
            assert!(table.update(new << 9, |_| Some(1)));
        }
        let left: BTreeSet<_> = table.iter().map(|(key, _)| key).collect();
        assert_eq!(left, keys.iter().copied().collect());
        let bytes = |table: &Table| table.pages.chunks.iter().flatten().count() * size_of::<Page>();
        let each = bytes(&table) / keys.len();

        assert!(cfg!(miri) || each < 50, "{each}");
        // As their number falls, what was two becomes one.
        let few = keys.split_off(keys.len() / 20);
        few.iter().for_each(|key| assert!(table.update(*key, |_| Some(0))));
        for new in 0..most {
            let _is_joined = table.join(new << 50);
        }
        let unused = table.pages.unused.len() * size_of::<Page>();
        assert!(
            cfg!(miri) || bytes(&table) - unused < 100 * keys.len(),
            "{} {unused}",
            bytes(&table)
        );
        assert!(keys.iter().all(|key| table.value(*key) == 1));
    }

    #[test]
    fn pages_become_two_stay_where_they_are_and_are_well_used() {
        let keys = if cfg!(miri) { 500 } else { 20_000 };
        let orders: [fn(u64) -> u64; 4] = [|key| key, |key| key << 9, |key| key << 45, u64::reverse_bits];
        for order in orders {
            let mut table = Table::new();
            let mut pages = Vec::new();
            for key in 0..keys {
                assert!(table.update(order(key), |_| Some(key + 1)));
                if pages.len() < table.pages.chunks.len() {
                    pages.push(table.pages.chunks.last().unwrap().as_ptr());
                }
            }
            assert!((0..keys).all(|key| table.value(order(key)) == key + 1));
            assert!(
                pages
                    .into_iter()
                    .eq(table.pages.chunks.iter().map(|chunk| chunk.as_ptr()))
            );
            let pages = table.pages.chunks.iter().flatten().count();
            assert!(pages > 2 && table.iter().count() * 2 > pages * SLOTS, "{pages}");
            assert!(table.directory.len() < 32 * pages, "{}", table.depth);
        }
    }
}
