//! The ranges that are handed out.
//!
//! Neighbours are mostly of one size and aligned alike. So ranges are counted in the largest power of 16 grains of which they begin and end at
//! a multiple, and those that lie in the same 32 such units share an entry of a [table](super::table), with a bit for each unit: a ring
//! goes through few entries, and a million pages take no more than a cache has room for. A range that goes across the end of such a group
//! has an entry of its own, by its first grain.

use super::Grains;
use super::table::Table;
use std::fmt;

/// First grain and number of grains of each.
pub(super) struct Live {
    /// [`Group`]s, and numbers of grains of ranges that lie [across](across) two.
    table: Table,
    len: usize,
    removals: u32,
}

/// Units of which the first is a multiple of 32: a bit for each that belongs to a range, and above these one for each that is a range's last.
#[derive(Clone, Copy)]
struct Group(u64);

/// Where a range is that lies in a group.
#[derive(Clone, Copy)]
struct Place {
    group: u64,
    /// Its units, a bit each.
    bits: u64,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            table: Table::new(),
            len: 0,
            removals: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many grains the range has that begins there. Looks for it in units of each size.
    pub(super) fn count(&self, first: u64) -> Option<u64> {
        let mut shifts = (0..u64::BITS)
            .step_by(STEP as usize)
            .take_while(|shift| first.trailing_zeros() >= *shift);
        let inside = shifts.find_map(|shift| {
            let group = Group(self.table.value(group(first, shift)));
            Some(group.count(first >> shift)? << shift)
        });
        inside.or_else(|| Some(self.table.value(across(first))).filter(|count| *count > 0))
    }

    /// Adds a range of at least one grain. None may begin there.
    pub(super) fn insert(&mut self, first: u64, count: u64) {
        // No two overlap; were they to, neither would be lost.
        let is_inside = Place::new(first, count).is_some_and(|Place { group, bits }| {
            let add = |found| Group(found).with(bits);
            self.table.update(group, add)
        });
        if is_inside || self.table.update(across(first), |_| Some(count)) {
            self.len += 1;
        }
    }

    /// Removes this range, if there is this very one.
    pub(super) fn remove(&mut self, first: u64, count: u64) -> bool {
        let is_inside = Place::new(first, count).is_some_and(|Place { group, bits }| {
            let take = |found| Group(found).without(bits);
            self.table.update(group, take)
        });
        let is_it = |found| (found == count).then_some(0);
        let is_removed = is_inside || self.table.update(across(first), is_it);
        self.len -= usize::from(is_removed);
        self.removals = self.removals.wrapping_add(1);
        if self.removals.is_multiple_of(LOOKS) {
            self.tidy(first, count);
        }
        is_removed
    }

    /// Lets what was removed leave no more room behind than it must.
    #[inline(never)]
    fn tidy(&mut self, first: u64, count: u64) {
        let key = Place::new(first, count).map_or(across(first), |place| place.group);
        let _is_joined = self.table.join(key);
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Grains> {
        self.table.iter().flat_map(|(key, value)| {
            let is_across = key & ACROSS != 0;
            let whole = is_across.then(|| Grains::new(key & !ACROSS, value));
            let group = Group(if is_across { 0 } else { value });
            let (begin, shift) = (key % (1 << SIZE) * UNITS, (key >> SIZE) * u64::from(STEP));
            let starts = (0..UNITS).filter_map(move |at| Some((at, group.count(at)?)));
            let ranges = starts.map(move |(at, count)| Grains::new((begin + at) << shift, count << shift));
            whole.into_iter().chain(ranges)
        })
    }
}

/// Of so many removals one looks at how much room there is.
const LOOKS: u32 = 32;

/// Units of a group.
const UNITS: u64 = u32::BITS as u64;

/// From the size of one unit to that of the next, a power of two.
const STEP: u32 = 4;

/// Where a key of a group tells the size of its units; below is the number of the group. A grain has two bytes or more, so that its number
/// has 63 bits, and that of a group 58.
const SIZE: u32 = 58;

/// What no key of a group has.
const ACROSS: u64 = 1 << 63;

/// The key of the group in which a grain is, with units of 2^`shift` grains.
fn group(grain: u64, shift: u32) -> u64 {
    ((grain >> shift) / UNITS) | (u64::from(shift / STEP) << SIZE)
}

/// The key of a range that goes across the end of a group.
fn across(first: u64) -> u64 {
    first | ACROSS
}

impl Place {
    /// `None` for a range that goes across the end of a group.
    fn new(first: u64, count: u64) -> Option<Self> {
        let shift = (first | count).trailing_zeros() & !(STEP - 1);
        let (at, units) = ((first >> shift) % UNITS, count >> shift);
        // At least one, and not too many to be added.
        let unused = UNITS.checked_sub(units)?;
        (at <= unused).then_some(Self {
            group: group(first, shift),
            bits: (u64::from(u32::MAX) >> unused) << at,
        })
    }
}

impl Group {
    /// How many units the range has that begins at a unit of it.
    fn count(self, unit: u64) -> Option<u64> {
        let at = unit % UNITS;
        let begins = (self.0 & !self.inner()) >> at;
        (begins % 2 == 1).then(|| u64::from((self.0 >> UNITS >> at).trailing_zeros()) + 1)
    }

    /// With another range, if its units belong to none.
    fn with(self, bits: u64) -> Option<u64> {
        (self.0 & bits == 0).then_some(self.0 | marks(bits))
    }

    /// Without a range, if there is this very one.
    fn without(self, bits: u64) -> Option<u64> {
        let is_there =
            self.0 & (bits | (bits << UNITS)) == marks(bits) && !self.inner() & bits & bits.wrapping_neg() != 0;
        is_there.then_some(self.0 ^ marks(bits))
    }

    /// The units of ranges that are not their first ones, among other bits further up.
    fn inner(self) -> u64 {
        (self.0 & !(self.0 >> UNITS)) << 1
    }
}

/// What a range of these units has in a group.
fn marks(bits: u64) -> u64 {
    bits | ((bits & !(bits >> 1)) << UNITS)
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
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
    fn ranges_of_any_size_are_told_apart() {
        let mut live = Live::new();
        let mut all = BTreeMap::new();
        let mut next = 1;
        // Each begins where the one before ends, at all alignments and in all lengths.
        for number in 0_u64..if cfg!(miri) { 100 } else { 4000 } {
            let count = (1 + number % 37) << (number * 7 % 31);
            live.insert(next, count);
            all.insert(next, count);
            next += count;
        }
        let last = Grains::new(1 << 62, 1 << 62);
        live.insert(last.first, 1 << 62);
        all.insert(last.first, 1 << 62);
        let found: BTreeMap<_, _> = live
            .iter()
            .map(|range| (range.first, range.last - range.first + 1))
            .collect();
        assert_eq!(found, all);
        for (&first, &count) in &all {
            assert_eq!(live.count(first), Some(count));
            assert!((count == 1 || !live.remove(first, count - 1)) && !live.remove(first, count + 1));
            assert!(!live.remove(first + 1, count) && (count == 1 || !live.remove(first + 1, count - 1)));
            assert!(live.remove(first, count) && live.count(first).is_none());
        }
        assert_eq!((live.len(), live.iter().count()), (0, 0));
    }

    #[test]
    fn neighbours_share_entries_whatever_their_size() {
        for size in [1_u64, 2, 4, 8, 16, 64, 512, 1 << 18] {
            let mut live = Live::new();
            for number in 0..320 {
                live.insert(number * size, size);
            }
            let entries = live.table.iter().count();
            assert!(entries <= 320 / 4, "{entries} for {size} grains");
        }
    }

    #[test]
    fn no_range_takes_more_than_an_entry() {
        // As far apart as large pages, in a scattered order, and all across the ends of groups.
        let orders: [fn(u64) -> Grains; 3] = [
            |number| Grains::new(number << 9, 1),
            |number| Grains::new(number.reverse_bits() >> 1, 1),
            |number| Grains::new((number << 5) + 31, 2),
        ];
        for order in orders {
            let mut live = Live::new();
            for number in 1..2000 {
                let range = order(number);
                live.insert(range.first, range.last - range.first + 1);
            }
            assert_eq!((live.len(), live.table.iter().count()), (1999, 1999));
        }
    }
}
