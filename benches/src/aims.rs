//! What the figures should come to, and whether they do.
//!
//! A ratio is always ours / theirs, of one run. Counts decide by what they are; instructions and time when the turns agree, time only when there are
//! three or more, see [`Ratio`].

use crate::record::{Clock, Record};
use crate::report::Run;
use crate::report::compare::{Comparison, Ratio, is_peer, median};
use serde::Serialize;

/// Fewer turns than this decide nothing about time.
const TURNS: usize = 3;

/// How much faster than the logarithm a cost may grow that is called logarithmic: from 10³ to 10⁶ the fifth root of the number grows twice as fast.
pub const LOGARITHMIC: f64 = 1.25;

/// What a figure should come to.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Aim {
    /// In words.
    pub text: &'static str,
    /// As in [`Record::suite`].
    pub suite: &'static str,
    /// As in [`Record::case`]; each case of the suite when empty.
    pub cases: &'static [&'static str],
    /// Of these circumstances only, as in [`Record::given`].
    pub given: &'static [(&'static str, &'static str)],
    /// What decides.
    pub clock: Clock,
    /// Of these ways of ours the best counts.
    pub ours: &'static [&'static str],
    /// What it is set against.
    pub against: Against,
    /// What the ratio should be.
    pub bound: Bound,
}

/// What ours is set against.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// The best of these ways.
    Ways(&'static [&'static str]),
    /// The best of all that are alternatives to ours.
    Peers,
    /// The same way with the fewest, at the most of what is counted by this circumstance; and the growth of the cost is set against that of the
    /// logarithm of the number.
    Growth(&'static str),
    /// Nothing: the figure itself is bounded.
    Nothing,
}

/// A bound of a ratio, or of a figure.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Not above this.
    AtMost(f64),
    /// Not below this.
    AtLeast(f64),
}

impl Bound {
    /// The ratio, on whichever side of it.
    #[must_use]
    pub const fn ratio(self) -> f64 {
        match self {
            Self::AtMost(ratio) | Self::AtLeast(ratio) => ratio,
        }
    }
}

/// Whether an aim is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is.
    Met,
    /// There are no figures of it.
    NotMeasured,
    /// The turns differ by more than what would decide, or are too few.
    Undecided,
    /// It is not.
    Missed,
}

/// What an aim came to.
#[derive(Debug, Clone, Serialize)]
pub struct Judgement {
    /// The aim.
    #[serde(flatten)]
    pub aim: &'static Aim,
    /// That of the worst case.
    pub verdict: Verdict,
    /// Each case.
    pub cases: Vec<Judged>,
}

/// What an aim came to in one case.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// The run, by its place in the report.
    pub run: usize,
    /// The case, with its circumstances.
    pub case: String,
    /// Our way.
    pub ours: String,
    /// Theirs, or the other case.
    pub theirs: String,
    /// Ours / theirs; the figure itself, where nothing is set against it.
    pub ratio: Ratio,
    /// Whether it is as it should be.
    pub verdict: Verdict,
}

const fn overhead(text: &'static str, suite: &'static str) -> Aim {
    Aim {
        text,
        suite,
        cases: &[],
        given: &[],
        clock: Clock::Instructions,
        ours: &["ours"],
        against: Against::Ways(&["raw"]),
        bound: Bound::AtMost(1.02),
    }
}

const fn rate(text: &'static str, suite: &'static str) -> Aim {
    Aim {
        text,
        suite,
        cases: &[],
        given: &[],
        clock: Clock::Wall,
        ours: &["ours", "ours polled", "ours interrupt"],
        against: Against::Peers,
        bound: Bound::AtLeast(1.0),
    }
}

const fn cost(text: &'static str, suite: &'static str) -> Aim {
    Aim {
        clock: Clock::Instructions,
        bound: Bound::AtMost(1.0),
        ..rate(text, suite)
    }
}

/// The ways of `bench-nvme` that go through the kernel's block layer.
const KERNELS_NVME: &[&str] = &["fio io_uring", "fio iopoll"];
const ONE_AT_A_TIME: &[(&str, &str)] = &[("depth", "1")];

/// The aims, in the order of the report.
pub const AIMS: &[Aim] = &[
    overhead("mapping costs at most 2 % more than the bare calls", "map"),
    overhead(
        "a wake by an interrupt costs at most 2 % more than a bare read",
        "interrupt",
    ),
    Aim {
        text: "an IOVA's cost grows with the live ranges as their logarithm, or less",
        suite: "iova",
        cases: &[],
        given: &[],
        clock: Clock::Instructions,
        ours: &["ours"],
        against: Against::Growth("live"),
        bound: Bound::AtMost(LOGARITHMIC),
    },
    Aim {
        text: "a buffer from a pool costs no system call",
        suite: "pool",
        cases: &[],
        given: &[],
        clock: Clock::Count,
        // What a pool does beside calls to VFIO is seen on a device only.
        ours: &["ours, pool"],
        against: Against::Nothing,
        bound: Bound::AtMost(0.0),
    },
    rate("NVMe: as many reads as the best peer, or more", "nvme"),
    cost(
        "NVMe: a read costs the whole machine no more than with the best peer",
        "nvme",
    ),
    // Where a read is waited for before the next is asked for, the software decides and not the device.
    Aim {
        text: "NVMe: with one read at a time, at least 1.5 times as many as through the kernel",
        given: ONE_AT_A_TIME,
        against: Against::Ways(KERNELS_NVME),
        bound: Bound::AtLeast(1.5),
        ..rate("", "nvme")
    },
    Aim {
        text: "NVMe: one read at a time costs the whole machine at most two thirds of what it costs through the kernel",
        given: ONE_AT_A_TIME,
        against: Against::Ways(KERNELS_NVME),
        bound: Bound::AtMost(1.0 / 1.5),
        ..cost("", "nvme")
    },
    rate("VFs: as many frames as the best peer, or more", "packets"),
    cost("VFs: a frame costs no more than with the best peer", "packets"),
    Aim {
        text: "127 VFs are created and bound at least ten times as fast as by a loop of driverctl",
        suite: "vfs",
        cases: &["127 VFs created and bound"],
        given: &[],
        clock: Clock::Wall,
        ours: &["ours"],
        against: Against::Ways(&["driverctl"]),
        bound: Bound::AtMost(0.1),
    },
    Aim {
        text: "VFs have done their first I/O at least ten times as fast as with a loop of driverctl",
        suite: "vfs",
        // Of the second there is one turn, for it takes minutes.
        cases: &[
            "16 VFs created, bound, opened and a block read by each",
            "127 VFs created, bound, opened and a block read by each",
        ],
        given: &[],
        clock: Clock::Wall,
        ours: &["ours", "ours, 16 threads"],
        against: Against::Ways(&["driverctl"]),
        bound: Bound::AtMost(0.1),
    },
    Aim {
        text: "a guest is there in at most half the time that QEMU takes",
        suite: "guest",
        cases: &[],
        given: &[],
        clock: Clock::Wall,
        ours: &["ours"],
        against: Against::Peers,
        bound: Bound::AtMost(0.5),
    },
    Aim {
        text: "a guest is there with at most half the instructions, waits included, that it takes with QEMU",
        suite: "guest",
        cases: &[],
        given: &[],
        clock: Clock::Instructions,
        ours: &["ours"],
        against: Against::Peers,
        bound: Bound::AtMost(0.5),
    },
    Aim {
        text: "a list of 16, 256 or 4,096 functions takes no longer than lspci's",
        suite: "list",
        cases: &[],
        given: &[],
        clock: Clock::Wall,
        ours: &["ours"],
        against: Against::Peers,
        bound: Bound::AtMost(1.0),
    },
];

/// What each aim came to.
#[must_use]
pub fn judge(runs: &[Run]) -> Vec<Judgement> {
    AIMS.iter().map(|aim| aim.judge(runs)).collect()
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    fn verdict(self, ratio: &Ratio, clock: Clock) -> Verdict {
        let (low, high) = ratio.range(clock);
        match (self.holds(low), self.holds(high)) {
            _ if clock == Clock::Wall && ratio.turns < TURNS => Verdict::Undecided,
            (true, true) => Verdict::Met,
            (false, false) => Verdict::Missed,
            _ => Verdict::Undecided,
        }
    }
}

impl Aim {
    fn judge(&'static self, runs: &[Run]) -> Judgement {
        let mut cases = Vec::new();
        for (position, run) in runs.iter().enumerate() {
            let comparisons = run.comparisons();
            for comparison in comparisons
                .iter()
                .filter(|comparison| self.is_about(comparison.subject()))
            {
                cases.extend(self.judge_case(position, comparison, &comparisons));
            }
        }
        let worst = cases.iter().map(|case| case.verdict).max();
        Judgement {
            aim: self,
            verdict: worst.unwrap_or(Verdict::NotMeasured),
            cases,
        }
    }

    fn is_about(&self, record: &Record) -> bool {
        record.suite == self.suite
            && record.clock == self.clock
            && (self.cases.is_empty() || self.cases.contains(&record.case.as_str()))
            && self
                .given
                .iter()
                .all(|(name, value)| record.given.get(*name).is_some_and(|given| given == value))
    }

    fn judge_case(&self, run: usize, comparison: &Comparison<'_>, all: &[Comparison<'_>]) -> Option<Judged> {
        let ours = comparison.best(|way| self.ours.contains(&way))?;
        let (theirs, ratio) = match self.against {
            Against::Ways(ways) => with(ours, comparison.best(|way| ways.contains(&way))?)?,
            Against::Peers => with(ours, comparison.best(is_peer)?)?,
            Against::Growth(count) => growth(ours, count, all)?,
            Against::Nothing => {
                let figure = median(&ours.turns);
                let ratio = Ratio {
                    median: figure,
                    low: figure,
                    high: figure,
                    turns: ours.turns.len(),
                };
                (String::new(), ratio)
            }
        };
        Some(Judged {
            run,
            case: ours.title(),
            ours: ours.way.clone(),
            theirs,
            ratio,
            verdict: self.bound.verdict(&ratio, self.clock),
        })
    }
}

/// For the case with the most: the case with the fewest, and the growth of the cost for that of the logarithm.
fn growth(ours: &Record, count: &str, all: &[Comparison<'_>]) -> Option<(String, Ratio)> {
    let number = |record: &Record| record.given.get(count)?.parse::<f64>().ok();
    // All that is not the number.
    let series = |record: &Record| {
        let number = record.given.get(count).cloned().unwrap_or_default();
        (
            record.suite.clone(),
            record.case.replace(&number, ""),
            record.unit.clone(),
        )
    };
    let same = all.iter().filter_map(|comparison| comparison.way(&ours.way));
    let same = same.filter(|record| record.clock == ours.clock && series(record) == series(ours));
    let counted: Vec<(f64, &Record)> = same.filter_map(|record| Some((number(record)?, record))).collect();
    let fewest = counted.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
    let most = counted.iter().map(|(number, _)| *number).fold(0.0, f64::max);
    if number(ours)? < most || fewest.0 >= most {
        return None;
    }
    let of_log = most.ln() / fewest.0.ln();
    let grown = Ratio::of(ours, fewest.1)?;
    let ratio = Ratio {
        median: grown.median / of_log,
        low: grown.low / of_log,
        high: grown.high / of_log,
        turns: grown.turns,
    };
    Some((format!("{}, by the logarithm", fewest.1.case), ratio))
}

fn with(ours: &Record, theirs: &Record) -> Option<(String, Ratio)> {
    Some((theirs.way.clone(), Ratio::of(ours, theirs)?))
}

#[cfg(test)]
mod tests;
