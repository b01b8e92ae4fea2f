//! Conformance: the kernel's own suites for VFIO and iommufd, and our cases of the same names, run in one machine and compared.
//!
//! The test program (`system-tests`, `vm/conformance`) prepares the machine for one file of cases and speaks TAP, as the kernel's
//! programs do:
//!
//! - `list` prints the [`File`]s with our cases for the kernel named by `LAB`;
//! - `ours FILE FILTER` runs our cases;
//! - `theirs FILE PROGRAM ARGUMENTS…` runs the kernel's program in the same surroundings.

mod table;

use crate::report::{Report, Verdict};
use crate::tap::Tap;
use crate::{Kernel, Machine, Output, Qemu, Trouble, Vm, vm_tests};
use anyhow::{Context, Result};
use lab_init::Exec;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use table::Table;

/// One file of cases: a program of the kernel's, and what we have beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct File {
    /// The kernel's name for the program.
    pub name: String,
    /// The machine that it needs.
    pub machine: Machine,
    /// Names of our cases: the kernel's, with `conf_vfio_` or `conf_iommufd_` instead of its own prefix.
    pub cases: Vec<String>,
    /// Time limit in seconds, for ours and for theirs.
    pub limit_s: u64,
    /// Arguments that make the kernel's program take less time; all of its cases are run without them.
    pub short: Vec<String>,
    /// Why cases of the kernel's program fail, where they do.
    pub remark: String,
}

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Only cases whose name contains this. The kernel's programs run whole, and only where one of our cases is chosen.
    pub filter: Option<&'a str>,
    /// The directory of the kernel's programs; none runs only ours.
    pub theirs: Option<&'a Path>,
    /// All of the kernel's cases, also the slow ones.
    pub all: bool,
}

/// The parts that a run needs.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    /// QEMU.
    pub qemu: &'a Qemu,
    /// The kernel to boot.
    pub kernel: &'a Kernel,
    /// Our test program.
    pub program: &'a Path,
    /// Turns arguments into a command of the lab.
    pub exec: &'a dyn Fn(Vec<String>) -> Exec,
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench")
            .field("kernel", self.kernel)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

/// The name of our case beside a case of the kernel's.
#[must_use]
pub fn ours_beside(file: &str, theirs: &str) -> String {
    if file.starts_with("vfio") {
        format!("conf_vfio_{}", theirs.strip_prefix("vfio_").unwrap_or(theirs))
    } else {
        format!("conf_iommufd_{}", theirs.strip_prefix("iommufd_").unwrap_or(theirs))
    }
}

/// Runs the files and adds our cases, one entry for each program of the kernel's, and the comparison to `report`.
///
/// # Errors
/// When the test program cannot be asked for its cases.
pub fn run(report: &mut Report, bench: &Bench<'_>, selection: &Selection<'_>) -> Result<()> {
    let flavour = bench.kernel.flavour;
    let mut table = Table::default();
    let mut running: Option<(Machine, Vm)> = None;
    for mut file in list(bench)? {
        file.cases
            .retain(|case| selection.filter.is_none_or(|filter| case.contains(filter)));
        if file.cases.is_empty() {
            continue;
        }
        let mut runs = vec![Side::Ours];
        runs.extend(selection.theirs.map(|_| Side::Theirs));
        for side in runs {
            if running.as_ref().is_none_or(|(machine, _)| *machine != file.machine) {
                if let Some((_, vm)) = running.take() {
                    vm.power_off();
                }
                match vm_tests::boot(bench.qemu, bench.kernel, &file.machine) {
                    Ok(vm) => running = Some((file.machine.clone(), vm)),
                    Err(error) => {
                        report.add(
                            format!("lab/{flavour} machine for {}", file.name),
                            Verdict::Failed(format!("{error:#}")),
                            None,
                        );
                        continue;
                    }
                }
            }
            let Some((_, vm)) = &mut running else { continue };
            let start = Instant::now();
            let (tap, trouble) = bench.run(vm, &file, side, selection);
            if trouble.is_some() {
                // A kernel that complained, or a machine that is lost, serves nobody else.
                running = None;
            }
            match side {
                Side::Ours => {
                    add_ours(report, &format!("lab/{flavour}"), &file, &tap, trouble);
                    table.ours(&file.name, &tap.results);
                }
                Side::Theirs => {
                    let verdict = judge_theirs(&tap, trouble, &file.remark);
                    report.add(
                        format!("lab/{flavour} the kernel's own {}", file.name),
                        verdict,
                        Some(start.elapsed()),
                    );
                    table.theirs(&file.name, &tap.results);
                }
            }
        }
    }
    if let Some((_, vm)) = running {
        vm.power_off();
    }
    if !table.is_empty() {
        report.note(table.text(&format!("conformance on the {flavour} kernel")));
        if let Some(verdict) = table.comparison(selection.filter) {
            report.add(
                format!("lab/{flavour} conf: what the kernel's own suites pass, ours pass"),
                verdict,
                None,
            );
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

impl Bench<'_> {
    /// Runs one side of a file. What went wrong beside the cases themselves comes second.
    fn run(&self, vm: &mut Vm, file: &File, side: Side, selection: &Selection<'_>) -> (Tap, Option<String>) {
        let mut argv = vec![self.program.display().to_string()];
        match (side, selection.theirs) {
            (Side::Theirs, Some(dir)) => {
                argv.extend(["theirs".to_owned(), file.name.clone()]);
                argv.push(dir.join(&file.name).display().to_string());
                argv.extend(file.short.iter().filter(|_| !selection.all).cloned());
            }
            _ => {
                argv.extend(["ours".to_owned(), file.name.clone()]);
                argv.extend(selection.filter.map(str::to_owned));
            }
        }
        let mut said = Vec::new();
        let limit = Duration::from_secs(if selection.all { file.limit_s * 4 } else { file.limit_s });
        let finished = vm.run(&(self.exec)(argv), limit, |output| match output {
            Output::Stdout(bytes) | Output::Stderr(bytes) => said.extend_from_slice(bytes),
        });
        let said = String::from_utf8_lossy(&said);
        let tap = Tap::read(&said);
        let trouble = match finished {
            Err(error) => Some(format!("{error:#}")),
            Ok(finished) => {
                // Cases of both sides make devices reach where they may not.
                let complaints: Vec<&str> = finished
                    .troubles()
                    .filter(|(trouble, _)| *trouble != Trouble::DmaFault)
                    .map(|(_, record)| record.text.as_str())
                    .collect();
                if !complaints.is_empty() {
                    Some(format!("the kernel complained:\n{}", complaints.join("\n")))
                } else {
                    tap.shortfall()
                        .map(|short| format!("{short}; status {}", finished.status()))
                }
            }
        };
        (tap, trouble.map(|trouble| format!("{trouble}\n{}", tail(&said))))
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(15)..)
        .unwrap_or_default()
        .join("\n")
}

fn list(bench: &Bench<'_>) -> Result<Vec<File>> {
    let output = Command::new(bench.program)
        .arg("list")
        .env("LAB", bench.kernel.flavour.to_string())
        .output()
        .with_context(|| format!("start {}", bench.program.display()))?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{} list", bench.program.display()))
}

/// Every case that was asked for gets an entry, also one that was never reached.
fn add_ours(report: &mut Report, prefix: &str, file: &File, tap: &Tap, trouble: Option<String>) {
    for case in &file.cases {
        let verdict = tap.results.iter().find(|(name, _)| name == case).map_or_else(
            || Verdict::Failed("it was not reached".to_owned()),
            |(_, verdict)| verdict.clone(),
        );
        report.add(format!("{prefix} {case}"), verdict, None);
    }
    if let Some(trouble) = trouble {
        report.add(format!("{prefix} conf {}", file.name), Verdict::Failed(trouble), None);
    }
}

/// A failure of the kernel's own case is the kernel's: told, and not counted as ours.
fn judge_theirs(tap: &Tap, trouble: Option<String>, remark: &str) -> Verdict {
    if let Some(trouble) = trouble {
        return Verdict::Failed(trouble);
    }
    let failed: Vec<&str> = tap
        .results
        .iter()
        .filter(|(_, verdict)| matches!(verdict, Verdict::Failed(_)))
        .map(|(name, _)| name.as_str())
        .collect();
    if failed.is_empty() {
        Verdict::Passed
    } else {
        Verdict::Skipped(format!(
            "{} of its {} cases fail on this kernel{remark}: {}",
            failed.len(),
            tap.results.len(),
            failed.join(", ")
        ))
    }
}
