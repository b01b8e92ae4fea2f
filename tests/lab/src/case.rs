//! Tests that run inside the lab, each in a process of its own.
//!
//! A test program lists its [`Case`]s and hands them to [`main`]. The lab asks it for the list, boots the machines that the cases
//! want, and runs them one by one: the exit status says pass, fail or skip, and what the kernel logged meanwhile counts too.

use crate::Machine;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::process::ExitCode;

/// Exit status of a skipped case, as automake's test driver knows it.
pub(crate) const SKIPPED: u8 = 77;

/// Exit status of a case that holds, but not at once.
pub(crate) const RETRIED: u8 = 78;

/// How a case that did not fail ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It holds, but not at once, for this reason.
    Retried(String),
    /// It could not run, for this reason.
    Skipped(String),
}

/// One test.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name, unique in its program.
    pub name: &'static str,
    /// The machine that it needs. Cases with equal machines share one boot.
    pub machine: Machine,
    /// Whether it needs a machine that no other case has touched.
    pub fresh: bool,
    /// Whether faults of the IOMMU are what it is about.
    pub faults_expected: bool,
    /// Time limit in seconds.
    pub limit_s: u64,
    /// The test. An error or a panic fails it.
    pub run: fn() -> Result<Outcome>,
}

/// A case as the lab sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) machine: Machine,
    pub(crate) fresh: bool,
    pub(crate) faults_expected: bool,
    pub(crate) limit_s: u64,
}

impl Case {
    /// A case on the default machine with two minutes of time.
    #[must_use]
    pub fn new(name: &'static str, run: fn() -> Result<Outcome>) -> Self {
        Self {
            name,
            machine: Machine::default(),
            fresh: false,
            faults_expected: false,
            limit_s: 120,
            run,
        }
    }
}

/// What is done around every case, such as comparing the machine before and after.
pub type Around = fn(&dyn Fn() -> Result<Outcome>) -> Result<Outcome>;

/// The body of a test program: `list` prints the cases as JSON, `run NAME` runs one, with `around` around it.
#[must_use]
pub fn main(cases: &[Case], around: Around) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["list"] => list(cases).map(|()| ExitCode::SUCCESS),
        ["run", name] => run(cases, name, around),
        _ => Err(anyhow::anyhow!("usage: list | run NAME; `cargo lab test` does both")),
    };
    result.unwrap_or_else(|error| {
        crate::progress::say(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

fn list(cases: &[Case]) -> Result<()> {
    let listed: Vec<Listed> = cases
        .iter()
        .map(|case| Listed {
            name: case.name.to_owned(),
            machine: case.machine.clone(),
            fresh: case.fresh,
            faults_expected: case.faults_expected,
            limit_s: case.limit_s,
        })
        .collect();
    serde_json::to_writer(std::io::stdout().lock(), &listed)?;
    Ok(())
}

fn run(cases: &[Case], name: &str, around: Around) -> Result<ExitCode> {
    if std::env::var_os("LAB").is_none() {
        bail!("these tests change the machine they run on: they run in the lab only (cargo lab test --filter {name})");
    }
    let case = cases
        .iter()
        .find(|case| case.name == name)
        .with_context(|| format!("no test {name}"))?;
    let (reason, status) = match around(&case.run)? {
        Outcome::Passed => return Ok(ExitCode::SUCCESS),
        Outcome::Retried(reason) => (reason, RETRIED),
        Outcome::Skipped(reason) => (reason, SKIPPED),
    };
    write!(std::io::stdout().lock(), "{reason}")?;
    Ok(ExitCode::from(status))
}
