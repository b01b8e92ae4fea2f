//! What a command line means: the checks that concern more than one argument are behind us here.

use crate::args::{
    Assign, ChangeCommand, ChangeOptions, Cli, Command, Completion, Emit, Explain, Force, Functions, Global, Guest,
    List, Log, Run, Show, Tree, Unassign, Util, VfCommand, VmProcess,
};
use crate::failure::Failure;
use crate::output::SCHEMA_VERSION;
use crate::selector::Selector;
use pci::Sysfs;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

/// A command with everything it needs to run.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) settings: Settings,
    pub(crate) task: Task,
}

/// What holds for every command.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where files are read.
    pub(crate) sysfs: Sysfs,
    /// Where journal and lock are.
    pub(crate) state_dir: PathBuf,
    /// Whether to say more.
    pub(crate) verbose: bool,
}

impl Settings {
    /// Where the journal is.
    pub(crate) fn journal(&self) -> PathBuf {
        self.state_dir.join("journal")
    }
}

/// The work: commands that change nothing as they were typed, and changes in one form for `plan X` and `X --dry-run`.
#[derive(Debug)]
pub(crate) enum Task {
    List(List),
    Tree(Tree),
    Show(Show),
    Groups(Functions),
    Status(Functions),
    Change(Change),
    Undo(UndoTask),
    Log(Log),
    Emit(Emit),
    Run(Run),
    Assign(Assign),
    Unassign(Unassign),
    Explain(Explain),
    Completion(Completion),
    Util(Util),
    Worker,
    Guest(Guest),
    VmProcess(VmProcess),
}

/// A change of the machine.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) verb: Verb,
    pub(crate) mode: Mode,
}

/// What to change.
#[derive(Debug)]
pub(crate) enum Verb {
    CreateVfs {
        pf: Selector,
        count: NonZeroU16,
        driver: Option<String>,
    },
    DeleteVfs {
        pf: Selector,
    },
    Bind {
        functions: Vec<Selector>,
        driver: String,
    },
    Unbind {
        functions: Vec<Selector>,
    },
    Release {
        functions: Vec<Selector>,
    },
}

/// An operation to undo.
#[derive(Debug)]
pub(crate) struct UndoTask {
    /// The newest that can be undone without.
    pub(crate) operation: Option<u64>,
    /// Leave the machine as it is and only settle the operation.
    pub(crate) forget: bool,
    pub(crate) mode: Mode,
}

/// How far to go.
#[derive(Debug)]
pub(crate) enum Mode {
    /// Print the plan; `check` makes an empty plan the only success.
    Plan { check: bool },
    /// Do it.
    Apply(Consent),
}

/// What the user has agreed to beforehand.
#[derive(Debug)]
pub(crate) struct Consent {
    pub(crate) yes: bool,
    pub(crate) force: Vec<Force>,
    pub(crate) wait: Duration,
}

impl TryFrom<Cli> for Request {
    type Error = Failure;

    fn try_from(cli: Cli) -> Result<Self, Failure> {
        let Global {
            output_version,
            sysroot,
            state_dir,
            verbose,
            ..
        } = cli.global;
        if let Some(version) = output_version.filter(|version| *version != SCHEMA_VERSION) {
            let failure = Failure::usage(format!(
                "--output-version {version}: this sriovctl has version {SCHEMA_VERSION}"
            ));
            return Err(failure);
        }
        let task = Task::from(cli.command);
        let is_captured = sysroot.is_some();
        if is_captured && task.needs_this_machine() {
            let failure = Failure::usage("--sysroot names a captured tree, and this command needs the running machine");
            return Err(failure.fix("leave --sysroot and SRIOVCTL_SYSROOT out, or add --dry-run"));
        }
        let settings = Settings {
            sysfs: sysroot.map_or_else(Sysfs::host, Sysfs::at),
            state_dir,
            verbose,
        };
        Ok(Self { settings, task })
    }
}

impl Task {
    fn needs_this_machine(&self) -> bool {
        match self {
            Self::Change(Change { mode, .. }) | Self::Undo(UndoTask { mode, .. }) => matches!(mode, Mode::Apply(_)),
            Self::Run(run) => !run.dry_run,
            Self::Assign(assign) => !assign.dry_run,
            Self::Unassign(unassign) => !unassign.dry_run,
            _ => false,
        }
    }
}

impl From<Command> for Task {
    fn from(command: Command) -> Self {
        match command {
            Command::List(args) => Self::List(args),
            Command::Tree(args) => Self::Tree(args),
            Command::Show(args) => Self::Show(args),
            Command::Groups(args) => Self::Groups(args),
            Command::Status(args) => Self::Status(args),
            Command::Change(change) => Self::Change(Change::new(change, None)),
            Command::Plan(plan) => Self::Change(Change::new(plan.change, Some(plan.check))),
            Command::Undo(undo) => Self::Undo(UndoTask {
                operation: undo.operation,
                forget: undo.forget,
                mode: Mode::new(undo.options, None),
            }),
            Command::Log(args) => Self::Log(args),
            Command::Emit(args) => Self::Emit(args),
            Command::Run(args) => Self::Run(args),
            Command::Assign(args) => Self::Assign(args),
            Command::Unassign(args) => Self::Unassign(args),
            Command::Explain(args) => Self::Explain(args),
            Command::Completion(args) => Self::Completion(args),
            Command::Util(args) => Self::Util(args),
            Command::Worker => Self::Worker,
            Command::Guest(args) => Self::Guest(args),
            Command::VmProcess(args) => Self::VmProcess(args),
        }
    }
}

impl Change {
    /// `plan` is whether `plan --check` or (`Some(false)`) `plan` was typed before the verb.
    fn new(command: ChangeCommand, plan: Option<bool>) -> Self {
        let (verb, options) = match command {
            ChangeCommand::Vf(VfCommand::Create {
                pf,
                count,
                driver,
                options,
            }) => (Verb::CreateVfs { pf, count, driver }, options),
            ChangeCommand::Vf(VfCommand::Delete { pf, options }) => (Verb::DeleteVfs { pf }, options),
            ChangeCommand::Bind {
                selectors: functions,
                driver,
                options,
            } => (Verb::Bind { functions, driver }, options),
            ChangeCommand::Unbind {
                selectors: functions,
                options,
            } => (Verb::Unbind { functions }, options),
            ChangeCommand::Release {
                selectors: functions,
                options,
            } => (Verb::Release { functions }, options),
        };
        Self {
            verb,
            mode: Mode::new(options, plan),
        }
    }
}

impl Mode {
    fn new(options: ChangeOptions, plan: Option<bool>) -> Self {
        match plan {
            Some(check) => Self::Plan { check },
            None if options.dry_run => Self::Plan { check: false },
            None => Self::Apply(Consent {
                yes: options.yes,
                force: options.force,
                wait: Duration::from_secs(options.wait),
            }),
        }
    }
}
