//! Restores what an operation changed, from its journal, in reverse.
//!
//! Every change is compared with the machine first, so undoing can be repeated, also after it was killed itself. How one change
//! is taken back is in [`restore`](crate::restore).

use crate::apply::{Executor, Loss};
use crate::journal::Recorder;
use crate::restore::{restore, unless_gone};
use crate::{Attribute, Change, Error, ErrorKind, Former, Operation, Status, Step, Target};
use pci::Bdf;
use std::collections::BTreeSet;
use std::time::Instant;

/// What [`Executor::undo`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undone {
    /// The operation's id.
    pub operation: u64,
    /// How many of its changes had to be taken back; the others were as before already.
    pub restored: usize,
}

impl Executor<'_> {
    /// Restores what operation `id` changed, or without an id the newest that is not undone yet. An operation that is undone already
    /// is looked at again and found in order.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchOperation`]; what kept a change from being restored, as [`ErrorKind::NotUndone`] when it is more than one.
    /// What is left can be undone by calling again.
    pub fn undo(&mut self, id: Option<u64>) -> Result<Undone, Error> {
        let mut recorder = self.journal.resume(id)?;
        let operation = recorder.operation().id;
        if recorder.operation().status == Status::Undone {
            return Ok(Undone { operation, restored: 0 });
        }
        let was_done = recorder.operation().status == Status::Done;
        let writes = self.bus.writes;
        recorder.undo()?;
        let (restored, failures) = self.restore_all(&mut recorder);
        if was_done && self.bus.writes == writes && !failures.is_empty() {
            // Refused before anything was written: the operation stands as it did, and nothing is half undone.
            recorder.end(Status::Done)?;
        }
        match failures.as_slice() {
            [] => Ok(Undone { operation, restored }),
            [only] => Err(only.clone()),
            _ => Err(Error::new(
                None,
                format!("undo {operation}"),
                ErrorKind::NotUndone { failures },
            )),
        }
    }

    /// Returns how many changes were taken back and what could not be. After a failure the earlier changes of the same function,
    /// for a VF of its PF, are left as they are: they build on one another.
    pub(crate) fn restore_all(&mut self, recorder: &mut Recorder) -> (usize, Vec<Error>) {
        let start = Instant::now();
        let steps = recorder.operation().steps.clone();
        let created: Vec<(usize, Bdf)> = recorder.operation().creations().collect();
        let pending: Vec<Change> = recorder.operation().pending().cloned().collect();
        let mut blocked = BTreeSet::new();
        let mut failures = Vec::new();
        for (anchor, error) in self.refusals(recorder.operation()) {
            blocked.insert(anchor);
            failures.push(self.name_holders(error));
        }
        let mut restored = 0;
        for change in pending.iter().rev() {
            let Some(step) = steps.get(change.step) else { continue };
            let anchor = step.target.anchor();
            // VFs that an earlier step created vanish when the count goes back to 0: nothing to restore on them.
            let is_vf = matches!(step.target, Target::VirtualFunction { .. });
            let vanishes = is_vf && created.iter().any(|(at, pf)| *at < change.step && *pf == anchor);
            if vanishes || blocked.contains(&anchor) {
                continue;
            }
            self.report(change.step, steps.len(), step, true, start);
            let outcome = restore(&mut self.bus, self.guard, step, change).and_then(|changed| {
                restored += usize::from(changed);
                recorder.undone(change.step)
            });
            if let Err(error) = outcome {
                blocked.insert(anchor);
                failures.push(self.name_holders(error));
            }
        }
        if failures.is_empty()
            && let Err(error) = recorder.end(Status::Undone)
        {
            failures.push(error);
        }
        (restored, failures)
    }

    /// Which functions' VFs may not go, and why. Asked first, so that a refusal leaves everything as it is.
    fn refusals(&mut self, operation: &Operation) -> Vec<(Bdf, Error)> {
        let mut refusals = Vec::new();
        for change in operation.pending() {
            if let Some(step) = operation.steps.get(change.step)
                && let Err(error) = self.may_change_count(step, &change.former)
            {
                refusals.push((step.target.anchor(), error));
            }
        }
        refusals
    }

    fn may_change_count(&mut self, step: &Step, former: &Former) -> Result<(), Error> {
        if !step.action.sets(Attribute::NumVfs) {
            return Ok(());
        }
        let Some(function) = unless_gone(self.bus.resolve(&step.target))? else {
            return Ok(());
        };
        self.bus.check_answered(function)?;
        let now = self.bus.read(function, Attribute::NumVfs)?;
        if now == "0" || former.value() == Some(now) {
            return Ok(());
        }
        (self.guard)(Loss::VirtualFunctions(function))
    }
}
