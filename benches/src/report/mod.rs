//! What was measured, as one report: JSON, Markdown, and a page with charts that needs no other file.
//!
//! A [`Report`] is made of [`Run`]s; figures are compared within a run only. [`compare`] says how, [`crate::aims`] what they should come to.

pub mod chart;
pub mod compare;
pub mod curve;
mod html;
pub mod loss;
mod markdown;
mod number;
mod section;

use crate::aims::{self, Judgement};
use crate::record::{Absence, Environment, Line, MARK, Record};
use anyhow::{Context, Result, ensure};
use compare::Comparison;
use loss::Loss;
use serde::{Deserialize, Serialize};

/// Figures that were measured on one machine between its start and its end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What it was on.
    pub environment: Environment,
    /// Figures.
    pub records: Vec<Record>,
    /// What there is no figure of.
    pub absences: Vec<Absence>,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which they were done.
    pub runs: Vec<Run>,
    /// Where criterion's own pages are, seen from the report.
    #[serde(skip)]
    pub criterion: Option<String>,
}

/// A report as JSON: what was measured, and what it came to.
#[derive(Debug, Serialize)]
struct Judged<'a> {
    aims: Vec<Judgement>,
    losses: Vec<Loss>,
    runs: &'a [Run],
}

impl Run {
    /// Figures that may be compared with one another, in the order in which they were first said.
    #[must_use]
    pub fn comparisons(&self) -> Vec<Comparison<'_>> {
        let mut comparisons: Vec<Comparison<'_>> = Vec::new();
        for record in &self.records {
            match comparisons.iter_mut().find(|other| other.takes(record)) {
                Some(comparison) => comparison.records.push(record),
                None => comparisons.push(Comparison::of(record)),
            }
        }
        comparisons
    }
}

impl Report {
    /// Adds what a program printed. Lines without [`MARK`] are none of ours.
    ///
    /// An environment that follows another one without a figure between them says more of the same run; its name is the first one's, if that
    /// has one.
    ///
    /// # Errors
    /// When a line cannot be read, or the number of lines is not what the program says it was.
    pub fn add(&mut self, said: &str) -> Result<()> {
        self.runs.extend(runs(said)?.into_iter().filter(|run| !run.is_empty()));
        Ok(())
    }

    /// Each aim with what it came to.
    #[must_use]
    pub fn judgements(&self) -> Vec<Judgement> {
        aims::judge(&self.runs)
    }

    /// All of it for programs.
    ///
    /// # Errors
    /// None that should ever be: a figure that is no number.
    pub fn json(&self) -> Result<String> {
        let aims = self.judgements();
        let judged = Judged {
            losses: loss::all(self, &aims),
            aims,
            runs: &self.runs,
        };
        Ok(serde_json::to_string_pretty(&judged)? + "\n")
    }

    /// Tables for people.
    #[must_use]
    pub fn markdown(&self) -> String {
        markdown::write(self)
    }

    /// Tables and charts for people, as one file.
    #[must_use]
    pub fn html(&self) -> String {
        html::write(self)
    }
}

impl Run {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.absences.is_empty()
    }
}

/// What the first run is on that a program printed lines of, whether or not there are figures of it.
///
/// # Errors
/// As [`Report::add`], and when it says of none.
pub fn environment(said: &str) -> Result<Environment> {
    let first = runs(said)?.into_iter().next();
    Ok(first.context("no environment")?.environment)
}

/// All runs, those without a figure too.
fn runs(said: &str) -> Result<Vec<Run>> {
    let (mut runs, mut lines, mut has_end) = (Vec::<Run>::new(), 0_u64, false);
    for line in said.lines().filter_map(|line| line.strip_prefix(MARK)) {
        let line = serde_json::from_str(line).with_context(|| format!("not a line of a benchmark: {line}"))?;
        match line {
            Line::Environment(environment) => match runs.last_mut().filter(|run| run.is_empty()) {
                Some(run) => merge(&mut run.environment, environment),
                None => runs.push(Run {
                    environment,
                    ..Run::default()
                }),
            },
            Line::Record(record) => last(&mut runs)?.records.push(record),
            Line::Absence(absence) => last(&mut runs)?.absences.push(absence),
            Line::End { lines: there_were } => {
                ensure!(
                    lines == there_were,
                    "of {there_were} lines of a benchmark {lines} arrived"
                );
                (lines, has_end) = (0, true);
                continue;
            }
        }
        (lines, has_end) = (lines + 1, false);
    }
    ensure!(has_end, "the lines of a benchmark have no end");
    Ok(runs)
}

fn last(runs: &mut [Run]) -> Result<&mut Run> {
    runs.last_mut().context("a figure before any environment")
}

fn merge(first: &mut Environment, more: Environment) {
    if first.name.is_empty() {
        first.name = more.name;
    }
    first.facts.extend(more.facts);
    first.peers.extend(more.peers);
}

#[cfg(test)]
mod tests;
