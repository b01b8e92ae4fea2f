//! The command line as typed: the one definition behind parsing, help, manual pages, markdown and completion.
//! [`Request`](crate::request::Request) is what it means.

use crate::column::{self, Column, Columns};
use crate::complete;
use crate::exit::Exit;
use crate::filter::{self, Filter};
use crate::selector::{self, Selector};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use std::path::PathBuf;

mod assign;
mod change;
mod run;

pub(crate) use assign::{Assign, Target, TargetKind, Unassign};
pub(crate) use change::{ChangeCommand, ChangeOptions, Force, VfCommand};
pub(crate) use run::{Device, Guest, HugePages, MemorySize, Numa, NumaNode, Pin, Place, QEMU, Run, VmProcess, VmmName};

/// Where runs of this tool leave their journal and lock.
pub(crate) const STATE_DIR: &str = "/run/sriovctl";

/// Show PCI functions, create SR-IOV virtual functions, bind them, and hand them to guests
///
/// Data goes to standard output, everything else to standard error. With --json every command prints exactly one JSON
/// document, errors included; within a schema version fields are only added, and what is not known is null.
#[derive(Debug, Parser)]
#[command(
    name = "sriovctl",
    version,
    arg_required_else_help = true,
    max_term_width = 120,
    after_help = "See --help for selectors and exit codes",
    after_long_help = after_long_help(),
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn after_long_help() -> String {
    format!("{}\n\nExit codes:\n{}", selector::HELP, Exit::table().trim_end())
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Demand this version of the JSON documents
    ///
    /// There is one so far: 1.
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub(crate) output_version: Option<u32>,

    /// Colour the output
    ///
    /// auto colours on a terminal and follows NO_COLOR and CLICOLOR_FORCE.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto, hide_short_help = true)]
    pub(crate) color: Color,

    /// Read a captured system tree instead of this machine
    ///
    /// DIR holds sys/, and for some questions proc/ and dev/. Commands that change the machine accept it only with
    /// --dry-run.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SRIOVCTL_SYSROOT",
        hide_short_help = true
    )]
    pub(crate) sysroot: Option<PathBuf>,

    /// Keep the journal and the lock in this directory
    ///
    /// The journal is what log and undo read. It need not survive the next boot.
    #[arg(long, global = true, value_name = "DIR", default_value = STATE_DIR, hide_short_help = true)]
    pub(crate) state_dir: PathBuf,

    /// Say more on standard error: why values are not known, what each step does
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List functions as a table
    #[command(after_long_help = filter::HELP)]
    List(List),
    /// Show root ports, switches, PFs and VFs as a tree
    Tree(Tree),
    /// Show everything that is known about functions
    Show(Show),
    /// Show IOMMU groups and what keeps them from VFIO
    Groups(Functions),
    /// Show which process holds which function
    Status(Functions),
    #[command(flatten)]
    Change(ChangeCommand),
    /// Show what a change would do, and do nothing
    Plan(Plan),
    /// List the operations of this boot, or show what one of them did
    Log(Log),
    /// Restore what an operation has changed
    Undo(Undo),
    /// Print what to tell a VMM, a container runtime, systemd or Kubernetes to give it functions
    Emit(Emit),
    /// Boot a Linux guest that has functions
    ///
    /// The functions must be on vfio-pci already, in viable groups that nobody holds. The guest's serial console is on standard input and output; with
    /// --json it goes to standard error. On a terminal Ctrl-] ends the guest. Its process opens nothing itself (with --control it may read /sys) and
    /// runs under Landlock and seccomp, when root starts it as a user that no other process has. The exit code is 0 when the guest has switched itself off, with
    /// --exit-port what it says; with --vmm qemu it is that of QEMU.
    Run(Run),
    /// Give a function to a guest that runs
    ///
    /// The function must be on vfio-pci already, in a viable group that nobody else holds. The VMM is told over its own protocol, with the function's
    /// descriptor where it takes one, and what it lists afterwards is looked at.
    Assign(Assign),
    /// Take a function back from a guest that runs
    ///
    /// The guest is asked to let go of it. When it does not, it keeps it.
    Unassign(Unassign),
    /// Explain an error code
    Explain(Explain),
    /// Print a script that completes this command line in a shell
    ///
    /// Addresses, interfaces and drivers of this machine are completed too.
    /// In bash: source <(sriovctl completion bash)
    Completion(Completion),
    /// Print documentation
    #[command(subcommand)]
    Util(Util),
    /// Serve accesses to files that can block
    #[command(hide = true, name = crate::command::worker::NAME)]
    Worker,
    /// Become the process of a guest
    #[command(hide = true, name = crate::command::guest::NAME)]
    Guest(Guest),
    /// Run a guest whose files come over standard input
    #[command(hide = true, name = crate::command::vm::NAME)]
    VmProcess(VmProcess),
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Functions to list; all without any
    #[arg(value_name = "SELECTOR", add = ArgValueCompleter::new(complete::functions))]
    pub(crate) selectors: Vec<Selector>,

    /// Show these columns; +COL adds to the default ones
    #[arg(short, long = "output", value_name = "COL[,COL]", add = ArgValueCompleter::new(complete::columns))]
    pub(crate) output: Option<Columns>,

    /// List the columns there are
    #[arg(long, conflicts_with_all = ["selectors", "filter", "free", "sort"])]
    pub(crate) columns: bool,

    /// Leave the heading out
    #[arg(short, long)]
    pub(crate) no_header: bool,

    /// Print COLUMN="value" pairs
    #[arg(short = 'P', long)]
    pub(crate) pairs: bool,

    /// List only functions that fit the conditions
    #[arg(long, value_name = "EXPR")]
    pub(crate) filter: Option<Filter>,

    /// Sort by this column
    #[arg(short, long, value_name = "COL", value_parser = column::parse_column, add = ArgValueCompleter::new(complete::columns))]
    pub(crate) sort: Option<&'static Column>,

    /// List only functions that a guest can take now: on a VFIO driver, in a viable group, held by nobody
    #[arg(long)]
    pub(crate) free: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tree {
    /// Functions to show with all above and below them; all without any
    #[arg(value_name = "SELECTOR", add = ArgValueCompleter::new(complete::functions))]
    pub(crate) selectors: Vec<Selector>,

    /// Draw with ASCII characters, as is done where the locale is not UTF-8
    #[arg(long)]
    pub(crate) ascii: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Functions to show
    #[arg(value_name = "SELECTOR", required_unless_present = "from", add = ArgValueCompleter::new(complete::functions))]
    pub(crate) selectors: Vec<Selector>,

    /// Read configuration space from a text in the format of lspci -x, -xxx or -xxxx; - is standard input
    #[arg(short = 'F', long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
}

/// Functions, or all.
#[derive(Debug, Args)]
pub(crate) struct Functions {
    /// Functions to look at; all without any
    #[arg(value_name = "SELECTOR", add = ArgValueCompleter::new(complete::functions))]
    pub(crate) selectors: Vec<Selector>,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Exit with 22 when there is something to do
    #[arg(long)]
    pub(crate) check: bool,
    #[command(subcommand)]
    pub(crate) change: ChangeCommand,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// Show the changes of this operation
    #[arg(value_name = "ID")]
    pub(crate) operation: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Undo {
    /// The operation, as log shows it; the newest that can be undone without
    #[arg(value_name = "ID")]
    pub(crate) operation: Option<u64>,
    /// Leave the machine as it is, and stop refusing changes because of an interrupted operation
    #[arg(long)]
    pub(crate) forget: bool,
    #[command(flatten)]
    pub(crate) options: ChangeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Emit {
    /// For whom
    #[arg(value_name = "FORMAT", value_enum)]
    pub(crate) format: Format,
    /// Functions to print: for a VMM each in a form that is complete in itself, else all in one document
    #[arg(value_name = "SELECTOR", required = true, add = ArgValueCompleter::new(complete::functions))]
    pub(crate) selectors: Vec<Selector>,
    /// The kernel interface that the VMM is to use
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Interface::Auto)]
    pub(crate) interface: Interface,
}

/// By which interface of the kernel a VMM gets at a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Interface {
    /// iommufd where this machine has it and the function a character device, else type1
    Auto,
    /// Container and group: /dev/vfio/vfio and /dev/vfio/GROUP
    Type1,
    /// /dev/iommu and /dev/vfio/devices/vfioN
    Iommufd,
}

/// What `emit` can print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Options of qemu-system-*
    Qemu,
    /// Options of cloud-hypervisor
    CloudHypervisor,
    /// A hostdev element of a libvirt domain
    Libvirt,
    /// Options of crosvm run
    Crosvm,
    /// A part of Firecracker's configuration file
    Firecracker,
    /// A file for /etc/cdi: what a container runtime gives to a container
    Cdi,
    /// A systemd unit that makes VFs and bindings again at boot
    Systemd,
    /// Kubernetes: configuration of the SR-IOV network device plugin
    K8sDevicePlugin,
    /// Kubernetes: SriovNetworkNodePolicy for VFs that sriovctl manages
    K8sSriovPolicy,
    /// KubeVirt: devices that guests may have
    Kubevirt,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The code, as an error shows it; all without
    #[arg(value_name = "CODE", add = ArgValueCompleter::new(complete::codes))]
    pub(crate) code: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// For which shell
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: Shell,
}

/// The shells that can complete with the help of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Zsh,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Util {
    /// Print the manual page, or write the pages of all commands into a directory
    Man {
        /// Write one file for each command into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print the help of all commands as one markdown text
    Markdown,
}
