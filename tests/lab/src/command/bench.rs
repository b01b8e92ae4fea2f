//! `cargo lab bench`: figures of the device path, each as a ratio measured in one run.

use super::{boot, exec, run::pass_on, say};
use anyhow::{Context, Result};
use lab::{Cache, Device, Flavour, Kernel, Machine, Qemu, Setup, build_programs, build_release_example, cargo};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// List of 4,096 functions, against lspci
    List,
    /// Bringing VFs up, against bare writes and driverctl
    Vfs,
    /// NVMe reads from user space, against the kernel's block layer and QEMU's driver: rates, and instructions per read
    Nvme,
}

/// Bringing 127 VFs up takes a quarter of a minute by any means, and it is done four times; NVMe has two hundred runs.
const LIMIT: Duration = Duration::from_secs(1800);

pub(crate) fn run(parts: &[Part], kernel: Option<Flavour>, offline: bool) -> Result<ExitCode> {
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
    let stage = Stage {
        qemu: setup.qemu()?,
        kernel: setup.kernel(flavour)?,
        programs: build_programs()?,
    };
    let wants = |part| parts.is_empty() || parts.contains(&part);
    let mut is_good = true;
    if wants(Part::List) {
        is_good &= list()?;
    }
    if wants(Part::Vfs) {
        say("lab: bringing VFs up");
        let machine = Machine {
            devices: vec![Device::Nvme127],
            ..Machine::default()
        };
        is_good &= stage.run(&machine, "vm-bench", &[])?;
    }
    if wants(Part::Nvme) {
        let perf = build_release_example("drivers", "nvme-perf")?.display().to_string();
        let machine = Machine {
            devices: vec![Device::Nvme],
            ..Machine::default()
        };
        say("lab: NVMe reads per second");
        is_good &= stage.run(&machine, "vm-bench-nvme", &["rates", &perf])?;
        say("lab: instructions per NVMe read");
        let machine = Machine {
            cpus: 1,
            icount: true,
            ..machine
        };
        is_good &= stage.run(&machine, "vm-bench-nvme", &["costs", &perf])?;
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list() -> Result<bool> {
    say("lab: list of 4,096 functions, against lspci");
    let mut cargo = cargo();
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "benches",
        "--bin",
        "list-ratio",
    ]);
    Ok(cargo.status().context("start cargo")?.success())
}

/// What the programs run on.
struct Stage {
    qemu: Qemu,
    kernel: Kernel,
    programs: PathBuf,
}

impl Stage {
    /// Runs one of the lab's programs in a machine of its own; says whether it was content.
    fn run(&self, machine: &Machine, program: &str, arguments: &[&str]) -> Result<bool> {
        let mut vm = boot(&self.qemu, &self.kernel, machine)?;
        let mut argv = vec![self.programs.join(program).display().to_string()];
        argv.extend(arguments.iter().copied().map(str::to_owned));
        let exec = exec(&self.qemu, &self.kernel, &self.programs, argv);
        let finished = vm.run(&exec, LIMIT, pass_on)?;
        vm.power_off();
        Ok(finished.status() == 0)
    }
}
