//! `cargo lab bench`: figures of the device path, each as a ratio measured in one run.

use super::{boot, exec, run::pass_on, say};
use anyhow::{Context, Result};
use lab::{Cache, Device, Flavour, Machine, Setup, build_programs, cargo};
use std::process::ExitCode;
use std::time::Duration;

/// Bringing 127 VFs up takes a quarter of a minute by any means, and it is done four times.
const LIMIT: Duration = Duration::from_secs(900);

pub(crate) fn run(kernel: Option<Flavour>, offline: bool) -> Result<ExitCode> {
    let setup = Setup::new(Cache::of_user()?, offline, false)?;
    if let Err(error) = setup.bench_tools() {
        // They are only compared with: what is missing is left out, and said.
        say(&format!("lab: {error:#}"));
    }
    let flavour = kernel.unwrap_or(if setup.has_full_kernel() {
        Flavour::Full
    } else {
        Flavour::Stock
    });
    let (qemu, kernel) = (setup.qemu()?, setup.kernel(flavour)?);

    say("lab: list of 4,096 functions, against lspci");
    let status = cargo()
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "benches",
            "--bin",
            "list-ratio",
        ])
        .status()
        .context("start cargo")?;
    let programs = build_programs()?;
    say("lab: bringing VFs up");
    let machine = Machine {
        devices: vec![Device::Nvme127],
        ..Machine::default()
    };
    let mut vm = boot(&qemu, &kernel, &machine)?;
    let program = programs.join("vm-bench").display().to_string();
    let finished = vm.run(&exec(&qemu, &kernel, &programs, vec![program]), LIMIT, pass_on)?;
    vm.power_off();
    let is_good = status.success() && finished.status() == 0;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
