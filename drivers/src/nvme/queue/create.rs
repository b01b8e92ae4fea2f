//! Queue pairs are made: memory, then the completion queue, then the submission queue (Base §5.2.1, §5.2.2).

use super::super::data::{DataForm, Lists};
use super::super::doorbell::{Doorbell, Side};
use super::super::epoch::State;
use super::super::owners::Owned;
use super::super::ring::{CompletionRing, SubmissionRing};
use super::super::shared::Shared;
use super::super::spec::{DataPointer, Opcode, Sqe};
use super::tracker::{MOST, Trackers};
use super::{Payload, QueuePair, TIMEOUT, time};
use crate::{Backing, ErrorKind, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What queues to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOptions {
    /// Commands that can be outstanding: at most 4095, and one less than the entries that the controller allows (CAP.MQES).
    pub depth: u16,
    /// Bytes of data of a command at most; what the controller allows if that is less. Lists for so many are made with the queue.
    pub transfer_bytes: u64,
    /// How to hear of completions.
    pub interrupt: Interrupt,
    /// How commands say where their data is.
    pub form: DataForm,
    /// How long a command may take before it is aborted, not 0, and after that again before the controller has failed.
    pub timeout: Duration,
    /// Keep what is needed to submit commands again after a reset ([`Policy::Replay`](super::Policy::Replay)): 64 more bytes are stored for
    /// each.
    pub can_replay: bool,
    /// Keep the submission queue in the controller memory buffer, of a controller that takes it there (CMBSZ.SQS): a command is stored over the bus
    /// then, eight writes for each, and the controller fetches it without going to memory.
    pub submission_in_buffer: bool,
}

/// How a queue hears of completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Interrupt {
    /// By looking: the controller sends no interrupts.
    #[default]
    Off,
    /// By a vector of its own: not 0, which is the admin queue's, unless there is only that one.
    Vector(u16),
    /// By looking for so long, and then by a vector of its own, as above, which is off while it looks if vectors can be switched one by one.
    Adaptive {
        /// The vector.
        vector: u16,
        /// How long to look before waiting for the vector.
        poll: Duration,
    },
}

impl Interrupt {
    pub(super) fn vector(self) -> Option<u16> {
        match self {
            Self::Off => None,
            Self::Vector(vector) | Self::Adaptive { vector, .. } => Some(vector),
        }
    }
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            depth: 128,
            transfer_bytes: 1 << 20,
            interrupt: Interrupt::Off,
            form: DataForm::Shortest,
            timeout: TIMEOUT,
            can_replay: false,
            submission_in_buffer: false,
        }
    }
}

/// Bits of CDW11 of the commands that create queues.
const CONTIGUOUS: u32 = 1 << 0;
const INTERRUPTS: u32 = 1 << 1;
/// Completions of a page of the smallest size: a queue has at least so many entries.
const COMPLETIONS: u32 = 256;

impl<B: Backing, T: Payload> QueuePair<B, T> {
    /// Makes queues of a controller that runs.
    pub(crate) fn new(shared: &Arc<Shared<B>>, options: QueueOptions) -> Result<Self> {
        let failed = |kind| shared.failed("make an I/O queue pair", kind);
        let limits = &shared.limits;
        let entries = limits.entries.min(u32::from(MOST) + 1);
        if options.depth == 0 || u32::from(options.depth) >= entries {
            let most = entries.saturating_sub(1);
            return Err(failed(ErrorKind::Unsupported(
                format!("{} commands at a time; 1 to {most} are", options.depth).into(),
            )));
        }
        if options.timeout.is_zero() {
            return Err(failed(ErrorKind::Invalid("no command ends in no time".into())));
        }
        let vector = options.interrupt.vector().map(|vector| own(shared, vector));
        let vector = vector.transpose().map_err(failed)?;
        let born = shared.epoch.current();
        if born.state() != State::Running {
            return Err(failed(match born.state() {
                State::Gone => ErrorKind::Gone,
                _ => ErrorKind::Failed("the controller does not run".into()),
            }));
        }
        // Room for completions that were taken without telling the controller, so that it is told of many at a time.
        let depth = u32::from(options.depth);
        let completions = (depth * 2).max(COMPLETIONS).min(limits.entries).min(1 << 15);
        let completions = u16::try_from(completions).unwrap_or(u16::MAX);
        let transfer_bytes = options.transfer_bytes.min(limits.transfer_bytes);
        let (space, page) = (shared.backing.space(), limits.page_bytes);
        let lists =
            Lists::new(space, options.depth, page, transfer_bytes, (limits.sgl, options.form)).map_err(failed)?;
        let buffer = options.submission_in_buffer.then(|| shared.admin.memory_buffer());
        let buffer = buffer.transpose()?;
        let id = shared.admin.take_queue()?;
        let made = (|| {
            let doorbell = doorbell(shared, id, Side::Submission)?;
            let sq = match &buffer {
                Some(buffer) => SubmissionRing::in_buffer(buffer, options.depth + 1, doorbell)?,
                None => SubmissionRing::new(space, page, options.depth + 1, doorbell)?,
            };
            let doorbell = self::doorbell(shared, id, Side::Completion)?;
            Ok((sq, CompletionRing::new(space, page, completions, doorbell)?))
        })();
        let (sq, cq) = match made {
            Ok(rings) => rings,
            Err(kind) => {
                shared.admin.give_back_queue(id);
                return Err(failed(kind));
            }
        };
        let mut queue = Self {
            batch: completions.saturating_sub(options.depth).min(completions / 2).max(1),
            trackers: Trackers::new(options.depth, options.can_replay),
            time: time::Scans::new(options.timeout, shared.backing.now()),
            epoch: Arc::clone(&shared.epoch),
            gate: born,
            born,
            turns: 0,
            id,
            returned: VecDeque::new(),
            fault: None,
            has_sq: false,
            has_cq: false,
            is_armed: true,
            _vector: vector,
            shared: Arc::clone(shared),
            options,
            lists,
            sq,
            cq,
        };
        // From here on dropping it deletes what was created.
        queue.create()?;
        Ok(queue)
    }

    /// Creates both queues in the controller. If one of them is not, neither is used.
    pub(super) fn create(&mut self) -> Result<()> {
        let (interrupts, vector) = match self.options.interrupt.vector() {
            Some(vector) => (INTERRUPTS, vector),
            None => (0, 0),
        };
        let vector = u32::from(vector) << 16 | interrupts | CONTIGUOUS;
        let link = u32::from(self.id) << 16 | CONTIGUOUS;
        let cq = (Opcode::CREATE_CQ, self.cq.iova().0, self.cq.entries(), vector);
        let sq = (Opcode::CREATE_SQ, self.sq.iova().0, self.sq.entries(), link);
        let created = self.execute(cq).and_then(|()| self.execute(sq));
        if created.is_err() {
            self.close(ErrorKind::Failed("the queues were not created".into()));
        }
        created
    }

    fn execute(&mut self, (opcode, iova, entries, cdw11): (Opcode, u64, u16, u32)) -> Result<()> {
        let cdw10 = u32::from(entries - 1) << 16 | u32::from(self.id);
        let sqe = Sqe::new(opcode, 0)
            .with_data(DataPointer::Prp, iova, 0)
            .with_cdw10(cdw10)
            .with_cdw11(cdw11);
        let executed = self.shared.admin.execute(self.born, sqe).map(drop);
        // Without an answer it may have been made.
        let is_refused = matches!(&executed, Err(error) if matches!(error.kind, ErrorKind::Refused(_)));
        let queue = if opcode == Opcode::CREATE_CQ {
            &mut self.has_cq
        } else {
            &mut self.has_sq
        };
        *queue = !is_refused;
        executed
    }
}

/// Makes a vector the queue's own.
fn own<B>(shared: &Shared<B>, vector: u16) -> Result<Owned, ErrorKind> {
    let there = shared.vectors.as_ref().map_or(0, crate::Vectors::count);
    let unsupported = |what: String| Err(ErrorKind::Unsupported(what.into()));
    if usize::from(vector) >= there {
        return unsupported(format!(
            "interrupt vector {vector}: the function has {there}; other queues are polled"
        ));
    }
    if vector == 0 && there > 1 {
        return unsupported("interrupt vector 0: it is the admin queue's".to_owned());
    }
    match shared.owners.own(vector) {
        Some(owned) => Ok(owned),
        None => unsupported(format!(
            "interrupt vector {vector} of another queue, which takes its signals"
        )),
    }
}

/// A doorbell of an I/O queue.
pub(super) fn doorbell<B>(shared: &Shared<B>, id: u16, side: Side) -> Result<Doorbell, ErrorKind> {
    let doorbell = Doorbell::new(&shared.registers, shared.limits.doorbell_stride, id, side)?;
    Ok(doorbell.with_shadow(shared.shadow.as_ref()))
}
