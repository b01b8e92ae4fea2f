//! A command on its way: submitted, waited for, aborted when it takes too long.

use super::commands::{Commands, Progress};
use super::{Administration, fatal};
use crate::nvme::epoch::{Moment, State};
use crate::nvme::spec::{Cqe, Opcode, Sqe};
use crate::{Backing, ErrorKind, Presence, Result};
use std::time::Duration;

/// What came of a command.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: Result<u64>,
    /// Its identifier, if the controller may still execute it, and use its memory.
    pub(super) under_way: Option<u16>,
}

/// Why a command did not complete.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is still under way.
    Late,
    /// It was late, and has ended.
    Aborted,
    /// The controller has failed, and may still execute it.
    Broken(ErrorKind),
    /// The controller was reset; it is over.
    Lost,
    /// It cannot be waited for; the controller may still execute it.
    Error(crate::Error),
}

/// How long an abort may take to end the command that took too long.
const ABORT: Duration = Duration::from_secs(2);

/// Fruitless turns between two looks at the registers.
const LOOK: u32 = 256;

impl Outcome {
    /// The controller does not execute it, or no longer.
    pub(super) fn never(error: crate::Error) -> Self {
        Self {
            result: Err(error),
            under_way: None,
        }
    }
}

impl<B: Backing> Administration<B> {
    /// Submits a command and waits for its completion; aborts it when it takes too long. Does not reset the controller.
    pub(super) fn attempt(&self, run: Moment, step: &'static str, sqe: Sqe, limit: Duration) -> Outcome {
        // Whoever waits for another command frees its place.
        let submitted = self.function.wait(limit, || {
            let submitted = self.in_run(run, |commands| {
                self.drain(commands);
                commands.submit(sqe)
            });
            submitted.ok_or_else(|| self.over(step))
        });
        let cid = match submitted {
            Ok(Some(cid)) => cid,
            Ok(None) => return Outcome::never(self.failed(step, ErrorKind::Timeout(limit))),
            Err(error) => return Outcome::never(error),
        };
        let mut awaited = self.await_completion(run, cid, limit);
        if matches!(awaited, Err(Trouble::Late)) && sqe.opcode() != Opcode::ABORT {
            self.abort(run, cid);
            // It ends with a status of its own, or had just ended.
            let late = self.await_completion(run, cid, self.abort_limit());
            awaited = late.and(Err(Trouble::Aborted));
        }
        let kind = match awaited {
            Ok(cqe) => {
                let result = cqe.status().ok().map(|()| cqe.result());
                return Outcome {
                    result: result.map_err(|kind| self.failed(step, kind)),
                    under_way: None,
                };
            }
            Err(Trouble::Lost) => return Outcome::never(self.over(step)),
            Err(Trouble::Aborted) => return Outcome::never(self.failed(step, ErrorKind::Timeout(limit))),
            Err(Trouble::Late) => ErrorKind::Timeout(limit),
            Err(Trouble::Broken(kind)) => kind,
            Err(Trouble::Error(error)) => error.kind,
        };
        Outcome {
            result: Err(self.failed(step, kind)),
            under_way: Some(cid),
        }
    }

    fn abort(&self, run: Moment, cid: u16) {
        let abort = Sqe::new(Opcode::ABORT, 0).with_cdw10(u32::from(cid) << 16);
        let aborting = self.in_run(run, |commands| commands.submit(abort)).flatten();
        let aborted = aborting.map(|aborting| {
            let aborted = self.await_completion(run, aborting, self.abort_limit());
            self.with_commands(|commands| commands.abandon(aborting));
            aborted
        });
        tracing::warn!(cid, ?aborted, "an admin command took too long");
    }

    /// How long one waits for an abort.
    pub(super) fn abort_limit(&self) -> Duration {
        self.limits.admin.min(ABORT)
    }

    fn await_completion(&self, run: Moment, cid: u16, limit: Duration) -> Result<Cqe, Trouble> {
        let start = self.function.backing.now();
        let mut turns: u32 = 0;
        loop {
            // The time is read first: what happened in time counts, however long this thread did not run.
            let is_late = self.function.backing.now().saturating_sub(start) > limit;
            self.in_run(run, |commands| self.drain(commands));
            let progress = self.with_commands(|commands| (commands.take(cid), commands.broken));
            match progress {
                (Progress::Done(cqe), _) => return Ok(cqe),
                (Progress::Pending, None) => {}
                (Progress::Pending, Some(reason)) => {
                    return Err(Trouble::Broken(ErrorKind::Failed(reason.into())));
                }
                (Progress::Lost, _) => return Err(Trouble::Lost),
            }
            if turns.is_multiple_of(LOOK) {
                self.look()?;
            }
            if is_late {
                return Err(Trouble::Late);
            }
            self.function.rest(turns, &self.event).map_err(Trouble::Error)?;
            turns = turns.wrapping_add(1);
        }
    }

    /// Takes completions of all, and notes that namespaces are not what they were.
    pub(super) fn drain(&self, commands: &mut Commands) {
        commands.drain();
        if std::mem::take(&mut commands.namespaces_changed) {
            self.epoch.namespaces_changed();
        }
    }

    /// Looks at the registers: whether the controller is there, runs, and has not failed.
    pub(super) fn look(&self) -> Result<(), Trouble> {
        match self.function.status() {
            Ok(Some(status)) if status.fatal() => Err(Trouble::Broken(fatal())),
            // Behind some bridges what is gone reads as zeros.
            Ok(Some(status)) if !status.ready() && self.function.backing.presence() == Presence::Gone => {
                self.leave(State::Gone);
                Err(Trouble::Broken(ErrorKind::Gone))
            }
            Ok(Some(status)) if !status.ready() => {
                let why = "CSTS.RDY is 0: somebody else has reset it";
                Err(Trouble::Broken(ErrorKind::Failed(why.into())))
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.leave(State::Gone);
                Err(Trouble::Error(error))
            }
        }
    }
}
