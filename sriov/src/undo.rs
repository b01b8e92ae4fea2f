//! Restores what an operation changed, from its journal, in reverse.
//!
//! Every change is compared with the machine first, so undoing can be repeated, also after it was killed itself. What has become
//! different from both the former state and what the operation made of it was changed by someone else and is left alone.

use crate::apply::{Executor, Loss};
use crate::bus::Bus;
use crate::journal::Recorder;
use crate::{Action, Attribute, Binding, Change, Error, ErrorKind, Former, Guard, Stage, Status, Step, Target};
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
        recorder.undo()?;
        let (restored, mut failures) = self.restore_all(&mut recorder);
        match failures.pop() {
            None => Ok(Undone { operation, restored }),
            Some(only) if failures.is_empty() => Err(only),
            Some(last) => {
                failures.push(last);
                Err(Error::new(
                    None,
                    format!("undo {operation}"),
                    ErrorKind::NotUndone { failures },
                ))
            }
        }
    }

    /// Returns how many changes were taken back and what could not be. After a failure the earlier changes of the same function,
    /// for a VF of its PF, are left as they are: they build on one another.
    pub(crate) fn restore_all(&mut self, recorder: &mut Recorder) -> (usize, Vec<Error>) {
        let start = Instant::now();
        let steps = recorder.operation().steps.clone();
        let created: BTreeSet<Bdf> = recorder.operation().created_vfs_of().collect();
        let pending: Vec<Change> = recorder.operation().pending().cloned().collect();
        let mut blocked = BTreeSet::new();
        let mut failures = Vec::new();
        // Whether the VFs may go is asked first, so that a refusal leaves everything as it is.
        for change in &pending {
            if let Some(step) = steps.get(change.step)
                && let Err(error) = self.may_change_count(step, &change.former)
            {
                blocked.insert(step.target.anchor());
                failures.push(error);
            }
        }
        let mut restored = 0;
        for change in pending.iter().rev() {
            let Some(step) = steps.get(change.step) else { continue };
            let anchor = step.target.anchor();
            // VFs that the operation created vanish when the count goes back to 0: nothing to restore on them.
            let vanishes = matches!(step.target, Target::VirtualFunction { pf, .. } if created.contains(&pf));
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
                failures.push(error);
            }
        }
        if failures.is_empty()
            && let Err(error) = recorder.end(Status::Undone)
        {
            failures.push(error);
        }
        (restored, failures)
    }

    fn may_change_count(&mut self, step: &Step, former: &Former) -> Result<(), Error> {
        let Former::Value(former) = former else { return Ok(()) };
        if !step.action.sets(Attribute::NumVfs) {
            return Ok(());
        }
        let Some(function) = unless_gone(self.bus.resolve(&step.target))? else {
            return Ok(());
        };
        let now = self.bus.read(function, Attribute::NumVfs)?;
        if now == "0" || now == *former {
            return Ok(());
        }
        (self.guard)(Loss::VirtualFunctions(function))
    }
}

/// Takes one change back; `false` when it was as before already, or its function is gone.
fn restore(bus: &mut Bus<'_>, guard: &mut Guard<'_>, step: &Step, change: &Change) -> Result<bool, Error> {
    let Some(function) = unless_gone(bus.resolve(&step.target))? else {
        return Ok(false);
    };
    let changed_since = |left: &str, found: String| {
        let left = left.to_owned();
        Error::new(
            function,
            format!("undo {}", step.action),
            ErrorKind::ChangedSince { left, found },
        )
    };
    match (&step.action, &change.former) {
        (Action::Set { attribute, value }, Former::Value(former)) => {
            let now = bus.read(function, *attribute)?;
            if now == *former {
                return Ok(false);
            }
            if change.stage == Stage::Done && now != *value {
                return Err(changed_since(value, now));
            }
            bus.write(function, *attribute, former)?;
            Ok(true)
        }
        (action, Former::Binding(former)) => {
            let now = bus.binding(function)?;
            if now == *former {
                return Ok(false);
            }
            if let Action::Probe { driver: Some(made) } = action
                && change.stage == Stage::Done
                && now.driver != former.driver
                && now.driver.as_ref() != Some(made)
            {
                return Err(changed_since(made, now.driver.unwrap_or_default()));
            }
            rebind(bus, guard, function, former, now)?;
            Ok(true)
        }
        (Action::Unbind | Action::Probe { .. } | Action::Wait { .. }, Former::Value(_)) => Ok(false),
    }
}

/// Brings a function back to a driver. The override names that driver meanwhile, whatever it was before: a driver that came through
/// `new_id` or a since cleared override would not be found otherwise, and no other driver can get in between.
fn rebind(
    bus: &mut Bus<'_>,
    guard: &mut Guard<'_>,
    function: Bdf,
    former: &Binding,
    now: Binding,
) -> Result<(), Error> {
    let mut driver_override = now.driver_override;
    if now.driver != former.driver {
        if let Some(driver) = &former.driver
            && driver_override != *driver
        {
            bus.write(function, Attribute::DriverOverride, driver)?;
            driver_override.clone_from(driver);
        }
        // Looked up again: a probe that was under way has ended once the override could be written.
        if bus
            .driver(function)?
            .is_some_and(|now| former.driver.as_ref() != Some(&now))
        {
            guard(Loss::Driver(function))?;
            bus.unbind(function)?;
        }
        if let Some(driver) = &former.driver {
            bus.probe(function, Some(driver))?;
        }
    }
    if driver_override != former.driver_override {
        bus.write(function, Attribute::DriverOverride, &former.driver_override)?;
    }
    Ok(())
}

/// A function that is gone has nothing to restore.
fn unless_gone(resolved: Result<Bdf, Error>) -> Result<Option<Bdf>, Error> {
    match resolved {
        Ok(function) => Ok(Some(function)),
        Err(error) if error.kind == ErrorKind::Gone => Ok(None),
        Err(error) => Err(error),
    }
}
