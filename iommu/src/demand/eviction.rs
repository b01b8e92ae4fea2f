//! Which page goes when another needs its place.

use crate::Iova;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// How a victim is chosen. What is known of a page's use is when it was asked for, and what the driver says with
/// [`DemandSpace::touch`](super::DemandSpace::touch).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eviction {
    /// The one that was used least recently. O(log n) for each use.
    #[default]
    Lru,
    /// The first that was not used since the hand last passed it. O(1) for each use; a victim costs O(1) on average, and a whole round of
    /// the hand when all have been used since the last one.
    Clock,
}

/// The resident units that may be evicted.
#[derive(Debug)]
pub(super) enum Order {
    Lru {
        now: u64,
        by_use: BTreeMap<u64, Iova>,
        used: HashMap<Iova, u64>,
    },
    Clock {
        now: u64,
        /// With the number of the entry; an entry whose number is not the unit's is stale.
        ring: VecDeque<(Iova, u64)>,
        /// Number of its entry, and whether it was used.
        units: HashMap<Iova, (u64, bool)>,
    },
}

/// Units that were evicted last, of which at most a number is known.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    order: VecDeque<Iova>,
    units: HashSet<Iova>,
}

impl Evicted {
    /// Notes an eviction, and knows at most the `most` last ones.
    pub(super) fn insert(&mut self, unit: Iova, most: usize) {
        if self.units.insert(unit) {
            self.order.push_back(unit);
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.units.remove(&oldest);
            }
        }
    }

    /// Whether a unit was evicted lately.
    pub(super) fn contains(&self, unit: Iova) -> bool {
        self.units.contains(&unit)
    }
}

impl Order {
    pub(super) fn new(eviction: Eviction) -> Self {
        match eviction {
            Eviction::Lru => Self::Lru {
                now: 0,
                by_use: BTreeMap::new(),
                used: HashMap::new(),
            },
            Eviction::Clock => Self::Clock {
                now: 0,
                ring: VecDeque::new(),
                units: HashMap::new(),
            },
        }
    }

    /// Adds a unit, as used now.
    pub(super) fn insert(&mut self, unit: Iova) {
        match self {
            Self::Lru { now, by_use, used } => {
                *now += 1;
                if let Some(before) = used.insert(unit, *now) {
                    by_use.remove(&before);
                }
                by_use.insert(*now, unit);
            }
            Self::Clock { now, ring, units } => {
                *now += 1;
                units.insert(unit, (*now, true));
                ring.push_back((unit, *now));
                // Units that are taken out and put back again leave stale entries.
                if ring.len() > 2 * units.len() + 64 {
                    ring.retain(|(unit, number)| units.get(unit).is_some_and(|(current, _)| current == number));
                }
            }
        }
    }

    /// Notes a use, if it is there.
    pub(super) fn touch(&mut self, unit: Iova) {
        match self {
            Self::Lru { used, .. } if used.contains_key(&unit) => self.insert(unit),
            Self::Lru { .. } => {}
            Self::Clock { units, .. } => {
                if let Some((_, is_used)) = units.get_mut(&unit) {
                    *is_used = true;
                }
            }
        }
    }

    pub(super) fn remove(&mut self, unit: Iova) {
        match self {
            Self::Lru { by_use, used, .. } => {
                if let Some(before) = used.remove(&unit) {
                    by_use.remove(&before);
                }
            }
            Self::Clock { units, .. } => {
                units.remove(&unit);
            }
        }
    }

    /// Takes out the unit that goes next and is not protected. Protected are only the most recently inserted ones.
    pub(super) fn victim(&mut self, is_protected: impl Fn(Iova) -> bool) -> Option<Iova> {
        match self {
            Self::Lru { by_use, used, .. } => {
                // If the oldest is protected, all are.
                let oldest = by_use.first_entry().filter(|entry| !is_protected(*entry.get()))?;
                let unit = oldest.remove();
                used.remove(&unit);
                Some(unit)
            }
            Self::Clock { ring, units, .. } => {
                // Twice round: the first time may only take marks away.
                for _ in 0..2 * ring.len() {
                    let (unit, number) = ring.pop_front()?;
                    let Some((current, is_used)) = units.get_mut(&unit) else {
                        continue;
                    };
                    if *current != number {
                        continue;
                    }
                    if std::mem::take(is_used) || is_protected(unit) {
                        ring.push_back((unit, number));
                        continue;
                    }
                    units.remove(&unit);
                    return Some(unit);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(eviction: Eviction) -> Order {
        let mut order = Order::new(eviction);
        (0..4).for_each(|unit| order.insert(Iova(unit)));
        order
    }

    fn drain(order: &mut Order) -> Vec<u64> {
        std::iter::from_fn(|| order.victim(|_| false))
            .map(|unit| unit.0)
            .collect()
    }

    #[test]
    fn lru_takes_what_was_used_least_recently() {
        let mut lru = order(Eviction::Lru);
        lru.touch(Iova(0));
        lru.touch(Iova(9));
        lru.remove(Iova(2));
        assert_eq!(drain(&mut lru), [1, 3, 0]);
    }

    #[test]
    fn clock_gives_what_was_used_a_second_chance() {
        let mut clock = order(Eviction::Clock);
        // All were used when they came: the hand takes the marks away and comes back to the first.
        assert_eq!(clock.victim(|_| false), Some(Iova(0)));
        clock.touch(Iova(1));
        assert_eq!(clock.victim(|_| false), Some(Iova(2)));
        clock.remove(Iova(3));
        assert_eq!(drain(&mut clock), [1]);
    }

    #[test]
    fn the_protected_are_never_taken() {
        for eviction in [Eviction::Lru, Eviction::Clock] {
            let mut order = order(eviction);
            assert_eq!(order.victim(|_| true), None);
            // Only the newest are protected.
            assert!(order.victim(|unit| unit.0 >= 2).is_some_and(|unit| unit.0 < 2));
            assert!(order.victim(|unit| unit.0 >= 2).is_some_and(|unit| unit.0 < 2));
            assert_eq!(order.victim(|unit| unit.0 >= 2), None);
        }
    }

    #[test]
    fn a_clock_does_not_grow_with_units_that_come_and_go() {
        let mut clock = order(Eviction::Clock);
        for _ in 0..10_000 {
            clock.remove(Iova(1));
            clock.insert(Iova(1));
        }
        let Order::Clock { ring, .. } = &clock else {
            panic!("a clock")
        };
        assert!(ring.len() < 100);
        assert_eq!(drain(&mut clock).len(), 4);
    }
}
