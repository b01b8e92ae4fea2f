//! What becomes of a queue whose controller was reset, or has to be, and of one that is dropped.

use super::super::doorbell::Side;
use super::super::epoch::State;
use super::super::payload::Payload;
use super::super::spec::{Fuse, Opcode, Sqe};
use super::create::doorbell;
use super::tracker::Kept;
use super::{QueuePair, Tag};
use crate::{Backing, ErrorKind, Result};

/// What to do with commands that were lost in a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Give them back, with [`ABORTED_BY_HOST`](crate::nvme::spec::Status::ABORTED_BY_HOST): whether they were executed is not known.
    Fail,
    /// Submit them again, of a queue that [can](super::QueueOptions::can_replay); what cannot be is given back. Only for commands that may be
    /// executed twice.
    Replay,
}

impl<B: Backing, T: Payload> QueuePair<B, T> {
    /// Makes a queue that cannot go on usable again: resets the controller unless that was done already, and creates the queues anew. Does
    /// nothing for one that can. Commands that were outstanding are replayed, or popped with
    /// [`ABORTED_BY_HOST`](crate::nvme::spec::Status::ABORTED_BY_HOST).
    ///
    /// Other queues of the controller have to be recovered, too, by their owners.
    ///
    /// # Errors
    ///
    /// [`Gone`](ErrorKind::Gone) when the device is, or is asked back; others when the controller does not run after a reset. If it is known to
    /// be quiet, for example because it is gone, its commands can be popped, with
    /// [`HOST_PATHING`](crate::nvme::spec::Status::HOST_PATHING) if it is gone. If that is not known, payloads are kept, and leaked when the queue is dropped.
    pub fn recover(&mut self, policy: Policy) -> Result<()> {
        let now = self.epoch.current();
        let fault = self.fault.clone();
        if now.is_same_run(self.born) && now.state() == State::Running {
            let Some(fault) = &fault else {
                if self.gate != self.born {
                    // Asked back: no command is taken any more.
                    return self.failed("recover a queue", ErrorKind::Gone);
                }
                return Ok(());
            };
            let reset = self.shared.admin.reset(self.born, &fault.to_string());
            if let Err(error) = reset {
                self.settle()?;
                return Err(error);
            }
        } else if now.state() == State::Resetting
            && let Err(error) = self.shared.admin.reset(self.born, "a reset is under way")
        {
            self.settle()?;
            return Err(error);
        }
        self.settle()?;
        let now = self.epoch.current();
        if now.state() != State::Running || !now.is_reset_since(self.born) {
            return self.failed(
                "recover a queue",
                match now.state() {
                    State::Gone => ErrorKind::Gone,
                    _ => ErrorKind::Failed("the controller does not run".into()),
                },
            );
        }
        let kept = match policy {
            Policy::Fail => Vec::new(),
            Policy::Replay => self.replayable(now.changes()),
        };
        self.give_back_all_but(&kept);
        self.id = self.shared.admin.exchange_queue(self.id)?;
        let doorbells = [Side::Submission, Side::Completion].map(|side| doorbell(&self.shared, self.id, side));
        let [submission, completion] =
            doorbells.map(|doorbell| doorbell.map_err(|kind| self.shared.failed("recover a queue", kind)));
        self.sq.reset(submission?);
        self.cq.reset(completion?);
        (self.born, self.gate, self.fault) = (now, now, None);
        (self.has_sq, self.has_cq) = (false, false);
        self.create()?;
        for (tag, kept) in kept {
            self.trackers.stamp(tag, self.time.scan(), false);
            self.sq.push(&kept.sqe);
        }
        self.sq.ring();
        Ok(())
    }

    /// Takes what had come back before, once it is known that nothing comes any more.
    ///
    /// # Errors
    ///
    /// When that is not known.
    fn settle(&mut self) -> Result<()> {
        self.prove_quiet()?;
        // A controller that has failed may have left anything there; all of it is taken, so that nothing is taken for a completion later.
        for _ in 0..self.cq.entries() {
            let Some(cqe) = self.cq.pop() else { break };
            let tag = Tag(cqe.cid());
            let is_returned = || self.returned.iter().any(|(returned, ..)| *returned == tag);
            if cqe.sq_id() == self.id && self.trackers.is_outstanding(tag) && !is_returned() {
                self.returned.push_back((tag, cqe.status(), cqe.result()));
            }
        }
        if self.epoch.current().state() != State::Running {
            self.give_back_all_but(&[]);
        }
        Ok(())
    }

    /// Succeeds if the controller does no DMA for these queues any more.
    fn prove_quiet(&self) -> Result<()> {
        if self.epoch.current().is_reset_since(self.born) {
            return Ok(());
        }
        self.shared.admin.stop_for(self.born)
    }

    /// Lets commands be popped as lost.
    fn give_back_all_but(&mut self, kept: &[(Tag, Kept)]) {
        let status = self.status_of_lost();
        let outstanding: Vec<Tag> = self.trackers.tags().collect();
        for tag in outstanding {
            let is_kept = kept.iter().any(|(kept, _)| *kept == tag);
            let is_returned = self.returned.iter().any(|(returned, ..)| *returned == tag);
            if !is_kept && !is_returned {
                self.returned.push_back((tag, status, 0));
            }
        }
    }

    /// Commands that can be submitted as they were: of namespaces that are as they were, and fused ones only together.
    fn replayable(&self, changes: u32) -> Vec<(Tag, Kept)> {
        let mut lost = self.trackers.kept();
        lost.retain(|(tag, kept)| {
            let is_returned = self.returned.iter().any(|(returned, ..)| returned == tag);
            !is_returned && kept.changes.is_none_or(|then| then == changes)
        });
        let is_half = |half: Fuse, order: Option<u64>| {
            let other = |(_, kept): &&(Tag, Kept)| Some(kept.order) == order && kept.sqe.fuse() == Some(half);
            lost.iter().any(|lost| other(&lost))
        };
        let whole = lost.iter().filter(|(_, kept)| match kept.sqe.fuse() {
            None => true,
            Some(Fuse::First) => is_half(Fuse::Second, kept.order.checked_add(1)),
            Some(Fuse::Second) => is_half(Fuse::First, kept.order.checked_sub(1)),
        });
        whole.copied().collect()
    }

    /// Deletes what there is of the queues in the controller: then it has ended all their commands.
    fn delete(&self) -> Result<()> {
        let queues = [(self.has_sq, Opcode::DELETE_SQ), (self.has_cq, Opcode::DELETE_CQ)];
        for (_, opcode) in queues.into_iter().filter(|&(is_there, _)| is_there) {
            self.shared
                .admin
                .execute(self.born, Sqe::new(opcode, 0).with_cdw10(self.id.into()))?;
        }
        Ok(())
    }
}

impl<B: Backing, T: Payload> Drop for QueuePair<B, T> {
    fn drop(&mut self) {
        let now = self.epoch.current();
        let is_running = now.is_same_run(self.born) && now.state() == State::Running;
        let deleted = if is_running { self.delete() } else { self.prove_quiet() };
        let quiet = deleted.or_else(|error| {
            tracing::warn!(queue = self.id, %error, "not deleted");
            self.prove_quiet()
        });
        match quiet {
            Ok(()) => self.shared.admin.give_back_queue(self.id),
            Err(error) => {
                tracing::error!(queue = self.id, %error, "the controller may still reach the queue's memory, which is leaked");
                self.sq.leak();
                self.cq.leak();
                self.lists.leak();
                self.trackers.leak();
            }
        }
    }
}
