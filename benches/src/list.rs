//! `sriovctl list`, as a table and as JSON, against `lspci -nnk`: whole processes on one generated machine, in turn, in one run.

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

/// The programs, by what is typed.
const WAYS: [&str; 3] = ["sriovctl list", "sriovctl list --json", "lspci -nnk"];

/// What the programs took, round for round.
#[derive(Debug)]
pub struct Comparison {
    functions: usize,
    /// In seconds.
    times: [Vec<f64>; WAYS.len()],
}

impl Comparison {
    /// Lists the machine so many times with each program, after a run that is not counted. Builds `sriovctl` as its users have it.
    ///
    /// # Errors
    /// When a program cannot be built or run, fails, or does not list every function.
    pub fn run(machine: &Machine, rounds: usize, sriovctl: Option<PathBuf>) -> Result<Self> {
        let root = machine.tree.root();
        let program = sriovctl.map_or_else(build_sriovctl, Ok)?;
        let sriovctl = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command
                .args(arguments)
                .arg("--sysroot")
                .arg(root)
                .env_remove("SRIOVCTL_SYSROOT");
            command
        };
        let mut lspci = Command::new("lspci");
        let path = format!("sysfs.path={}", root.join("sys/bus/pci").display());
        lspci.args(["-A", "linux-sysfs", "-O", &path, "-nnk"]);
        let mut commands = [sriovctl(&["list"]), sriovctl(&["list", "--json"]), lspci];

        for (command, list) in commands.iter_mut().zip([count_table, count_json, count_lspci]) {
            let listed = list(&output(command)?)?;
            let functions = machine.functions;
            ensure!(
                listed == functions,
                "of {functions} functions {command:?} lists {listed}"
            );
        }
        let mut times = [const { Vec::new() }; WAYS.len()];
        for round in 0..rounds {
            // None always follows the same one.
            let first = round % WAYS.len();
            for at in (first..WAYS.len()).chain(0..first) {
                if let (Some(times), Some(command)) = (times.get_mut(at), commands.get_mut(at)) {
                    times.push(time(command)?.as_secs_f64());
                }
            }
        }
        ensure!(rounds > 0, "no rounds");
        Ok(Self {
            functions: machine.functions,
            times,
        })
    }

    /// The figures of all ways, in milliseconds.
    #[must_use]
    pub fn figures(&self) -> (Case, Turns) {
        let case = Case {
            name: format!("{} functions", self.functions),
            given: [].into(),
            clock: Clock::Wall,
            unit: "ms",
        };
        let mut turns = Turns::default();
        for (way, times) in WAYS.iter().zip(&self.times) {
            for seconds in times {
                turns.add(&way.replace("sriovctl list", "ours"), seconds * 1e3);
            }
        }
        (case, turns)
    }
}

/// Each line of the table but its heading.
fn count_table(text: &str) -> Result<usize> {
    text.lines().count().checked_sub(1).context("no table")
}

fn count_json(text: &str) -> Result<usize> {
    let document: serde_json::Value = serde_json::from_str(text)?;
    let functions = document.get("functions").and_then(serde_json::Value::as_array);
    Ok(functions.context("no list of functions")?.len())
}

/// Each line that is not about the function above it.
fn count_lspci(text: &str) -> Result<usize> {
    Ok(text.lines().filter(|line| !line.starts_with('\t')).count())
}

/// A table, and the ratio of lspci to the first in a line of its own.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ours, _, lspci] = &self.times;
        writeln!(f, "{} functions, {} runs each in turn", self.functions, ours.len())?;
        writeln!(f, "{:20}{:>12}{:>12}", "", "min", "median")?;
        for (name, times) in WAYS.iter().zip(&self.times) {
            let [min, median] = least_and_median(times).map(|time| time * 1e3);
            writeln!(f, "{name:20}{min:9.1} ms{median:9.1} ms")?;
        }
        let [ours, lspci] = [ours, lspci].map(|times| least_and_median(times));
        let [min, median] = std::array::from_fn(|at| {
            lspci
                .get(at)
                .zip(ours.get(at))
                .map_or(0.0, |(lspci, ours)| lspci / ours)
        });
        write!(f, "ratio               {min:11.1}x{median:11.1}x")
    }
}

fn least_and_median(times: &[f64]) -> [f64; 2] {
    let mut times = times.to_vec();
    times.sort_unstable_by(f64::total_cmp);
    [0, times.len() / 2].map(|at| times.get(at).copied().unwrap_or(f64::NAN))
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
        let comparison = Comparison {
            functions: 8,
            times: [[4.0, 2.0, 9.0], [5.0, 6.0, 7.0], [100.0, 90.0, 80.0]].map(|list| list.map(|ms| ms / 1e3).into()),
        };
        let text = comparison.to_string();
        let last = text.lines().last().unwrap().split_whitespace();
        assert_eq!(last.collect::<Vec<_>>(), ["ratio", "40.0x", "22.5x"], "{text}");
        assert!(text.contains("2.0 ms      4.0 ms"), "{text}");
        let (_, turns) = comparison.figures();
        assert_eq!(turns.of("lspci -nnk").len(), 3);
    }

    #[test]
    fn functions_are_counted_in_what_each_program_prints() {
        assert_eq!(count_table("BDF CLASS\n00:00.0 x\n00:01.0 y\n").unwrap(), 2);
        assert_eq!(count_json(r#"{"functions": [{}, {}, {}]}"#).unwrap(), 3);
        assert_eq!(
            count_lspci("00:00.0 x\n\tKernel driver in use: y\n00:01.0 z\n").unwrap(),
            2
        );
    }
}
