//! I/O queue pairs: a submission queue and a completion queue, owned by one thread (Base §3.3.1).
//!
//! A command is submitted, the doorbell rung for as many as there are, and completions popped. None of that makes a system call,
//! allocates or takes a lock. A payload comes back with its command's completion, and in no other way while the controller may reach it.

mod complete;
mod create;
mod recover;
mod submit;
mod time;
mod tracker;
mod wait;

pub use complete::Completion;
pub use create::{Interrupt, QueueOptions};
pub use recover::Policy;
pub use submit::Refused;
pub use tracker::Tag;

use super::data::Lists;
use super::epoch::{Epoch, Moment};
use super::owners::Owned;
use super::payload::Payload;
use super::ring::{CompletionRing, SubmissionRing};
use super::shared::Shared;
use super::spec::Status;
use crate::{Backing, ErrorKind, Result};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tracker::Trackers;
use vfio_core::EventFd;

/// A queue pair with payloads of type `T`.
///
/// Commands are executed in any order. When it is dropped, the controller deletes the queues before their memory and the payloads go.
pub struct QueuePair<B: Backing, T: Payload> {
    sq: SubmissionRing,
    cq: CompletionRing,
    trackers: Trackers<T>,
    lists: Lists,
    epoch: Arc<Epoch>,
    /// What `epoch` must be for commands to be submitted: `born`, or [`Moment::NEVER`] when none shall be.
    gate: Moment,
    /// When the queues were created.
    born: Moment,
    /// Turns of popping, to look at the clock once in a while.
    turns: u32,
    /// At how many taken completions the controller is told.
    batch: u16,
    id: u16,
    time: time::Scans,
    /// Commands that have come back in another way than by a completion.
    returned: VecDeque<(Tag, Status, u64)>,
    /// Why it cannot go on.
    fault: Option<ErrorKind>,
    /// What it was made with.
    options: QueueOptions,
    /// Whether the controller has them, or may have.
    has_sq: bool,
    has_cq: bool,
    is_armed: bool,
    // Another queue's once this one is deleted.
    _vector: Option<Owned>,
    shared: Arc<Shared<B>>,
}

impl<B: Backing, T: Payload> QueuePair<B, T> {
    /// The queues' number.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// How many commands can be outstanding.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.trackers.depth().into()
    }

    /// How many commands are outstanding: submitted, and not yet popped.
    #[must_use]
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.trackers.outstanding().into()
    }

    /// Whether no command can be submitted before one is popped.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        self.trackers.next().is_none()
    }

    /// Bytes of data that a command can have at most.
    #[must_use]
    pub fn transfer_bytes(&self) -> u64 {
        self.lists.transfer_bytes()
    }

    /// The function that it is of.
    #[must_use]
    pub fn backing(&self) -> &B {
        &self.shared.backing
    }

    /// The event that the controller signals, of a queue with an interrupt: for a reactor of the caller's. Also signalled when the controller
    /// is reset.
    #[must_use]
    pub fn event(&self) -> Option<&EventFd> {
        let vector = self.options.interrupt.vector()?;
        self.shared.vectors.as_ref()?.event(vector.into())
    }

    /// Tells the controller of all commands that were submitted. One write of a register, and none if there is nothing new.
    #[inline]
    pub fn ring(&mut self) {
        self.sq.ring();
    }

    fn failed<R>(&self, step: &'static str, kind: ErrorKind) -> Result<R> {
        Err(self.shared.failed(step, kind))
    }
}

impl<B: Backing, T: Payload> fmt::Debug for QueuePair<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair")
            .field("id", &self.id)
            .field("depth", &self.depth())
            .field("outstanding", &self.outstanding())
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

/// How long a command may take by default: as the kernel's `nvme_core.io_timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);
