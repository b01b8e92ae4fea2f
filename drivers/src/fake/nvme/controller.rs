//! A controller: fetches commands, does them when they are due, and posts how they ended.

use super::bytes::{low16, size};
use super::chance::Chance;
use super::command::{Command, ENTRY, Status};
use super::events::Events;
use super::fault::{Fault, Script};
use super::features::Features;
use super::host::Host;
use super::options::Options;
use super::queue::{Completions, Entry, Submissions};
use super::registers::Registers;
use super::subsystem::Subsystem;
use super::transfer::Transfer;
use super::{Abilities, Counts};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_core::fake::Bus;

/// All of a controller.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) id: u16,
    pub(super) options: Options,
    subsystem: Arc<Mutex<Subsystem>>,
    pub(super) script: Script,
    pub(super) chance: Chance,
    pub(super) registers: Registers,
    /// Writes that have not taken effect: offset and value.
    pub(super) writes: VecDeque<(u64, u32)>,
    pub(super) submissions: BTreeMap<u16, Submissions>,
    pub(super) completions: BTreeMap<u16, Completions>,
    work: Vec<Work>,
    /// The controller memory buffer.
    buffer: Vec<u8>,
    /// Shadow doorbells and their event indices.
    pub(super) doorbell_buffers: Option<(u64, u64)>,
    pub(super) features: Features,
    pub(super) events: Events,
    pub(super) pokes: u64,
    pub(super) counts: Counts,
    pub(super) mistakes: Vec<String>,
}

/// A command that was fetched, or two that are one.
#[derive(Debug, Clone, Copy)]
struct Work {
    queue: u16,
    command: Command,
    second: Option<Command>,
    /// When it is done; `None` waits for an Abort.
    due: Option<u64>,
    fault: Option<Fault>,
}

/// How a command ended.
pub(super) enum Outcome {
    Done(Status, u32),
    /// It ends later.
    Waits,
}

/// Commands that it works on at a time.
const AT_A_TIME: usize = 4096;
const MISTAKES: usize = 64;
/// Writes that it remembers between pokes.
const WRITES: usize = 1 << 16;

impl Controller {
    pub(super) fn new(id: u16, options: Options, subsystem: Arc<Mutex<Subsystem>>) -> Self {
        Self {
            id,
            subsystem,
            script: Script::default(),
            chance: Chance::new(options.seed ^ u64::from(id) << 48),
            registers: Registers::default(),
            // The driver under test does not pay for it.
            writes: VecDeque::with_capacity(4096),
            submissions: BTreeMap::new(),
            completions: BTreeMap::new(),
            work: Vec::new(),
            buffer: vec![0; size(options.buffer)],
            doorbell_buffers: None,
            features: Features::default(),
            events: Events::default(),
            pokes: 0,
            counts: Counts::default(),
            mistakes: Vec::new(),
            options,
        }
    }

    pub(super) fn subsystem(&self) -> MutexGuard<'_, Subsystem> {
        self.subsystem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver did what no driver may do.
    pub(super) fn mistake(&mut self, text: String) {
        if self.mistakes.len() < MISTAKES {
            self.mistakes.push(text);
        }
    }

    pub(super) fn record(&mut self, offset: u64, value: u32) {
        if self.writes.len() < WRITES {
            self.writes.push_back((offset, value));
        } else {
            self.mistake("registers are written without end".to_owned());
        }
    }

    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Whether the host may use it: a secondary controller has to be brought online.
    pub(super) fn is_online(&self) -> bool {
        self.subsystem().is_online(self.id)
    }

    pub(super) fn poke(&mut self, bus: &Bus<'_>) {
        self.pokes += 1;
        let host = Host {
            bus,
            buffer: RefCell::new(std::mem::take(&mut self.buffer)),
            buffer_at: self.buffer_at(),
            page: self.page(),
            has_sgl: self.has_ability(Abilities::SGL),
        };
        self.live(&host);
        if self.fetches() {
            self.hear();
            self.fetch_all(&host);
            self.sanitize();
            self.tell_events();
        }
        if self.works() {
            self.work(&host);
        }
        // Not by one that has gone meanwhile.
        if self.works() {
            self.post(&host);
        }
        self.buffer = host.buffer.into_inner();
    }

    /// A reset of the function.
    pub(super) fn reset(&mut self) {
        self.forget();
        self.writes.clear();
        self.registers = Registers::default();
        self.buffer.fill(0);
    }

    /// What a controller level reset does to all but the registers.
    pub(super) fn forget(&mut self) {
        self.submissions.clear();
        self.completions.clear();
        self.work.clear();
        self.doorbell_buffers = None;
        self.features = Features::default();
        self.events.forget();
        let id = self.id;
        self.subsystem().was_reset(id);
    }

    /// The admin queues are there.
    pub(super) fn begin(&mut self, asq: u64, submissions: u32, acq: u64, completions: u32) {
        self.submissions.insert(0, Submissions::new(asq, submissions, 0));
        self.completions.insert(0, Completions::new(acq, completions, Some(0)));
    }

    fn fetch_all(&mut self, host: &Host<'_>) {
        let queues: Vec<u16> = self.submissions.keys().copied().collect();
        for queue in queues {
            self.look_at_tail(queue, host);
            while self.work.len() < AT_A_TIME && self.fetches() && self.fetch(queue, host) {}
            // Whatever came meanwhile, and where to ring next.
            self.look_at_tail(queue, host);
        }
    }

    /// Fetches the next command of a queue; false if there is none.
    fn fetch(&mut self, queue: u16, host: &Host<'_>) -> bool {
        let Some(command) = self.next(queue, host) else {
            return false;
        };
        if !self.note(queue, &command) {
            self.end(queue, &command, Status::ID_CONFLICT, 0, None);
            return true;
        }
        let second = match command.fuse() {
            1 if queue != 0 => match self.peek(queue, host) {
                Some(second) if second.fuse() == 2 => {
                    self.advance(queue);
                    if !self.note(queue, &second) {
                        self.end(queue, &second, Status::ID_CONFLICT, 0, None);
                        self.end(queue, &command, Status::FUSED_MISSING, 0, None);
                        return true;
                    }
                    Some(second)
                }
                _ => {
                    self.end(queue, &command, Status::FUSED_MISSING, 0, None);
                    return true;
                }
            },
            0 => None,
            2 if queue != 0 => {
                self.end(queue, &command, Status::FUSED_MISSING, 0, None);
                return true;
            }
            _ => {
                self.end(queue, &command, Status::INVALID_FIELD, 0, None);
                return true;
            }
        };
        let fault = self.script.command(queue == 0, command.opcode());
        self.schedule(queue, command, second, fault);
        true
    }

    fn schedule(&mut self, queue: u16, command: Command, second: Option<Command>, fault: Option<Fault>) {
        let latency = self.options.latency.clone();
        let mut due = Some(self.pokes + latency.start + self.chance.below(latency.end - latency.start));
        match fault {
            Some(fault) if fault.is_of_controller() => return self.suffer(fault),
            Some(Fault::Lost) => return,
            Some(Fault::Stuck) => due = None,
            Some(Fault::Slow(more)) => due = due.map(|due| due.saturating_add(more)),
            _ => {}
        }
        self.work.push(Work {
            queue,
            command,
            second,
            due,
            fault,
        });
    }

    /// Counts a command, and takes its identifier; false if another command has it.
    fn note(&mut self, queue: u16, command: &Command) -> bool {
        if queue == 0 {
            self.counts.admin += 1;
        } else {
            self.counts.io += 1;
        }
        let Some(submissions) = self.submissions.get_mut(&queue) else {
            return false;
        };
        let is_free = submissions.used.insert(command.id());
        if !is_free {
            self.mistake(format!("queue {queue}: identifier {:#x} is used twice", command.id()));
        }
        if command.id() == u16::MAX {
            // The error log uses it for "no command" (Base 2.0 §3.3.3.1).
            self.mistake(format!("queue {queue}: identifier 0xffff"));
        }
        is_free
    }

    fn next(&mut self, queue: u16, host: &Host<'_>) -> Option<Command> {
        let command = self.peek(queue, host)?;
        self.advance(queue);
        Some(command)
    }

    fn peek(&mut self, queue: u16, host: &Host<'_>) -> Option<Command> {
        let submissions = self.submissions.get(&queue)?;
        if submissions.head == submissions.tail {
            return None;
        }
        let mut entry = [0; ENTRY];
        let at = submissions.base + 64 * u64::from(submissions.head);
        if host.read(at, &mut entry).is_err() {
            // Commands that cannot be read are the end of the controller.
            self.halt();
            return None;
        }
        Some(Command(entry))
    }

    fn advance(&mut self, queue: u16) {
        if let Some(submissions) = self.submissions.get_mut(&queue) {
            submissions.head = (submissions.head + 1) % submissions.size;
        }
    }

    /// Does what is due.
    fn work(&mut self, host: &Host<'_>) {
        let now = self.pokes;
        let mut due: Vec<Work> = self
            .work
            .extract_if(.., |work| work.due.is_some_and(|due| due <= now))
            .collect();
        due.sort_by_key(|work| work.due);
        for work in due {
            if !self.works() {
                return;
            }
            self.perform(&work, host);
        }
    }

    fn perform(&mut self, work: &Work, host: &Host<'_>) {
        if !self.submissions.contains_key(&work.queue) {
            return;
        }
        let mut transfer = Transfer {
            host,
            command: &work.command,
            fault: work.fault,
        };
        let outcome = match work.fault {
            Some(Fault::Status(status)) => Outcome::Done(status, 0),
            _ if work.queue == 0 => self.admin(&transfer),
            _ => Outcome::Done(self.io(&transfer, work.second.is_some()), 0),
        };
        let Outcome::Done(status, result) = outcome else { return };
        self.end(work.queue, &work.command, status, result, work.fault);
        if let Some(second) = &work.second {
            transfer.command = second;
            let status = if status.is_success() {
                self.io(&transfer, true)
            } else {
                Status::FUSED_FAILED
            };
            self.end(work.queue, second, status, 0, None);
        }
    }

    /// A command has ended.
    pub(super) fn end(&mut self, queue: u16, command: &Command, status: Status, result: u32, fault: Option<Fault>) {
        if !status.is_success() {
            self.events.note_error(queue, command, status);
        }
        let Some(submissions) = self.submissions.get_mut(&queue) else {
            return;
        };
        submissions.used.remove(&command.id());
        let mut entry = Entry {
            result,
            head: low16(submissions.head),
            queue,
            id: command.id(),
            status: status.0,
            fault,
        };
        match fault {
            Some(Fault::UnknownId) => {
                let free = (0..=u16::MAX)
                    .rev()
                    .find(|id| !submissions.used.contains(id) && *id != entry.id);
                entry.id = free.unwrap_or_default();
            }
            Some(Fault::WrongQueue) => entry.queue = entry.queue.wrapping_add(1),
            Some(Fault::WrongHead) => entry.head = low16(submissions.size).wrapping_add(1),
            _ => {}
        }
        let completions = submissions.completions;
        if let Some(completions) = self.completions.get_mut(&completions) {
            self.counts.completions += 1;
            completions.push(entry);
            if fault == Some(Fault::Duplicate) {
                completions.push(entry);
            }
        }
    }

    /// Ends the commands of a queue that is to go.
    pub(super) fn drain(&mut self, queue: u16) {
        let dropped: Vec<Work> = self.work.extract_if(.., |work| work.queue == queue).collect();
        for work in dropped {
            for command in [Some(work.command), work.second].into_iter().flatten() {
                self.end(queue, &command, Status::QUEUE_DELETED, 0, None);
            }
        }
    }

    /// Ends a command that an Abort names; false if there is none.
    pub(super) fn abort(&mut self, queue: u16, id: u16) -> bool {
        let is_meant = |work: &mut Work| work.queue == queue && work.command.id() == id;
        let Some(work) = self.work.extract_if(.., is_meant).next() else {
            return false;
        };
        for command in [Some(work.command), work.second].into_iter().flatten() {
            self.end(queue, &command, Status::ABORT_REQUESTED, 0, None);
        }
        true
    }
}
