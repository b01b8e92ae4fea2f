//! What a report says, before it is Markdown or HTML: tables and charts.

use super::chart::{Chart, Group, Mark};
use super::compare::{Comparison, Ratio, extremes, median};
use super::curve::Curves;
use super::loss::{self, Loss};
use super::number::{plain, ratio};
use super::{Report, Run};
use crate::aims::{Bound, Judged, Judgement, Verdict};
use crate::causes;
use crate::record::{Clock, Record};
use std::collections::BTreeSet;

/// Rows under a head.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// Figures of one suite and one unit.
pub(super) struct Section {
    pub(super) title: String,
    pub(super) chart: Chart,
    /// Of the cases that have histograms, with their names.
    pub(super) curves: Vec<(String, Curves)>,
    pub(super) table: Table,
}

/// A chart with more cases than this is no longer read at a glance.
const CASES: usize = 12;

/// What every table of figures is explained by.
pub(super) const KEY: &str = "Each cell is the median of the turns, ± half of their range where they differ, and after the dot ours / this way, ours being the first \
    of our ways. Rates (…/s) are better when they are more, all else when it is less.";

/// What losses are explained by.
pub(super) const LOSSES: &str = "Ours is slower or dearer than the best other way, or an aim is missed although it is not. Of rates (…/s) less than 1 is worse, of \
    all else more than 1. The last column is the number of the cause below; – is not known.";

/// What stands above everything. Only the lab's machine has a QEMU around it.
pub(super) fn preface(report: &Report) -> String {
    let lab = report.runs.iter().any(|run| run.environment.facts.contains_key("QEMU"));
    format!("{ALL}{}", if lab { LAB } else { "" })
}

const ALL: &str = "Figures are compared within one run only. A ratio is ours / theirs and the median of the ratios of the turns that were \
    measured next to one another. A verdict needs turns that agree, and in time three or more of them; counts decide by what they are.";

const LAB: &str = " The lab is an emulated machine: how long something takes there says nothing of hardware, only which of two ways takes longer; \
    its clock of instructions counts the software on the path; what devices and the IOMMU do during an access costs nothing on it, and while all wait \
    for a device it goes on.";

impl Table {
    fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
        }
    }
}

/// Each aim with its verdict.
pub(super) fn aims(judgements: &[Judgement]) -> Table {
    let mut table = Table::new(&[
        "aim",
        "ratio should be",
        "ratio",
        "worst of",
        "case",
        "against",
        "verdict",
    ]);
    for judgement in judgements {
        let worst = judgement.worst();
        let of = |text: fn(&Judged) -> String| worst.map_or_else(|| "–".to_owned(), text);
        table.rows.push(vec![
            judgement.aim.text.to_owned(),
            bound(judgement.aim.bound),
            of(|case| range(&case.ratio)),
            match judgement.cases.len() {
                1 => "1 case".to_owned(),
                cases => format!("{cases} cases"),
            },
            of(|case| case.case.clone()),
            of(|case| case.theirs.clone()),
            verdict(judgement.verdict).to_owned(),
        ]);
    }
    table
}

impl Judgement {
    /// The case that its verdict is of; of equal ones, that whose ratio is the least good.
    pub(super) fn worst(&self) -> Option<&Judged> {
        let badness = |case: &Judged| match self.aim.bound {
            Bound::AtMost(_) => case.ratio.median,
            Bound::AtLeast(_) => -case.ratio.median,
        };
        let worse = |a: &&Judged, b: &&Judged| a.verdict.cmp(&b.verdict).then(badness(a).total_cmp(&badness(b)));
        self.cases.iter().max_by(worse)
    }
}

/// Where ours is behind.
pub(super) struct Losses {
    /// The last cell of a row is the number of its cause, from 1, or a dash.
    pub(super) table: Table,
    pub(super) causes: Vec<&'static str>,
    /// How many are too small or too uncertain to be listed.
    pub(super) small: usize,
}

/// A loss of no more than this, in which no aim is missed, is counted and not listed; so is one of too few turns.
const SMALL: f64 = 1.02;

/// All that is not as well as it should be, or as others have it, the farthest first.
pub(super) fn losses(report: &Report, judgements: &[Judgement]) -> Losses {
    let mut causes = Vec::new();
    let mut row = |loss: Loss| {
        let run = report.runs.get(loss.run);
        let ratio = if loss.is_figure {
            plain(loss.ratio.median)
        } else {
            range(&loss.ratio)
        };
        let aim = match loss.missed {
            Some(aim) => format!("missed: {}", bound(aim)),
            None => String::new(),
        };
        let mut number = || {
            let known = causes.iter().position(|cause| *cause == loss.why);
            known.unwrap_or_else(|| {
                causes.push(loss.why);
                causes.len() - 1
            }) + 1
        };
        let why = if loss.why == causes::UNKNOWN {
            "–".to_owned()
        } else {
            number().to_string()
        };
        vec![
            format!("{}: {}", loss.suite, loss.case),
            run.map_or_else(String::new, |run| run.environment.name.clone()),
            loss.ours,
            loss.theirs,
            ratio,
            aim,
            why,
        ]
    };
    let is_told = |loss: &Loss| !loss.too_few_turns && loss.ratio.median.ln().abs() > SMALL.ln();
    let is_large = |loss: &Loss| loss.missed.is_some() || is_told(loss);
    let (large, small): (Vec<_>, Vec<_>) = loss::all(report, judgements).into_iter().partition(is_large);
    let rows = large.into_iter().map(&mut row).collect();
    let head = &["what", "run", "ours", "theirs", "ours / theirs", "verdict", "why"];
    Losses {
        table: Table {
            rows,
            ..Table::new(head)
        },
        causes,
        small: small.len(),
    }
}

impl Losses {
    /// What is said of those that are not listed.
    pub(super) fn rest(&self) -> String {
        let cases = if self.small == 1 { "case" } else { "cases" };
        format!(
            "In {} more {cases} ours is behind by 2 % or less, or in time of too few turns to tell.",
            self.small
        )
    }
}

/// What there are no figures of.
pub(super) fn absences(report: &Report) -> Table {
    let mut table = Table::new(&["run", "suite", "case", "way", "why"]);
    let mut seen = BTreeSet::new();
    for run in &report.runs {
        for absence in &run.absences {
            let case = if absence.case.is_empty() { "all" } else { &absence.case };
            let name = &run.environment.name;
            let row = [name, &absence.suite, case, &absence.way, &absence.reason].map(str::to_owned);
            if seen.insert(row.clone()) {
                table.rows.push(row.to_vec());
            }
        }
    }
    table
}

/// What a run was on.
pub(super) fn environment(run: &Run) -> Table {
    let peers = run.environment.peers.iter();
    let peers = peers.map(|(name, version)| vec![format!("peer: {name}"), version.clone()]);
    let facts = run.environment.facts.iter();
    Table {
        rows: facts
            .map(|(name, value)| vec![name.clone(), value.clone()])
            .chain(peers)
            .collect(),
        ..Table::new(&["", ""])
    }
}

/// What several runs were all on; nothing of one alone.
pub(super) fn shared(report: &Report) -> Vec<Vec<String>> {
    let Some((first, others)) = report.runs.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Vec::new();
    };
    let mut rows = environment(first).rows;
    for run in others {
        let own = environment(run).rows;
        rows.retain(|row| own.contains(row));
    }
    rows
}

/// The figures of a run.
pub(super) fn sections(run: &Run) -> Vec<Section> {
    let comparisons = run.comparisons();
    let key = |comparison: &Comparison<'_>| {
        let subject = comparison.subject();
        (subject.suite.clone(), subject.clock, subject.unit.clone())
    };
    let mut keys: Vec<_> = Vec::new();
    for comparison in &comparisons {
        if !keys.contains(&key(comparison)) {
            keys.push(key(comparison));
        }
    }
    let sections = keys.into_iter().flat_map(|wanted| {
        let all: Vec<_> = comparisons
            .iter()
            .filter(|comparison| key(comparison) == wanted)
            .collect();
        let (suite, clock, unit) = wanted;
        let parts = all.chunks(CASES).count();
        let named = all.chunks(CASES).enumerate().map(|(part, some)| {
            let number = match parts {
                1 => String::new(),
                _ => format!(" ({} of {parts})", part + 1),
            };
            (
                format!("{suite}: {}{number}", measure(clock, &unit)),
                unit.clone(),
                some.to_vec(),
            )
        });
        named.collect::<Vec<_>>()
    });
    sections
        .map(|(title, unit, some)| section(title, unit, &some))
        .collect()
}

fn section(title: String, unit: String, comparisons: &[&Comparison<'_>]) -> Section {
    let mut ways: Vec<String> = Vec::new();
    let mut given: Vec<String> = Vec::new();
    for comparison in comparisons {
        for record in &comparison.records {
            push_new(&mut ways, &record.way);
        }
        for name in comparison.subject().given.keys() {
            push_new(&mut given, name);
        }
    }
    let mut table = Table::default();
    table.head.push("case".to_owned());
    table.head.extend(given.iter().chain(&ways).cloned());
    for comparison in comparisons {
        let subject = comparison.subject();
        let mut row = vec![subject.case.clone()];
        row.extend(
            given
                .iter()
                .map(|name| subject.given.get(name).cloned().unwrap_or_default()),
        );
        let reference = comparison.reference();
        row.extend(ways.iter().map(|way| match comparison.way(way) {
            Some(record) => cell(record, reference),
            None => "–".to_owned(),
        }));
        table.rows.push(row);
    }
    let groups = comparisons.iter().map(|comparison| Group {
        title: comparison.subject().title(),
        marks: comparison.records.iter().map(|record| mark(record)).collect(),
    });
    let curves = comparisons.iter().filter_map(|comparison| curves(comparison)).collect();
    let chart = Chart {
        axis: unit,
        groups: groups.collect(),
        ways,
    };
    Section {
        title,
        chart,
        curves,
        table,
    }
}

fn curves(comparison: &Comparison<'_>) -> Option<(String, Curves)> {
    let records = comparison
        .records
        .iter()
        .filter(|record| !record.distribution.is_empty());
    let ways: Vec<_> = records
        .map(|record| (record.way.clone(), record.distribution.clone()))
        .collect();
    let axis = comparison.subject().unit.clone();
    (!ways.is_empty()).then(|| (comparison.subject().title(), Curves { axis, ways }))
}

fn push_new(list: &mut Vec<String>, word: &str) {
    if !list.iter().any(|other| other == word) {
        list.push(word.to_owned());
    }
}

fn mark(record: &Record) -> Mark {
    Mark {
        way: record.way.clone(),
        value: median(&record.turns),
        range: extremes(&record.turns),
    }
}

fn cell(record: &Record, reference: Option<&Record>) -> String {
    let middle = median(&record.turns);
    let (least, most) = extremes(&record.turns);
    let mut cell = plain(middle);
    let spread = (most - least) / 2.0 / middle * 100.0;
    if spread >= 0.05 {
        cell += &format!(" ±{} %", plain((spread * 10.0).round() / 10.0));
    }
    let other = reference.filter(|reference| reference.way != record.way);
    if let Some(times) = other.and_then(|ours| Ratio::of(ours, record)) {
        cell += &format!(" · {}", ratio(times.median));
    }
    cell
}

fn measure(clock: Clock, unit: &str) -> String {
    match clock {
        Clock::Wall => format!("{unit}, by the clock"),
        Clock::Instructions | Clock::Count => unit.to_owned(),
    }
}

/// A ratio with its range, where that is one.
pub(super) fn range(of: &Ratio) -> String {
    let [median, low, high] = [of.median, of.low, of.high].map(ratio);
    if low == high {
        return median;
    }
    format!("{median} ({low} … {high})")
}

fn bound(bound: Bound) -> String {
    match bound {
        Bound::AtMost(most) => format!("≤ {}", plain(most)),
        Bound::AtLeast(least) => format!("≥ {}", plain(least)),
    }
}

pub(super) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::NotMeasured => "not measured",
        Verdict::Undecided => "undecided",
        Verdict::Missed => "missed",
    }
}
