//! `cargo lab test`: every check and every test, as one list.

use super::{conformance, exec, say};
use anyhow::Result;
use lab::conformance::Selection;
use lab::{Cache, Flavour, Report, Setup, build_examples, build_guest_tests, build_programs, host_tests, vm_tests};
use std::process::ExitCode;

pub(crate) fn run(kernels: &[Flavour], filter: Option<&str>, lab_only: bool, offline: bool) -> Result<ExitCode> {
    // What can fail for want of a network or a package comes first.
    let setup = Setup::new(Cache::of_user()?, offline, false)?;
    setup.test_tools()?;
    let qemu = setup.qemu()?;
    let kernels = kernels
        .iter()
        .map(|flavour| setup.kernel(*flavour))
        .collect::<Result<Vec<_>>>()?;
    let suites = kernels
        .iter()
        .any(|kernel| kernel.flavour == Flavour::Full)
        .then(|| setup.suites())
        .transpose()?;

    let mut report = Report::default();
    if !lab_only {
        if filter.is_none() {
            say("checks: formatting, lints, documentation");
            host_tests::checks(&mut report)?;
        }
        say("tests on this machine");
        host_tests::tests(&mut report, filter)?;
    }
    let programs = build_programs()?;
    build_examples()?;
    build_guest_tests()?;
    for kernel in &kernels {
        say(&format!(
            "tests in the lab: QEMU {}, {} kernel",
            qemu.version, kernel.flavour
        ));
        vm_tests::run(
            &mut report,
            &qemu,
            kernel,
            &programs.join("vm-tests"),
            filter,
            &|argv| exec(&qemu, kernel, &programs, argv),
        )?;
        let selection = Selection {
            filter,
            theirs: suites.as_deref(),
            all: false,
        };
        conformance::on(&mut report, &qemu, kernel, &programs, selection)?;
    }
    Ok(if report.close() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
