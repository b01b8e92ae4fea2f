//! `sriovctl list` against `lspci -nnk`: whole processes on one generated machine, in turn, in one run.

use crate::Machine;
use crate::program::{Case, Turns};
use crate::record::Clock;
use anyhow::{Context, Result, ensure};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why there is nothing to compare with, if so.
#[must_use]
pub fn lspci_is_missing() -> Option<String> {
    let version = Command::new("lspci").arg("--version").stdout(Stdio::null()).status();
    version
        .err()
        .map(|error| format!("lspci: {error}; it comes with pciutils"))
}

/// What both programs took.
#[derive(Debug)]
pub struct Comparison {
    functions: usize,
    sriovctl: Times,
    lspci: Times,
}

impl Comparison {
    /// Lists the machine so many times with each program, after a run that is not counted. Builds `sriovctl` as its users have it, unless it is given.
    ///
    /// # Errors
    /// When a program cannot be built or run, fails, or does not list every function.
    pub fn run(machine: &Machine, rounds: usize, sriovctl: Option<PathBuf>) -> Result<Self> {
        let root = machine.tree.root();
        let mut sriovctl = Command::new(sriovctl.map_or_else(build_sriovctl, Ok)?);
        sriovctl
            .args(["list", "--sysroot"])
            .arg(root)
            .env_remove("SRIOVCTL_SYSROOT");
        let mut lspci = Command::new("lspci");
        let path = format!("sysfs.path={}", root.join("sys/bus/pci").display());
        lspci.args(["-A", "linux-sysfs", "-O", &path, "-nnk"]);

        // Each line of the table but its heading; each line of lspci that is not about the function above it.
        let listed = output(&mut sriovctl)?.lines().count() - 1;
        let shown = output(&mut lspci)?
            .lines()
            .filter(|line| !line.starts_with('\t'))
            .count();
        ensure!(
            listed == machine.functions && shown == machine.functions,
            "of {} functions sriovctl lists {listed}, lspci {shown}",
            machine.functions
        );

        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let mut both = [(&mut ours, &mut sriovctl), (&mut theirs, &mut lspci)];
            // Neither always follows the other.
            if round % 2 == 1 {
                both.reverse();
            }
            for (times, command) in both {
                times.push(time(command)?);
            }
        }
        Ok(Self {
            functions: machine.functions,
            sriovctl: Times::of(ours).context("no rounds")?,
            lspci: Times::of(theirs).context("no rounds")?,
        })
    }
}

impl Comparison {
    /// The figures of both, in milliseconds.
    #[must_use]
    pub fn figures(&self) -> (Case, Turns) {
        let case = Case {
            name: format!("{} functions", self.functions),
            given: [].into(),
            clock: Clock::Wall,
            unit: "ms",
        };
        let mut turns = Turns::default();
        for (way, times) in [("ours", &self.sriovctl), ("lspci -nnk", &self.lspci)] {
            for time in &times.turns {
                turns.add(way, time.as_secs_f64() * 1e3);
            }
        }
        (case, turns)
    }
}

/// A table, and the ratio in a line of its own.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            functions,
            sriovctl,
            lspci,
        } = self;
        writeln!(f, "{functions} functions, {} runs each in turn", sriovctl.turns.len())?;
        writeln!(f, "{:14}{:>12}{:>12}", "", "min", "median")?;
        for (name, times) in [("sriovctl list", sriovctl), ("lspci -nnk", lspci)] {
            let [min, median] = [times.min, times.median].map(|time| time.as_secs_f64() * 1e3);
            writeln!(f, "{name:14}{min:9.1} ms{median:9.1} ms")?;
        }
        let ratio = |lspci: Duration, sriovctl: Duration| lspci.as_secs_f64() / sriovctl.as_secs_f64();
        let (min, median) = (ratio(lspci.min, sriovctl.min), ratio(lspci.median, sriovctl.median));
        write!(f, "ratio         {min:11.1}x{median:11.1}x")
    }
}

#[derive(Debug)]
struct Times {
    /// In the order in which they were measured.
    turns: Vec<Duration>,
    min: Duration,
    median: Duration,
}

impl Times {
    fn of(turns: Vec<Duration>) -> Option<Self> {
        let mut times = turns.clone();
        times.sort_unstable();
        Some(Self {
            turns,
            min: *times.first()?,
            median: *times.get(times.len() / 2)?,
        })
    }
}

/// The optimised program. Where cargo puts it is cargo's affair, so it is asked.
fn build_sriovctl() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--package", "sriovctl"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    let messages = output(&mut command)?;
    let messages = messages.lines().flat_map(serde_json::from_str::<serde_json::Value>);
    let mut programs = messages.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)));
    programs.next_back().context("cargo names no program")
}

/// What a program prints.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// How long a run takes when nobody looks at what it prints. What it had to complain about was seen before.
fn time(command: &mut Command) -> Result<Duration> {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status().with_context(|| format!("{command:?}"))?;
    let took = start.elapsed();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_ratio_are_those_of_the_sorted_times() {
        let times = |list: &[u64]| Times::of(list.iter().map(|ms| Duration::from_millis(*ms)).collect()).unwrap();
        let comparison = Comparison {
            functions: 8,
            sriovctl: times(&[4, 2, 9]),
            lspci: times(&[100, 90, 80]),
        };
        let text = comparison.to_string();
        let last = text.lines().last().unwrap().split_whitespace();
        assert_eq!(last.collect::<Vec<_>>(), ["ratio", "40.0x", "22.5x"], "{text}");
        assert!(text.contains("2.0 ms      4.0 ms"), "{text}");
        let (_, turns) = comparison.figures();
        assert_eq!(turns.of("ours"), [4.0, 2.0, 9.0]);
        assert!(Times::of(vec![]).is_none());
    }
}
