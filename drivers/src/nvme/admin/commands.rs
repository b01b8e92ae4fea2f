//! Admin commands that are under way, and the rings that they go through.

use super::super::event::changes_namespaces;
use super::super::ring::{CompletionRing, SubmissionRing};
use super::super::spec::{Cqe, Opcode, Sqe};
use std::collections::VecDeque;

/// Commands at a time. The low bits of a command identifier say which.
pub(super) const DEPTH: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 5;
/// Entries of the admin queues: one of a submission queue is always free (Base §3.3.1.3), and no completion queue of this size overflows.
pub(super) const ENTRIES: u16 = 64;
/// Generations of a command identifier: one less than there could be, so that FFFFh is never one (Base §4.1: reserved in error logs).
const GENERATIONS: u16 = (1 << (u16::BITS - INDEX_BITS)) - 1;
/// Asynchronous Event Requests at a time at most.
pub(super) const EVENT_REQUESTS: usize = 4;
/// Events that wait for somebody to ask for them.
const EVENTS: usize = 64;

/// The admin queue.
#[derive(Debug)]
pub(super) struct Commands {
    pub(super) submission: SubmissionRing,
    pub(super) completion: CompletionRing,
    slots: [Slot; DEPTH],
    /// DW0 of Asynchronous Event Requests that have completed (Base §5.1.2).
    pub(super) events: VecDeque<u32>,
    /// Requests for events that were refused, or for which there was no place: to be submitted again.
    owed: usize,
    /// Whether one of them says that namespaces are not what they were.
    pub(super) namespaces_changed: bool,
    /// What it did that no controller does. It must be reset then.
    pub(super) broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    generation: u16,
    command: Command,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Command {
    #[default]
    None,
    /// Somebody waits for it.
    Waited,
    /// An Asynchronous Event Request.
    Event,
    /// Nobody waits for it any more.
    Abandoned,
    /// It has completed; whoever waits for it has not seen yet.
    Done(Cqe),
    /// The controller has been reset and does not know it any more.
    Lost,
}

/// How a command that somebody waits for is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Progress {
    Pending,
    Done(Cqe),
    Lost,
}

impl Commands {
    pub(super) fn new(submission: SubmissionRing, completion: CompletionRing) -> Self {
        Self {
            submission,
            completion,
            slots: [Slot::default(); DEPTH],
            events: VecDeque::with_capacity(EVENTS),
            owed: 0,
            namespaces_changed: false,
            broken: None,
        }
    }

    /// Submits a command that somebody will wait for: its identifier. `None` while there are as many as can be.
    pub(super) fn submit(&mut self, sqe: Sqe) -> Option<u16> {
        self.push(sqe, Command::Waited)
    }

    /// Asks for an event; later while there are as many commands as can be.
    pub(super) fn request_event(&mut self) {
        if self.push(Sqe::new(Opcode::ASYNC_EVENT, 0), Command::Event).is_none() {
            self.owed += 1;
        }
    }

    /// Asks again for the events that were refused.
    pub(super) fn request_events_again(&mut self) {
        for _ in 0..std::mem::take(&mut self.owed) {
            self.request_event();
        }
    }

    fn push(&mut self, sqe: Sqe, command: Command) -> Option<u16> {
        let mut slots = (0_u16..).zip(&mut self.slots);
        let (index, slot) = slots.find(|(_, slot)| slot.command == Command::None)?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        slot.command = command;
        let cid = index | slot.generation << INDEX_BITS;
        self.submission.push(&sqe.with_cid(cid));
        self.submission.ring();
        Some(cid)
    }

    /// Takes completions, at most as many as the queue has entries.
    pub(super) fn drain(&mut self) {
        for _ in 0..ENTRIES {
            let Some(cqe) = self.completion.pop() else {
                break;
            };
            self.complete(cqe);
        }
        self.completion.ring();
    }

    fn complete(&mut self, cqe: Cqe) {
        let cid = cqe.cid();
        let Some(slot) = self.slot(cid).filter(|_| cqe.sq_id() == 0) else {
            self.broken = Some("a completion of an admin command that was not submitted");
            return;
        };
        match slot.command {
            Command::Waited => slot.command = Command::Done(cqe),
            Command::Abandoned => slot.command = Command::None,
            Command::Event => {
                slot.command = Command::None;
                self.event(cqe);
            }
            _ => self.broken = Some("a second completion of an admin command"),
        }
    }

    /// The next one is asked for at once: the same event does not come again before its log page was read (Base §5.1.2).
    fn event(&mut self, cqe: Cqe) {
        if !cqe.status().is_success() {
            // Not at once: it may be refused as often as it is asked.
            tracing::debug!(status = %cqe.status(), "Asynchronous Event Request");
            self.owed += 1;
            return;
        }
        if self.events.len() == EVENTS {
            self.events.pop_front();
            tracing::warn!("an event that nobody has asked for is lost");
        }
        let event = u32::try_from(cqe.result() & 0xffff_ffff).unwrap_or_default();
        self.namespaces_changed |= changes_namespaces(event);
        self.events.push_back(event);
        self.request_event();
    }

    /// The slot of a command identifier, if it is the last one that it had.
    fn slot(&mut self, cid: u16) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(cid) % DEPTH)?;
        (slot.generation == cid >> INDEX_BITS).then_some(slot)
    }

    /// How a command that somebody waits for is. Once it is over, its identifier is no more.
    pub(super) fn take(&mut self, cid: u16) -> Progress {
        let Some(slot) = self.slot(cid) else {
            return Progress::Lost;
        };
        let progress = match slot.command {
            Command::Done(cqe) => Progress::Done(cqe),
            Command::Waited | Command::Abandoned | Command::Event => return Progress::Pending,
            Command::Lost | Command::None => Progress::Lost,
        };
        slot.command = Command::None;
        progress
    }

    /// Nobody waits for that command any more: its place is free once it ends.
    pub(super) fn abandon(&mut self, cid: u16) {
        let Some(slot) = self.slot(cid) else { return };
        match slot.command {
            Command::Waited => slot.command = Command::Abandoned,
            Command::Done(_) | Command::Lost => slot.command = Command::None,
            Command::None | Command::Event | Command::Abandoned => {}
        }
    }

    /// The controller knows none of the commands any more, and does no DMA for them.
    pub(super) fn lose(&mut self) {
        for slot in &mut self.slots {
            match slot.command {
                Command::Waited => slot.command = Command::Lost,
                Command::Event | Command::Abandoned => slot.command = Command::None,
                _ => {}
            }
        }
        (self.broken, self.owed) = (None, 0);
    }
}
