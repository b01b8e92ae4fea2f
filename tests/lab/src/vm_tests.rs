//! Tests in the lab: groups cases by machine, boots, runs them one by one and judges them.

use crate::case::{Listed, RETRIED, SKIPPED};
use crate::report::{Report, Verdict};
use crate::{Kernel, Machine, Output, Qemu, Trouble, Vm, kernel_log::trouble};
use anyhow::{Context, Result, bail};
use lab_init::{Exec, Exit};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs the cases of `program` (see [`crate::case`]) on `kernel`. `exec` turns arguments into a command of the lab.
///
/// # Errors
/// When the program cannot be asked for its cases. A machine that does not come up or is lost is a failed test.
pub fn run(
    report: &mut Report,
    qemu: &Qemu,
    kernel: &Kernel,
    program: &Path,
    filter: Option<&str>,
    exec: &dyn Fn(Vec<String>) -> Exec,
) -> Result<()> {
    let mut cases = list(program)?;
    cases.retain(|case| filter.is_none_or(|filter| case.name.contains(filter)));
    // Equal machines next to each other; cases that need a fresh one last.
    cases.sort_by(|a, b| (a.fresh, &a.machine, &a.name).cmp(&(b.fresh, &b.machine, &b.name)));
    let mut running: Option<(Machine, Vm)> = None;
    // A machine that did not come up will not do so for the next case either.
    let mut broken: Vec<(Machine, String)> = Vec::new();
    for case in cases {
        let name = format!("lab/{} {}", kernel.flavour, case.name);
        if case.fresh || running.as_ref().is_none_or(|(machine, _)| *machine != case.machine) {
            retire(report, kernel, running.take(), exec);
            let known = broken
                .iter()
                .find(|(machine, _)| *machine == case.machine)
                .map(|(_, why)| why.clone());
            match known.map_or_else(|| boot(qemu, kernel, &case.machine), |why| Err(anyhow::Error::msg(why))) {
                Ok(vm) => running = Some((case.machine.clone(), vm)),
                Err(error) => {
                    report.add(name, Verdict::Failed(format!("{error:#}")), None);
                    broken.push((case.machine, "its machine does not come up".to_owned()));
                    continue;
                }
            }
        }
        let Some((_, vm)) = &mut running else { continue };
        let start = Instant::now();
        let command = exec(vec![program.display().to_string(), "run".to_owned(), case.name.clone()]);
        let (verdict, usable) = judge(vm, &case, &command);
        report.add(name, verdict, Some(start.elapsed()));
        if !usable {
            // Ended without a last word: what it said is in the verdict.
            running = None;
        }
    }
    retire(report, kernel, running.take(), exec);
    Ok(())
}

/// Ends a machine in good order, and fails the run when its kernel complained after the last case.
fn retire(report: &mut Report, kernel: &Kernel, running: Option<(Machine, Vm)>, exec: &dyn Fn(Vec<String>) -> Exec) {
    let Some((_, mut vm)) = running else { return };
    let said = match vm.run(&exec(vec!["true".to_owned()]), Duration::from_secs(60), |_| {}) {
        Ok(finished) => finished
            .troubles()
            .map(|(_, record)| record.text.clone())
            .collect::<Vec<_>>()
            .join("\n"),
        Err(error) => format!("{error:#}"),
    };
    if !said.is_empty() {
        report.add(
            format!("lab/{} after the last test", kernel.flavour),
            Verdict::Failed(said),
            None,
        );
    }
    vm.power_off();
}

fn list(program: &Path) -> Result<Vec<Listed>> {
    let output = Command::new(program)
        .arg("list")
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{} list", program.display()))
}

/// A machine whose kernel complained while coming up is no ground for tests.
pub(crate) fn boot(qemu: &Qemu, kernel: &Kernel, machine: &Machine) -> Result<Vm> {
    let vm = Vm::boot(qemu, kernel, machine, false)?;
    let bad: Vec<&str> = vm
        .boot_log()
        .iter()
        .filter(|record| trouble(record).is_some())
        .map(|record| record.text.as_str())
        .collect();
    if !bad.is_empty() || !vm.problems().is_empty() {
        bail!(
            "the machine came up with trouble:\n{}\n{}",
            vm.problems().join("\n"),
            bad.join("\n")
        );
    }
    Ok(vm)
}

/// The verdict, and whether the machine may serve another case.
fn judge(vm: &mut Vm, case: &Listed, exec: &Exec) -> (Verdict, bool) {
    let mut said = Vec::new();
    let collect = |output: &Output<'_>| match output {
        Output::Stdout(bytes) | Output::Stderr(bytes) => said.extend_from_slice(bytes),
    };
    let finished = match vm.run(exec, Duration::from_secs(case.limit_s), collect) {
        Ok(finished) => finished,
        Err(error) => {
            return (
                Verdict::Failed(format!("{error:#}\n{}", String::from_utf8_lossy(&said))),
                false,
            );
        }
    };
    let said = String::from_utf8_lossy(&said).trim_end().to_owned();
    let troubles: Vec<&str> = finished
        .troubles()
        .filter(|(trouble, _)| !(case.faults_expected && *trouble == Trouble::DmaFault))
        .map(|(_, record)| record.text.as_str())
        .collect();
    if !troubles.is_empty() {
        return (
            Verdict::Failed(format!("the kernel complained:\n{}\n{said}", troubles.join("\n"))),
            false,
        );
    }
    match finished.exit {
        Exit::Code(0) => (Verdict::Passed, true),
        Exit::Code(code) if code == i32::from(SKIPPED) => (Verdict::Skipped(said), true),
        Exit::Code(code) if code == i32::from(RETRIED) => (
            Verdict::Retried(said.lines().last().unwrap_or_default().to_owned()),
            true,
        ),
        // What a failed case left behind must not fail the next.
        exit => (Verdict::Failed(format!("{exit:?}\n{said}")), false),
    }
}
