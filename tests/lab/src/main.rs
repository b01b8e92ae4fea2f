//! `cargo lab`: the lab's command line.
#![forbid(unsafe_code)]

mod command;

use clap::{Args, Parser, Subcommand};
use lab::{Device, Flavour, Iommu, Machine, TimeLimit};
use std::process::ExitCode;
use std::time::Duration;

/// A QEMU machine with IOMMU, SR-IOV NIC and NVMe and nested KVM
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version, max_term_width = 120)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Args)]
struct Common {
    /// Fetch nothing: work from the cache
    #[arg(long, global = true)]
    offline: bool,
}

/// Which machine to boot.
#[derive(Debug, Args)]
struct MachineArguments {
    /// Kernel to boot [default: full when it is built, else stock]
    #[arg(long, value_enum)]
    kernel: Option<Flavour>,
    /// IOMMU of the machine
    #[arg(long, value_enum, default_value = "intel")]
    iommu: Iommu,
    /// Devices to put into it, comma separated [default: igb,nvme,virtio-net,edu]
    #[arg(long, value_enum, value_delimiter = ',')]
    devices: Option<Vec<Device>>,
    /// Memory of the machine in MiB
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// CPUs of the machine
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Huge pages of 1 GiB to set aside
    #[arg(long, default_value_t = 0)]
    gigantic_pages: u32,
    /// Give programs in it QEMU's monitor, as the virtio port named monitor: they can do on this machine whatever QEMU can
    #[arg(long)]
    monitor: bool,
    /// Let its clock count instructions, 1 ns each, for costs that do not depend on what else runs here: one CPU, slow
    #[arg(long, conflicts_with = "cpus")]
    icount: bool,
}

impl MachineArguments {
    fn machine(&self) -> Machine {
        let default = Machine::default();
        Machine {
            iommu: self.iommu,
            devices: self.devices.clone().unwrap_or(default.devices),
            memory_mib: self.memory,
            cpus: if self.icount { 1 } else { self.cpus },
            gigantic_pages: self.gigantic_pages,
            monitor: self.monitor,
            icount: self.icount,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Bring what the lab needs: QEMU, a kernel, packages
    Setup {
        /// Kernel to bring; may be given more than once
        #[arg(long, value_enum, default_value = "stock")]
        kernel: Vec<Flavour>,
        /// Look for newer packages
        #[arg(long)]
        update: bool,
    },
    /// Create VFs of a NIC and an NVMe, bind them, give one to a guest, give everything back
    Demo {
        #[command(flatten)]
        machine: MachineArguments,
        /// Boot the guest with this
        #[arg(long, value_enum, default_value_t = command::demo::Vmm::Own)]
        vmm: command::demo::Vmm,
        /// Time limit in seconds; when it is over, the exit status is 124
        #[arg(long, default_value_t = 900)]
        timeout: u64,
    },
    /// Run all checks and tests, on this machine and in the lab
    Test {
        /// Kernels to test on
        #[arg(long, value_enum, value_delimiter = ',', default_value = "stock,full")]
        kernel: Vec<Flavour>,
        /// Only tests whose name contains this
        #[arg(long)]
        filter: Option<String>,
        /// Only the tests in the lab
        #[arg(long)]
        lab_only: bool,
    },
    /// Run the kernel's own suites for VFIO and iommufd and our cases of the same names, and compare
    Conformance {
        /// Kernels to run on; the kernel's own suites run on full only
        #[arg(long, value_enum, value_delimiter = ',', default_value = "full")]
        kernel: Vec<Flavour>,
        /// Only cases whose name contains this
        #[arg(long)]
        filter: Option<String>,
        /// Only our cases
        #[arg(long)]
        ours: bool,
        /// All of the kernel's cases: its driver test takes six minutes in emulation
        #[arg(long)]
        all: bool,
    },
    /// Measure, against what others offer, and make a report: 50 minutes on a calm machine, 15 with --quick
    Bench(command::bench::Options),
    /// Run a command of this machine inside the lab; its output and exit status are the command's
    Run {
        #[command(flatten)]
        machine: MachineArguments,
        /// Time limit of the command in seconds, coming up not counted; when it ends the command, the exit status is 124
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        /// The command
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        argv: Vec<String>,
    },
    /// Open a shell inside the lab
    Shell {
        #[command(flatten)]
        machine: MachineArguments,
        /// Time limit in seconds; when it is over, the exit status is 124
        #[arg(long, default_value_t = 86400)]
        timeout: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let offline = arguments.common.offline;
    let seconds = Duration::from_secs;
    if let Err(error) = lab::remove_on_signals() {
        command::say(&format!("lab: {error:#}"));
    }
    let result = match &arguments.command {
        Subcommands::Setup { kernel, update } => command::setup::run(kernel, offline, *update),
        Subcommands::Demo { machine, vmm, timeout } => {
            command::demo::run(&machine.machine(), machine.kernel, *vmm, offline, seconds(*timeout))
        }
        Subcommands::Test {
            kernel,
            filter,
            lab_only,
        } => command::test::run(kernel, filter.as_deref(), *lab_only, offline),
        Subcommands::Conformance {
            kernel,
            filter,
            ours,
            all,
        } => command::conformance::run(kernel, filter.as_deref(), *ours, *all, offline),
        Subcommands::Bench(options) => command::bench::run(options, offline),
        Subcommands::Run { machine, timeout, argv } => {
            command::run::run(&machine.machine(), machine.kernel, offline, seconds(*timeout), argv)
        }
        Subcommands::Shell { machine, timeout } => {
            command::shell::run(&machine.machine(), machine.kernel, offline, seconds(*timeout))
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            command::say(&format!("error: {error:#}"));
            ExitCode::from(status_of(&error))
        }
    }
}

/// 124 when a time limit ended it, as `timeout` of the coreutils has it, and 1 for all else.
fn status_of(error: &anyhow::Error) -> u8 {
    if error.chain().any(<dyn std::error::Error>::is::<TimeLimit>) {
        124
    } else {
        1
    }
}
