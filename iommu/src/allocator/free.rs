//! Free ranges, found by length and alignment.
//!
//! A range `[first, last]` can serve an alignment of 2^k from the first multiple of 2^k in it. Walking up the alignments, only a few
//! addresses are such a first multiple: each is indexed, under the exponent of its own alignment, by how many grains follow up to `last`.
//! A request then takes the shortest sufficient run among the exponents from its own upwards. A request that fits anywhere is found.
//!
//! Zones cut the index, not the ranges, at the reach of narrow devices, so that a request for such a device is found as surely.

use super::Grains;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct FreeRanges {
    /// First grain to last; no two touch.
    ranges: BTreeMap<u64, u64>,
    /// By address; they cover all grains.
    zones: Vec<Zone>,
}

#[derive(Debug)]
struct Zone {
    grains: Grains,
    /// By exponent of the alignment: number of grains to the end of the range, and first grain.
    starts: [BTreeSet<(u64, u64)>; EXPONENTS],
}

const EXPONENTS: usize = 64;

impl FreeRanges {
    /// No free range among the grains from 0 to `last`.
    pub(super) fn new(last: u64) -> Self {
        let all = Zone::new(Grains { first: 0, last });
        Self {
            ranges: BTreeMap::new(),
            zones: vec![all],
        }
    }

    pub(super) fn clear(&mut self) {
        self.ranges.clear();
        for zone in &mut self.zones {
            *zone = Zone::new(zone.grains);
        }
    }

    /// Lets [`find`](Self::find) stop at `last`. There are at most as many different borders as an address has bits.
    pub(super) fn set_border(&mut self, last: u64) {
        let index = self.zones.partition_point(|zone| zone.grains.last < last);
        let Some(cut) = self.zones.get(index).map(|zone| zone.grains) else {
            return;
        };
        if cut.last == last {
            return;
        }
        let mut below = Zone::new(Grains { last, ..cut });
        let mut above = Zone::new(Grains { first: last + 1, ..cut });
        for grains in self.overlapping(cut) {
            below.insert(grains);
            above.insert(grains);
        }
        self.zones.splice(index..=index, [below, above]);
    }

    /// Where `count` grains fit at a multiple of 2^`order`, up to `last`, which is a border. High zones come first: the low ones are all
    /// that narrow devices have.
    pub(super) fn find(&self, count: u64, order: u32, last: u64) -> Option<u64> {
        let reachable = || self.zones.iter().rev().filter(|zone| zone.grains.last <= last);
        reachable().find_map(|zone| zone.find(count, order)).or_else(|| {
            // What is left lies across a border.
            reachable().skip(1).find_map(|zone| {
                let (&first, &end) = self.ranges.range(..=zone.grains.last).next_back()?;
                let start = round_up(first, order)?;
                let fit_last = start.checked_add(count - 1)?;
                (fit_last <= end.min(last)).then_some(start)
            })
        })
    }

    pub(super) fn contains(&self, grains: Grains) -> bool {
        let before = self.ranges.range(..=grains.first).next_back();
        before.is_some_and(|(_, &last)| grains.last <= last)
    }

    /// Adds grains that are not free, and joins them with their neighbours.
    pub(super) fn insert(&mut self, mut grains: Grains) {
        if let Some((&first, &last)) = self.ranges.range(..grains.first).next_back()
            && last + 1 == grains.first
        {
            self.forget(Grains { first, last });
            grains.first = first;
        }
        if let Some(next) = grains.last.checked_add(1)
            && let Some(&last) = self.ranges.get(&next)
        {
            self.forget(Grains { first: next, last });
            grains.last = last;
        }
        self.note(grains);
    }

    /// Takes away grains that are free.
    pub(super) fn remove(&mut self, grains: Grains) {
        let Some((&first, &last)) = self.ranges.range(..=grains.first).next_back() else {
            return;
        };
        debug_assert!(grains.last <= last, "the caller has found it to be free");
        self.forget(Grains { first, last });
        if first < grains.first {
            let last = grains.first - 1;
            self.note(Grains { first, last });
        }
        if grains.last < last {
            let first = grains.last + 1;
            self.note(Grains { first, last });
        }
    }

    fn note(&mut self, grains: Grains) {
        self.ranges.insert(grains.first, grains.last);
        for zone in &mut self.zones {
            zone.insert(grains);
        }
    }

    fn forget(&mut self, grains: Grains) {
        self.ranges.remove(&grains.first);
        for zone in &mut self.zones {
            zone.remove(grains);
        }
    }

    fn overlapping(&self, grains: Grains) -> impl Iterator<Item = Grains> {
        let before = self.ranges.range(..grains.first).next_back();
        let inside = self.ranges.range(grains.first..=grains.last);
        before
            .into_iter()
            .chain(inside)
            .map(|(&first, &last)| Grains { first, last })
    }
}

impl Zone {
    fn new(grains: Grains) -> Self {
        Self {
            grains,
            starts: [const { BTreeSet::new() }; EXPONENTS],
        }
    }

    fn find(&self, count: u64, order: u32) -> Option<u64> {
        let enough = (count, 0)..;
        let sets = self.starts.iter().skip(order as usize);
        sets.filter_map(|set| set.range(enough.clone()).next())
            .map(|&(_, first)| first)
            .next()
    }

    fn insert(&mut self, grains: Grains) {
        for (exponent, run, first) in starts(self.part_of(grains)) {
            if let Some(set) = self.starts.get_mut(exponent) {
                set.insert((run, first));
            }
        }
    }

    fn remove(&mut self, grains: Grains) {
        for (exponent, run, first) in starts(self.part_of(grains)) {
            if let Some(set) = self.starts.get_mut(exponent) {
                set.remove(&(run, first));
            }
        }
    }

    fn part_of(&self, grains: Grains) -> Option<Grains> {
        let first = grains.first.max(self.grains.first);
        let last = grains.last.min(self.grains.last);
        (first <= last).then_some(Grains { first, last })
    }
}

/// The grains that are the first multiple of some power of two: exponent, number of grains to the end, and grain.
fn starts(grains: Option<Grains>) -> impl Iterator<Item = (usize, u64, u64)> {
    let mut next = grains.map(|grains| grains.first);
    let last = grains.map_or(0, |grains| grains.last);
    std::iter::from_fn(move || {
        let first = next.filter(|&first| first <= last)?;
        // Grain 0 is a multiple of every power of two.
        let exponent = first.trailing_zeros().min(u64::BITS - 1);
        next = if first == 0 {
            None
        } else {
            first.checked_add(1 << exponent)
        };
        Some((exponent as usize, last - first + 1, first))
    })
}

/// The next multiple of 2^`order`.
fn round_up(grain: u64, order: u32) -> Option<u64> {
    grain.checked_next_multiple_of(1_u64.checked_shl(order)?)
}
