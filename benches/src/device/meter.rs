//! Time, or instructions, and the order in which ways take their turns.

use crate::record::Clock;
use std::time::Instant;

/// The clock, and what a look at it takes. On a machine whose clock counts instructions, one is a nanosecond.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    clock: Clock,
    look: f64,
}

/// What passed from one look to the next.
#[derive(Debug, Clone, Copy)]
pub struct Look(Instant);

impl Meter {
    /// Measures what a look takes.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let looks: Vec<f64> = (0..1000).map(|_| nanos(Instant::now(), Instant::now())).collect();
        let look = median(&looks);
        Self { clock, look }
    }

    /// What it counts.
    #[must_use]
    pub const fn clock(self) -> Clock {
        self.clock
    }

    /// Its unit, for an operation.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self.clock {
            Clock::Wall => "ns/op",
            Clock::Instructions => "instructions/op",
            Clock::Count => "count/op",
        }
    }

    /// A look.
    #[must_use]
    #[inline]
    pub fn look(self) -> Look {
        Look(Instant::now())
    }

    /// From one look to another, without what a look takes.
    #[must_use]
    #[inline]
    pub fn between(self, from: Look, to: Look) -> f64 {
        (nanos(from.0, to.0) - self.look).max(0.0)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a figure of more than 52 bits would be months"
)]
fn nanos(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_nanos() as f64
}

/// The value in the middle; of an even number of them the lower one, which some operation did take. 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or_default()
}

/// The value that so many percent of all do not exceed. 0 of none.
#[must_use]
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

/// The order of `ways` in a turn: back and forth, so that none always comes after the same other.
pub fn order(ways: usize, turn: usize) -> impl Iterator<Item = usize> {
    (0..ways).map(move |place| {
        if turn.is_multiple_of(2) {
            place
        } else {
            ways - 1 - place
        }
    })
}

/// A histogram with four buckets to each doubling: upper bounds, and how many values were at most that and above the one before.
#[must_use]
pub fn distribution(values: &[f64]) -> Vec<(f64, u64)> {
    let bucket = |value: f64| (value.max(1.0).log2() * 4.0).ceil();
    let mut buckets: Vec<f64> = values.iter().copied().map(bucket).collect();
    buckets.sort_unstable_by(f64::total_cmp);
    let runs = buckets.chunk_by(|one, other| one.total_cmp(other).is_eq());
    runs.filter_map(|run| Some(((run.first()? / 4.0).exp2(), run.len() as u64)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.0);
    }

    #[test]
    fn a_percentile_is_exceeded_by_no_more_than_the_rest() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(
            [50, 90, 99, 100].map(|percent| percentile(&values, percent)),
            [100.0, 180.0, 198.0, 200.0]
        );
        assert_eq!(percentile(&[], 99), 0.0);
    }

    #[test]
    fn every_second_turn_goes_backwards() {
        let turn = |number| order(3, number).collect::<Vec<_>>();
        assert_eq!(
            [turn(0), turn(1), turn(2)],
            [vec![0, 1, 2], vec![2, 1, 0], vec![0, 1, 2]]
        );
    }

    #[test]
    fn a_distribution_has_every_value_below_its_bound() {
        let found = distribution(&[1.0, 100.0, 101.0, 1000.0]);
        assert_eq!(found.iter().map(|(_, count)| count).sum::<u64>(), 4);
        assert_eq!(found.first(), Some(&(1.0, 1)));
        assert!(
            found
                .iter()
                .any(|(bound, count)| *count == 2 && (101.0..120.0).contains(bound))
        );
        assert!(found.is_sorted_by(|one, other| one.0 < other.0));
    }
}
