//! Free ranges, found by length and alignment.
//!
//! A range `[first, last]` can serve an alignment of 2^k from the first multiple of 2^k in it. Walking up the alignments, only a few
//! addresses are such a first multiple: each is indexed, under the exponent of its own alignment, by how many grains follow up to `last`.
//! A request then takes the shortest sufficient run among the exponents from its own upwards. A request that fits anywhere is found.
//!
//! Zones cut the index, not the ranges, at each power of two, the reaches that devices can have, so that a request for any of them is
//! found as surely. They cost no entries: the walk up the alignments comes by each power of two anyway.

use super::Grains;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

#[derive(Debug)]
pub(super) struct FreeRanges {
    /// First grain to last; no two touch.
    ranges: BTreeMap<u64, u64>,
    /// By the number of bits of the grains in it.
    zones: Vec<Zone>,
    /// Bits of a grain below which all are kept for narrow devices.
    narrow: u32,
}

/// The grains whose numbers have the same number of bits.
#[derive(Debug, Default)]
struct Zone {
    /// By exponent of the alignment: number of grains to the end of the range or the zone, and first grain.
    starts: Vec<BTreeSet<(u64, u64)>>,
}

impl FreeRanges {
    /// No free range. Grains of up to `narrow` bits are found last.
    pub(super) fn new(narrow: u32) -> Self {
        Self {
            ranges: BTreeMap::new(),
            zones: (0..=u64::BITS).map(|_| Zone::default()).collect(),
            narrow,
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.narrow);
    }

    /// The first grain that is not kept for narrow devices.
    pub(super) fn wide(&self) -> u64 {
        1 << self.narrow
    }

    /// Where `count` grains fit at a multiple of 2^`order`, from the first one that is not narrow up to `last`, which is all ones: low
    /// ones first, because a device that comes later may reach less.
    pub(super) fn find_wide(&self, count: u64, order: u32, last: u64) -> Option<u64> {
        self.find(self.narrow + 1..=bits(last), count, order, self.wide()..=last)
    }

    /// As [`find_wide`](Self::find_wide), but among those that are narrow, or begin there: high ones first, because the lowest are all
    /// that the narrowest devices have.
    pub(super) fn find_narrow(&self, count: u64, order: u32, last: u64) -> Option<u64> {
        self.find((0..=self.narrow.min(bits(last))).rev(), count, order, 0..=last)
    }

    fn find(
        &self,
        zones: impl Iterator<Item = u32> + Clone,
        count: u64,
        order: u32,
        within: RangeInclusive<u64>,
    ) -> Option<u64> {
        let mut all = zones.clone();
        let whole = all.find_map(|zone| self.zones.get(zone as usize)?.find(count, order));
        // What is left lies across the end of a zone, but not of the last one.
        whole.or_else(|| {
            let mut inner = zones.filter(|zone| *zone < bits(*within.end()));
            inner.find_map(|zone| self.find_across(zone, count, order, &within))
        })
    }

    /// The last grain of the free range that has this one.
    pub(super) fn end(&self, grain: u64) -> Option<u64> {
        let (_, &last) = self.ranges.range(..=grain).next_back()?;
        (last >= grain).then_some(last)
    }

    /// The last free grain before this one.
    pub(super) fn last_before(&self, grain: u64) -> Option<u64> {
        let (_, &last) = self.ranges.range(..grain).next_back()?;
        Some(last)
    }

    /// The highest fit in the range that goes on behind a zone.
    fn find_across(&self, zone: u32, count: u64, order: u32, within: &RangeInclusive<u64>) -> Option<u64> {
        let next = 1_u64.checked_shl(zone)?;
        let (&first, &end) = self.ranges.range(..next).next_back().filter(|(_, end)| **end >= next)?;
        let highest = end.min(*within.end()).checked_sub(count - 1)?;
        let start = highest & u64::MAX.checked_shl(order)?;
        (start >= first.max(*within.start())).then_some(start)
    }

    pub(super) fn contains(&self, grains: Grains) -> bool {
        let before = self.ranges.range(..=grains.first).next_back();
        before.is_some_and(|(_, &last)| grains.last <= last)
    }

    /// Adds grains that are not free, and joins them with their neighbours.
    pub(super) fn insert(&mut self, grains: Grains) {
        let before = self.ranges.range(..grains.first).next_back();
        let before = before.map(|(&first, &last)| Grains { first, last });
        let before = before.filter(|before| before.last + 1 == grains.first);
        let next = grains.last.checked_add(1);
        let after = next.and_then(|first| {
            let last = *self.ranges.get(&first)?;
            Some(Grains { first, last })
        });
        if let Some(after) = after {
            self.ranges.remove(&after.first);
        }
        let whole = Grains {
            first: before.map_or(grains.first, |before| before.first),
            last: after.map_or(grains.last, |after| after.last),
        };
        self.ranges.insert(whole.first, whole.last);
        self.index([before, after], [Some(whole), None]);
    }

    /// Takes away grains that are free.
    pub(super) fn remove(&mut self, grains: Grains) {
        let Some((&first, end)) = self.ranges.range_mut(..=grains.first).next_back() else {
            return;
        };
        let last = *end;
        debug_assert!(grains.last <= last, "the caller has found it to be free");
        let before = (first < grains.first).then(|| Grains {
            first,
            last: grains.first - 1,
        });
        let after = (grains.last < last).then(|| Grains {
            first: grains.last + 1,
            last,
        });
        match before {
            Some(before) => *end = before.last,
            None => {
                self.ranges.remove(&first);
            }
        }
        if let Some(after) = after {
            self.ranges.insert(after.first, after.last);
        }
        self.index([Some(Grains { first, last }), None], [before, after]);
    }

    /// Replaces ranges in the index. What stays as it is is not touched: where a range begins changes nothing further up in it.
    fn index(&mut self, old: [Option<Grains>; 2], new: [Option<Grains>; 2]) {
        let mut old = old.into_iter().flatten().flat_map(starts).peekable();
        let mut new = new.into_iter().flatten().flat_map(starts).peekable();
        loop {
            let (gone, come) = match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(gone), Some(come)) => (gone.first <= come.first, come.first <= gone.first),
                (gone, come) => (gone.is_some(), come.is_some()),
            };
            let (gone, come) = (old.next_if(|_| gone), new.next_if(|_| come));
            if gone == come {
                continue;
            }
            if let Some(gone) = gone
                && let Some(set) = self.set(gone)
            {
                set.remove(&(gone.count, gone.first));
            }
            if let Some(come) = come
                && let Some(set) = self.set(come)
            {
                set.insert((come.count, come.first));
            }
        }
    }

    fn set(&mut self, start: Start) -> Option<&mut BTreeSet<(u64, u64)>> {
        let (zone, exponent) = (bits(start.first), start.first.trailing_zeros());
        self.zones.get_mut(zone as usize)?.set(exponent as usize)
    }
}

impl Zone {
    fn find(&self, count: u64, order: u32) -> Option<u64> {
        let enough = (count, 0)..;
        let sets = self.starts.iter().skip(order as usize);
        sets.filter_map(|set| set.range(enough.clone()).next())
            .map(|&(_, first)| first)
            .next()
    }

    fn set(&mut self, exponent: usize) -> Option<&mut BTreeSet<(u64, u64)>> {
        if exponent >= self.starts.len() {
            self.starts.resize_with(exponent + 1, BTreeSet::new);
        }
        self.starts.get_mut(exponent)
    }
}

fn bits(grain: u64) -> u32 {
    u64::BITS - grain.leading_zeros()
}

/// A grain that is the first multiple of some power of two in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    first: u64,
    /// Grains from it to the end of the range or the zone.
    count: u64,
}

fn starts(grains: Grains) -> impl Iterator<Item = Start> {
    // Grain 0 belongs to nobody.
    let mut next = Some(grains.first).filter(|&first| first > 0);
    std::iter::from_fn(move || {
        let first = next.filter(|&first| first <= grains.last)?;
        next = first.checked_add(1 << first.trailing_zeros());
        let end = grains.last.min(u64::MAX >> first.leading_zeros());
        Some(Start {
            first,
            count: end - first + 1,
        })
    })
}
