//! Runs a plan step by step, and takes back what it did when a step fails. Decides nothing.
//!
//! For each step: read the former state, note it in the journal, change, read back, note that it is done. [`Executor`] holds what
//! that needs; how a step is taken back is in [`undo`](crate::undo).

use crate::bus::Bus;
use crate::journal::Recorder;
use crate::{Access, Action, Attribute, Deadlines, Error, ErrorKind, Former, Journal, Plan, Status, Step};
use pci::Bdf;
use std::fmt;
use std::time::{Duration, Instant};

/// Changes the machine. Whoever has one should have the [`Lock`](crate::Lock).
pub struct Executor<'a> {
    pub(crate) bus: Bus<'a>,
    pub(crate) journal: &'a Journal,
    pub(crate) guard: &'a mut Guard<'a>,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

/// Asked before undoing takes something from its users, who may have come since; refuses with the reason
/// ([`ErrorKind::Held`], [`ErrorKind::InUse`]).
pub type Guard<'a> = dyn FnMut(Loss) -> Result<(), Error> + 'a;

/// What is about to be taken from its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The function is taken from its driver.
    Driver(Bdf),
    /// All VFs of the PF vanish, or are made anew.
    VirtualFunctions(Bdf),
    /// Nothing: the kernel refused the function or did not answer, and only who holds it or its VFs is asked. Their disks are not
    /// to be touched: they may be what does not answer.
    Nothing(Bdf),
}

/// A step is about to begin.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Which step, from 1 to [`total`](Self::total); falls while undoing.
    pub number: usize,
    /// How many there are.
    pub total: usize,
    /// What it does, or did.
    pub step: &'a Step,
    /// Whether it is being undone.
    pub undoing: bool,
    /// Since the operation, or its undoing, began.
    pub elapsed: Duration,
}

/// What [`Executor::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The operation's id in the journal; `None` for an empty plan.
    pub operation: Option<u64>,
    /// How many steps changed something.
    pub changed: usize,
    /// How long it took.
    pub elapsed: Duration,
}

impl<'a> Executor<'a> {
    /// With the default [`Deadlines`]. `guard` is asked before undoing; `progress` is told of each step.
    pub fn new(
        access: &'a mut dyn Access,
        journal: &'a Journal,
        guard: &'a mut Guard<'a>,
        progress: &'a mut dyn FnMut(Progress<'_>),
    ) -> Self {
        Self {
            bus: Bus::new(access),
            journal,
            guard,
            progress,
        }
    }

    /// With other deadlines.
    #[must_use]
    pub fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.bus.deadlines = deadlines;
        self
    }

    /// Runs a plan. `command` is what the journal remembers as the command line. An empty plan does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unfinished`] when an earlier operation must be undone first. When a step fails before anything was changed,
    /// its error; else [`ErrorKind::RolledBack`] with that error as its cause. After an access without an answer to a PF or one of
    /// its VFs the number of VFs is left as it is ([`ErrorKind::Unanswered`]), and the operation is to be undone later.
    pub fn apply(&mut self, plan: &Plan, command: &str) -> Result<Applied, Error> {
        let start = Instant::now();
        if let Some(operation) = self.journal.unfinished()? {
            let kind = ErrorKind::Unfinished {
                operation: operation.id,
            };
            return Err(Error::new(None, "journal", kind));
        }
        if plan.steps.is_empty() {
            return Ok(Applied {
                operation: None,
                changed: 0,
                elapsed: start.elapsed(),
            });
        }
        let mut recorder = self.journal.begin(command, plan)?;
        match self.run(plan, &mut recorder, start) {
            Ok(()) => Ok(Applied {
                operation: Some(recorder.operation().id),
                changed: recorder.operation().changes.len(),
                elapsed: start.elapsed(),
            }),
            Err(cause) => {
                let cause = self.name_holders(cause);
                Err(self.roll_back(cause, &mut recorder))
            }
        }
    }

    fn run(&mut self, plan: &Plan, recorder: &mut Recorder, start: Instant) -> Result<(), Error> {
        for (index, step) in plan.steps.iter().enumerate() {
            self.report(index, plan.steps.len(), step, false, start);
            self.perform(index, step, recorder)?;
        }
        recorder.end(Status::Done)
    }

    pub(crate) fn report(&mut self, index: usize, total: usize, step: &Step, undoing: bool, start: Instant) {
        (self.progress)(Progress {
            number: index + 1,
            total,
            step,
            undoing,
            elapsed: start.elapsed(),
        });
    }

    fn perform(&mut self, index: usize, step: &Step, recorder: &mut Recorder) -> Result<(), Error> {
        let bus = &mut self.bus;
        match &step.action {
            Action::Wait { condition, deadline } => return bus.wait(&step.target, condition, *deadline),
            Action::Set { attribute, value } => {
                let function = bus.resolve(&step.target)?;
                let former = bus.read(function, *attribute)?;
                if former == *value {
                    return Ok(());
                }
                if *attribute == Attribute::NumVfs {
                    // Before anything is written down, so that there is nothing to take back.
                    bus.check_answered(function)?;
                }
                let former = match former.parse() {
                    Ok(count) if *attribute == Attribute::NumVfs && count > 0 => {
                        Former::VirtualFunctions(bus.virtual_functions(function, count)?)
                    }
                    _ => Former::Value(former),
                };
                recorder.intent(index, former)?;
                bus.write(function, *attribute, value)?;
            }
            Action::Unbind => {
                let function = bus.resolve(&step.target)?;
                if bus.driver(function)?.is_none() {
                    return Ok(());
                }
                let former = bus.binding(function)?;
                recorder.intent(index, Former::Binding(former))?;
                bus.unbind(function)?;
            }
            Action::Probe { driver } => {
                let function = bus.resolve(&step.target)?;
                let former = bus.binding(function)?;
                if former.driver.is_some() && (driver.is_none() || former.driver == *driver) {
                    return Ok(());
                }
                recorder.intent(index, Former::Binding(former))?;
                match driver {
                    Some(driver) => bus.bind(function, driver)?,
                    None => bus.probe(function)?,
                }
            }
        }
        recorder.done(index)
    }

    fn roll_back(&mut self, cause: Error, recorder: &mut Recorder) -> Error {
        let (restored, undo_failures) = self.restore_all(recorder);
        if restored == 0 && undo_failures.is_empty() {
            return cause;
        }
        let (device, step) = (cause.device, cause.step.clone());
        let kind = ErrorKind::RolledBack {
            cause: Box::new(cause),
            undo_failures,
        };
        Error::new(device, step, kind)
    }

    /// The kernel does not say who holds the function when it refuses it, nor when it makes one wait; the guard knows who that is.
    pub(crate) fn name_holders(&mut self, mut error: Error) -> Error {
        if let (ErrorKind::TimedOut { holders, .. } | ErrorKind::Held { holders }, Some(device)) =
            (&mut error.kind, error.device)
            && holders.is_empty()
            && let Err(Error {
                kind: ErrorKind::Held { holders: found },
                ..
            }) = (self.guard)(Loss::Nothing(device))
        {
            *holders = found;
        }
        error
    }
}

impl fmt::Debug for Executor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("bus", &self.bus)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}
