//! Completions on their way out.

use super::super::epoch::State;
use super::super::payload::Payload;
use super::super::spec::{Cqe, Status};
use super::{QueuePair, Tag};
use crate::{Backing, ErrorKind, Result};

/// A command that has come back.
#[derive(Debug)]
#[must_use = "whether the command was executed, and its payload"]
pub struct Completion<T> {
    /// Which command.
    pub tag: Tag,
    /// Its payload.
    pub payload: Option<T>,
    /// The controller's answer. [`ABORTED_BY_HOST`](Status::ABORTED_BY_HOST) of a command that was lost in a reset: whether it was executed is
    /// not known. [`HOST_PATHING`](Status::HOST_PATHING) of one whose device is gone.
    pub status: Status,
    /// What the command gives (DW0, and DW1 as the high half).
    pub result: u64,
}

/// The clock is looked at in one of so many turns.
pub(super) const TURNS: u32 = 64;

impl<B: Backing, T: Payload> QueuePair<B, T> {
    /// The next command that has come back, if there is one. In a loop that finds none call [`Backing::idle`].
    ///
    /// # Errors
    ///
    /// [`Gone`](ErrorKind::Gone) when the device is, or is asked back and nothing is outstanding; [`Failed`](ErrorKind::Failed) and
    /// [`Timeout`](ErrorKind::Timeout) when the queue cannot go on. [`recover`](Self::recover) it then, or drop it.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Completion<T>>> {
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(TURNS) {
            self.check()?;
        }
        let Some(cqe) = self.cq.pop() else {
            if self.epoch.glance().is_same_run(self.gate) && self.returned.is_empty() {
                return Ok(None);
            }
            return self.pop_returned();
        };
        if cqe.sq_id() == self.id
            && let Some(payload) = self.trackers.finish(cqe.cid())
        {
            if self.cq.taken() >= self.batch {
                self.cq.ring();
            }
            return Ok(Some(Completion {
                tag: Tag(cqe.cid()),
                payload,
                status: cqe.status(),
                result: cqe.result(),
            }));
        }
        self.unknown(cqe)
    }

    /// A command that came back without a completion, or why there are none any more.
    #[cold]
    fn pop_returned(&mut self) -> Result<Option<Completion<T>>> {
        while let Some((tag, status, result)) = self.returned.pop_front() {
            let Some(payload) = self.trackers.finish(tag.cid()) else {
                continue;
            };
            return Ok(Some(Completion {
                tag,
                payload,
                status,
                result,
            }));
        }
        let step = "wait for completions";
        if let Some(fault) = &self.fault {
            return self.failed(step, fault.clone());
        }
        let now = self.epoch.current();
        match now.state() {
            State::Gone => self.failed(step, ErrorKind::Gone),
            _ if !now.is_same_run(self.born) => self.failed(
                step,
                ErrorKind::Failed("the controller was reset: recover the queue".into()),
            ),
            // Asked back: what is outstanding may end.
            _ if self.gate != self.born && self.trackers.outstanding() == 0 => self.failed(step, ErrorKind::Gone),
            _ => Ok(None),
        }
    }

    #[cold]
    fn unknown(&mut self, cqe: Cqe) -> Result<Option<Completion<T>>> {
        let text = format!(
            "completion of command {:#06x} of queue {}, which is not outstanding",
            cqe.cid(),
            cqe.sq_id()
        );
        let kind = ErrorKind::Failed(text.into());
        self.close(kind.clone());
        self.failed("wait for completions", kind)
    }
}
