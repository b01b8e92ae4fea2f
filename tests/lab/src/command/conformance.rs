//! `cargo lab conformance`: the kernel's own suites beside ours.

use super::{exec, say};
use anyhow::Result;
use lab::conformance::{self, Bench, Selection};
use lab::{Cache, Flavour, Kernel, Qemu, Report, Setup, build_programs};
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(
    kernels: &[Flavour],
    filter: Option<&str>,
    only_ours: bool,
    all: bool,
    offline: bool,
) -> Result<ExitCode> {
    let setup = Setup::new(Cache::of_user()?, offline, false)?;
    let qemu = setup.qemu()?;
    let kernels = kernels
        .iter()
        .map(|flavour| setup.kernel(*flavour))
        .collect::<Result<Vec<_>>>()?;
    let suites = (!only_ours && kernels.iter().any(|kernel| kernel.flavour == Flavour::Full))
        .then(|| setup.suites())
        .transpose()?;
    let programs = build_programs()?;
    let mut report = Report::default();
    for kernel in &kernels {
        let selection = Selection {
            filter,
            theirs: suites.as_deref(),
            all,
        };
        on(&mut report, &qemu, kernel, &programs, selection)?;
    }
    Ok(if report.close() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Conformance on one kernel; the kernel's own suites are those of `full`.
pub(crate) fn on(
    report: &mut Report,
    qemu: &Qemu,
    kernel: &Kernel,
    programs: &Path,
    selection: Selection<'_>,
) -> Result<()> {
    say(&format!(
        "conformance: QEMU {}, {} kernel",
        qemu.version, kernel.flavour
    ));
    let bench = Bench {
        qemu,
        kernel,
        program: &programs.join("vm-conformance"),
        exec: &|argv| exec(qemu, kernel, programs, argv),
    };
    let theirs = selection.theirs.filter(|_| kernel.flavour == Flavour::Full);
    conformance::run(report, &bench, &Selection { theirs, ..selection })
}
