//! How figures are compared: turn by turn where they took turns, so that what slows the machine down for a while slows both.

use crate::record::{Clock, Record};
use serde::Serialize;

/// How the names of ways begin that are no alternative but the least that there can be: the kernel's calls with nothing around them.
const LIMIT: &str = "raw";

/// Figures of one thing done in several ways.
#[derive(Debug, Clone)]
pub struct Comparison<'a> {
    /// One of each way.
    pub records: Vec<&'a Record>,
    first: &'a Record,
}

/// How many times as much one figure is as another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Of the turns' ratios.
    pub median: f64,
    /// Where the median of many more turns would be at least, with a probability of 95 % for that and `high` when there were six turns or more;
    /// the least of the turns when there were fewer; the least by the least of one and the most of the other when they took no turns.
    pub low: f64,
    /// As `low`, at most.
    pub high: f64,
    /// How many turns there were.
    pub turns: usize,
}

impl<'a> Comparison<'a> {
    /// Of one figure so far.
    #[must_use]
    pub fn of(record: &'a Record) -> Self {
        Self {
            records: vec![record],
            first: record,
        }
    }

    /// What all its figures have in common.
    #[must_use]
    pub fn subject(&self) -> &'a Record {
        self.first
    }

    /// Whether a figure is of the same thing, in a way that there is none of yet.
    #[must_use]
    pub fn takes(&self, record: &Record) -> bool {
        let key = |record: &'_ Record| (record.clock, record.given.clone());
        let words = |record: &Record| [record.suite.clone(), record.case.clone(), record.unit.clone()];
        words(self.first) == words(record)
            && key(self.first) == key(record)
            && self.records.iter().all(|other| other.way != record.way)
    }

    /// The figure of a way.
    #[must_use]
    pub fn way(&self, way: &str) -> Option<&'a Record> {
        self.records.iter().copied().find(|record| record.way == way)
    }

    /// The best figure among these ways.
    #[must_use]
    pub fn best(&self, ways: impl Fn(&str) -> bool) -> Option<&'a Record> {
        let records = self.records.iter().copied().filter(|record| ways(&record.way));
        let more_is_better = self.first.more_is_better();
        records.min_by(|a, b| {
            let order = median(&a.turns).total_cmp(&median(&b.turns));
            if more_is_better { order.reverse() } else { order }
        })
    }

    /// The figure that the others are set against: the first of ours.
    #[must_use]
    pub fn reference(&self) -> Option<&'a Record> {
        self.records.iter().copied().find(|record| is_ours(&record.way))
    }

    /// Our ways that are worse than the best of others, or than bare calls where there are no others, each with that and the ratio ours / theirs.
    #[must_use]
    pub fn losses(&self) -> Vec<(&'a Record, &'a Record, Ratio)> {
        let others = self.best(is_peer).or_else(|| self.best(|way| way == LIMIT));
        let Some(peer) = others else {
            return Vec::new();
        };
        let ours = self.records.iter().copied().filter(|record| is_ours(&record.way));
        ours.filter_map(|ours| {
            let ratio = Ratio::of(ours, peer)?;
            let (low, high) = ratio.range(ours.clock);
            let is_behind = if ours.more_is_better() { high < 1.0 } else { low > 1.0 };
            is_behind.then_some((ours, peer, ratio))
        })
        .collect()
    }
}

impl Ratio {
    /// How many times as much `a` is as `b`. As many turns of both are compared turn by turn, unless one was measured [alone](Record::alone); else
    /// the farthest values of both give the range. `None` where there is nothing, or nothing to divide by.
    #[must_use]
    pub fn of(a: &Record, b: &Record) -> Option<Self> {
        Self::of_turns(&a.turns, &b.turns, !(a.alone || b.alone))
    }

    fn of_turns(a: &[f64], b: &[f64], in_turns: bool) -> Option<Self> {
        if a.is_empty() || b.is_empty() || b.contains(&0.0) {
            return None;
        }
        let turns = a.len().min(b.len());
        if in_turns && a.len() == b.len() {
            let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
            let (low, high) = interval(&ratios);
            return Some(Self {
                median: median(&ratios),
                low,
                high,
                turns,
            });
        }
        let ((a_least, a_most), (b_least, b_most)) = (extremes(a), extremes(b));
        Some(Self {
            median: median(a) / median(b),
            low: a_least / b_most,
            high: a_most / b_least,
            turns,
        })
    }

    /// What it may be: calls that are counted are what they are; time and instructions are what they were in the turns.
    #[must_use]
    pub fn range(&self, clock: Clock) -> (f64, f64) {
        match clock {
            Clock::Wall | Clock::Instructions => (self.low, self.high),
            Clock::Count => (self.median, self.median),
        }
    }
}

/// Whether a way is one of ours.
#[must_use]
pub fn is_ours(way: &str) -> bool {
    way.starts_with("ours")
}

/// Whether a way is an alternative to ours.
#[must_use]
pub fn is_peer(way: &str) -> bool {
    !is_ours(way) && !way.starts_with(LIMIT)
}

/// The value in the middle; not a number of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let (above, below) = (sorted.len() / 2, sorted.len().saturating_sub(1) / 2);
    let at = |position: usize| sorted.get(position).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(below), at(above))
}

/// The least and the most; not numbers of nothing.
#[must_use]
pub fn extremes(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    let at = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
    (at(sorted.first()), at(sorted.last()))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Between which values the median lies in 95 of 100 cases, by their order alone; the extremes of fewer than six.
fn interval(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    let n = sorted.len();
    // How probable it is that at most `skipped` of n are on one side of the median, and how many may be left out on each side.
    let mut term = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let (mut probability, mut skipped) = (term, 0);
    while probability <= 0.025 && skipped < n {
        skipped += 1;
        term *= ratio_of_counts(n - skipped + 1, skipped);
        probability += term;
    }
    // The term that went beyond is not left out.
    let skipped = skipped.saturating_sub(1);
    let at = |position: Option<usize>| position.and_then(|position| sorted.get(position)).copied();
    let low = at(Some(skipped));
    let high = at(n.checked_sub(1 + skipped));
    (low.unwrap_or(f64::NAN), high.unwrap_or(f64::NAN))
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough for numbers of turns")]
fn ratio_of_counts(a: usize, b: usize) -> f64 {
    a as f64 / b as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_sorted_values() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }

    /// Both ways slow down together in the second turn: by turns they are alike, and by medians they would not be.
    #[test]
    fn turns_are_compared_with_one_another() {
        let ratio = Ratio::of_turns(&[1.0, 10.0, 1.1], &[1.0, 10.0, 1.0], true).unwrap();
        assert_eq!((ratio.median, ratio.low, ratio.turns), (1.0, 1.0, 3));
        assert!((ratio.high - 1.1).abs() < 1e-12);
        let uneven = Ratio::of_turns(&[1.0, 2.0], &[1.0, 2.0, 4.0], true).unwrap();
        assert_eq!((uneven.low, uneven.high), (0.25, 2.0));
        assert!(Ratio::of_turns(&[1.0], &[0.0], true).is_none() && Ratio::of_turns(&[], &[], true).is_none());
    }

    /// Ours was slower a hundred times, in another minute.
    #[test]
    fn what_took_no_turns_is_no_loss_as_long_as_the_values_of_both_meet() {
        let operation = crate::ops::all().pop().unwrap();
        let record = |way: &str, alone, values: [f64; 2]| Record {
            way: way.to_owned(),
            alone,
            ..operation.record(Clock::Wall, values.repeat(50))
        };
        let is_lost = |alone, theirs| {
            let [ours, theirs] = [record("ours", alone, [10.0, 12.0]), record("theirs", alone, theirs)];
            let mut comparison = Comparison::of(&ours);
            comparison.records.push(&theirs);
            !comparison.losses().is_empty()
        };
        let (near, far) = ([9.0, 11.0], [4.0, 5.0]);
        assert!(is_lost(false, near) && is_lost(false, far));
        assert!(!is_lost(true, near) && is_lost(true, far));
    }

    /// Ranks of the two-sided 95 % interval of a median: 1 and 6 of 6 (97 %), 2 and 9 of 10 (98 %), 6 and 15 of 20 (96 %).
    #[test]
    fn intervals_are_those_of_the_binomial_distribution() {
        let of = |n: u32| interval(&(1..=n).map(f64::from).collect::<Vec<_>>());
        assert_eq!(of(3), (1.0, 3.0));
        assert_eq!(of(6), (1.0, 6.0));
        assert_eq!(of(10), (2.0, 9.0));
        assert_eq!(of(20), (6.0, 15.0));
    }
}
