//! What a benchmark says: one JSON object per line, so that programs in the lab and on the host feed one report.
//!
//! A line begins with [`MARK`]; all else that a program prints is for the user. Figures of one [`Environment`] may be compared with one another,
//! and with no others.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Begins a line that is a [`Line`].
pub const MARK: &str = "bench: ";

/// One thing that a program says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum Line {
    /// What the records after it were measured on.
    Environment(Environment),
    /// A figure.
    Record(Record),
    /// A figure that there is not.
    Absence(Absence),
    /// The last line, by which a report knows that none was lost.
    End {
        /// How many lines were before it.
        lines: u64,
    },
}

/// What a run was on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// What is measured there, as a title: "lab, instructions".
    pub name: String,
    /// Processor, kernel, compiler, profile, commit, QEMU, IOMMU, load of the host…: whatever a reader needs to judge a figure.
    pub facts: BTreeMap<String, String>,
    /// Versions of what ours is compared with.
    pub peers: BTreeMap<String, String>,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// Time that passed. Noisy: compared by the ratios of turns.
    Wall,
    /// Instructions of the processor, or of the whole emulated machine.
    Instructions,
    /// Something that is counted exactly: calls, bytes.
    Count,
}

/// A figure, once for each turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it belongs to: `map`, `interrupt`, `nvme`…
    pub suite: String,
    /// What was done, without who did it: `map 4 KiB`.
    pub case: String,
    /// Who did it: `ours`, `raw`, `vfio-ioctls`…
    pub way: String,
    /// The circumstances: interface, pages, bytes, threads, depth…
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given: BTreeMap<String, String>,
    /// What it counts.
    pub clock: Clock,
    /// Its unit: `ns/op`, `instructions/op`, `op/s`, `system calls/op`, `bytes`.
    pub unit: String,
    /// One value for each turn, in the order of the turns, which the ways of a case took by turns: the n-th of one way and the n-th of another
    /// were measured next to one another, if it is not [`alone`](Self::alone).
    pub turns: Vec<f64>,
    /// Whether all its turns were measured at one time, and those of other ways at another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// A histogram, where there is one: upper bounds and how many were at most that and above the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distribution: Vec<(f64, u64)>,
}

impl Record {
    /// Whether a larger figure is the better one: a rate.
    #[must_use]
    pub fn more_is_better(&self) -> bool {
        self.unit.ends_with("/s")
    }

    /// The case with its circumstances, as far as it does not say them itself.
    #[must_use]
    pub fn title(&self) -> String {
        let given = self.given.iter().filter(|(name, value)| {
            let is_word = value.parse::<f64>().is_err() && self.case.contains(value.as_str());
            !is_word && !self.case.contains(&format!("{value} {name}"))
        });
        let given = given.map(|(name, value)| format!(", {name} {value}"));
        std::iter::once(self.case.clone()).chain(given).collect()
    }
}

/// A figure that cannot be had, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// As in [`Record::suite`].
    pub suite: String,
    /// As in [`Record::case`]; all cases when empty.
    pub case: String,
    /// As in [`Record::way`].
    pub way: String,
    /// Why.
    pub reason: String,
}

/// Writes lines and counts them.
#[derive(Debug)]
pub struct Lines<W> {
    to: W,
    lines: u64,
}

impl<W: Write> Lines<W> {
    /// Nothing is written yet.
    pub fn new(to: W) -> Self {
        Self { to, lines: 0 }
    }

    /// Writes one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn say(&mut self, line: &Line) -> io::Result<()> {
        self.lines += 1;
        self.write(line)
    }

    /// Says that there are no more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self) -> io::Result<()> {
        let lines = self.lines;
        self.write(&Line::End { lines })
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let text = serde_json::to_string(line)?;
        writeln!(self.to, "{MARK}{text}")?;
        self.to.flush()
    }
}
