//! What every change needs around it: privilege, lock, access, guard, consent.

use super::interrupt::{Interrupt, Interruptible};
use super::report::Timeline;
use crate::args::Force;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::request::{Consent, Settings};
use pci::Bdf;
use sriov::{
    Access, Applied, Error, ErrorKind, Executor, Journal, Lock, Loss, Machine, Owner, Plan, Progress, Undone, Use,
    WorkerAccess,
};
use std::io::{self, BufRead as _, IsTerminal as _};

/// The right to change the machine, and the means.
pub(super) struct Session {
    _lock: Lock,
    journal: Journal,
    access: Interruptible<WorkerAccess>,
    interrupt: Interrupt,
    force: Vec<Force>,
}

/// Refuses everybody but root, before anything is touched.
///
/// # Errors
/// For an effective user other than root.
pub(super) fn require_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let failure = Failure::new(
        Exit::Denied,
        "denied",
        "only root may change devices; nothing was changed",
    );
    Err(failure
        .code("S19")
        .fix("run as root; sriovctl plan shows what would be done"))
}

impl Session {
    /// Takes the lock, waiting for another run as long as agreed, and refuses to go on where one was interrupted.
    pub(super) fn begin(settings: &Settings, consent: &Consent, output: &mut Output) -> Result<Self, Failure> {
        let session = Self::resume(settings, consent, output)?;
        match session.journal.unfinished()? {
            None => Ok(session),
            Some(operation) => {
                let operation = operation.id;
                Err(Error::new(None, "journal", ErrorKind::Unfinished { operation }).into())
            }
        }
    }

    /// As [`begin`](Self::begin), also after an interrupted operation: for undoing it.
    pub(super) fn resume(settings: &Settings, consent: &Consent, output: &mut Output) -> Result<Self, Failure> {
        let mut notice = |owner: Option<&Owner>| {
            let owner = owner.map_or_else(|| "another sriovctl".to_owned(), ToString::to_string);
            output.note(format_args!("waiting for {owner}"));
        };
        let lock = Lock::acquire(&settings.state_dir, &command_line(), consent.wait, &mut notice)?;
        let interrupt =
            Interrupt::watch().map_err(|error| Failure::internal(format!("cannot take signals: {error}")))?;
        let access = WorkerAccess::new(settings.sysfs.clone(), crate::command::worker::command(&settings.sysfs));
        Ok(Self {
            _lock: lock,
            journal: Journal::at(settings.journal()),
            access: Interruptible::new(access, interrupt.clone()),
            interrupt,
            force: consent.force.clone(),
        })
    }

    pub(super) fn access(&mut self) -> &mut dyn Access {
        &mut self.access
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Runs a plan.
    pub(super) fn apply(
        &mut self,
        plan: &Plan,
        timeline: &mut Timeline,
        settings: &Settings,
        output: &mut Output,
    ) -> Result<Applied, Failure> {
        self.execute(timeline, settings, output, |executor| {
            executor.apply(plan, &command_line())
        })
    }

    /// Undoes an operation.
    pub(super) fn undo(
        &mut self,
        operation: Option<u64>,
        settings: &Settings,
        output: &mut Output,
    ) -> Result<Undone, Failure> {
        self.execute(&mut Timeline::default(), settings, output, |executor| {
            executor.undo(operation)
        })
    }

    fn execute<T>(
        &mut self,
        timeline: &mut Timeline,
        settings: &Settings,
        output: &mut Output,
        work: impl FnOnce(&mut Executor<'_>) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let force = self.force.as_slice();
        // Looks at the machine anew: who came since the plan was made must not lose a function to the undoing.
        let is_agreed = |used: &Use| force.contains(&force_for(used));
        // The executor has the other access; this one's process is started only when there is a disk to ask for.
        let mut own = WorkerAccess::new(settings.sysfs.clone(), crate::command::worker::command(&settings.sysfs));
        let mut guard = |loss: Loss| Machine::check_loss(&settings.sysfs, &mut own, loss, is_agreed);
        let mut progress = |progress: Progress<'_>| {
            timeline.record(&progress);
            show(&progress, settings.verbose, output);
        };
        let mut executor = Executor::new(&mut self.access, &self.journal, &mut guard, &mut progress);
        let result = work(&mut executor);
        clear_line(output);
        result.map_err(|error| {
            let mut failure = Failure::from(error);
            if self.interrupt.came() {
                failure.message = "interrupted".to_owned();
            }
            failure
        })
    }
}

/// Which `--force` a use needs.
pub(super) fn force_for(used: &Use) -> Force {
    match used {
        Use::Routes { .. } | Use::Below { .. } => Force::Network,
        Use::BootVga | Use::Console { .. } => Force::Console,
        _ => Force::Storage,
    }
}

/// Asks before the machine loses what it uses itself.
///
/// # Errors
/// When the answer is not yes, or nobody is there to give one.
pub(super) fn confirm(lost: &[(Bdf, Use)], consent: &Consent, output: &mut Output) -> Result<(), Failure> {
    if lost.is_empty() {
        return Ok(());
    }
    for (bdf, used) in lost {
        output.warn(format_args!("{bdf}: {used}, and will lose it"));
    }
    if consent.yes {
        return Ok(());
    }
    let refused = |message| Failure::new(Exit::Busy, "not_confirmed", message);
    if !(io::stdin().is_terminal() && output.talks_to_terminal()) {
        return Err(refused("nobody is there to confirm it; nothing was changed").fix("add --yes"));
    }
    output.talk(format_args!("Go on? [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" if read.is_ok() => Ok(()),
        _ => Err(refused("not confirmed; nothing was changed")),
    }
}

/// Shows a step: on a terminal in place, with `-v` on a line of its own.
fn show(progress: &Progress<'_>, verbose: bool, output: &mut Output) {
    let Progress {
        number,
        total,
        step,
        undoing,
        elapsed,
    } = progress;
    let undoing = if *undoing { "undo " } else { "" };
    let text = format!(
        "[{number}/{total}] {:7.3} s  {}: {undoing}{}",
        elapsed.as_secs_f64(),
        step.target,
        step.action
    );
    if verbose {
        output.talk(format_args!("{text}\n"));
    } else if output.talks_to_terminal() {
        output.talk(format_args!("\r\x1b[K{text}"));
    }
}

fn clear_line(output: &mut Output) {
    if output.talks_to_terminal() {
        output.talk(format_args!("\r\x1b[K"));
    }
}

/// The command line as the journal and others who wait for the lock see it.
fn command_line() -> String {
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let words: Vec<String> = std::iter::once("sriovctl".to_owned()).chain(arguments).collect();
    words.join(" ")
}
