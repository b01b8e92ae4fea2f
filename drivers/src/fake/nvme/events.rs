//! Asynchronous events, and the logs that they are about.
//!
//! NVM Express Base Specification 2.0 §5.2 (Asynchronous Event Request), §5.16.1.2 (error log).

use super::bytes::put;
use super::command::{Command, Status};
use super::controller::{Controller, Outcome};
use std::collections::{BTreeSet, VecDeque};

/// An event that a controller tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Of what kind: 0 error, 1 SMART, 2 notice, 6 I/O command.
    pub kind: u8,
    /// Which of that kind.
    pub information: u8,
    /// The log page to read.
    pub log: u8,
}

impl Event {
    /// A doorbell of no queue was written.
    pub const INVALID_DOORBELL: Self = Self::new(0, 0, 0x01);
    /// A doorbell was written with what it cannot have.
    pub const INVALID_DOORBELL_VALUE: Self = Self::new(0, 1, 0x01);
    /// Namespaces came, went or changed.
    pub const NAMESPACES: Self = Self::new(2, 0, 0x04);
    /// A sanitize operation has ended.
    pub const SANITIZED: Self = Self::new(6, 1, 0x81);

    /// An event.
    #[must_use]
    pub const fn new(kind: u8, information: u8, log: u8) -> Self {
        Self { kind, information, log }
    }
}

/// Events, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Asynchronous Event Requests that wait.
    requests: VecDeque<Command>,
    pending: VecDeque<Event>,
    /// Kinds that are not told again before their log was read.
    masked: BTreeSet<u8>,
    /// Namespaces of the Changed Namespace List.
    pub(super) changed: BTreeSet<u32>,
    errors: VecDeque<[u8; 64]>,
    error_count: u64,
}

/// Entries of the error log.
pub(super) const ERRORS: u8 = 16;
const PENDING: usize = 64;

impl Events {
    pub(super) fn forget(&mut self) {
        self.requests.clear();
        self.pending.clear();
        self.masked.clear();
    }

    pub(super) fn error_count(&self) -> u64 {
        self.error_count
    }

    pub(super) fn note_error(&mut self, queue: u16, command: &Command, status: Status) {
        self.error_count += 1;
        let mut entry = [0; 64];
        put(&mut entry, 0, &self.error_count.to_le_bytes());
        put(&mut entry, 8, &queue.to_le_bytes());
        put(&mut entry, 10, &command.id().to_le_bytes());
        put(&mut entry, 12, &(status.0 << 1).to_le_bytes());
        put(&mut entry, 16, &command.lba().to_le_bytes());
        put(&mut entry, 24, &command.namespace().to_le_bytes());
        self.errors.push_front(entry);
        self.errors.truncate(ERRORS.into());
    }

    /// The error log, the newest first.
    pub(super) fn error_log(&self) -> Vec<u8> {
        let mut log: Vec<u8> = self.errors.iter().flatten().copied().collect();
        log.resize(64 * usize::from(ERRORS), 0);
        log
    }

    /// A log was read: its events may be told again.
    pub(super) fn log_was_read(&mut self, log: u8) {
        let kind = match log {
            0x01 => 0,
            0x02 => 1,
            0x04 => 2,
            0x81 => 6,
            _ => return,
        };
        self.masked.remove(&kind);
        if log == 0x04 {
            self.changed.clear();
        }
    }
}

impl Controller {
    /// Something happened that the host may want to know.
    pub(super) fn report(&mut self, event: Event) {
        let is_wanted = match (event.kind, event.information) {
            (2, 0) => self.features.events() >> 8 & 1 != 0,
            (1, _) => self.features.events() & 0x1f != 0,
            _ => true,
        };
        let pending = &mut self.events.pending;
        if is_wanted && pending.len() < PENDING && !pending.contains(&event) {
            pending.push_back(event);
        }
    }

    /// A command that waits for an event.
    pub(super) fn event_request(&mut self, command: &Command) -> Outcome {
        if self.events.requests.len() >= usize::from(self.options.event_requests) {
            return Outcome::Done(Status::EVENT_LIMIT, 0);
        }
        self.events.requests.push_back(*command);
        Outcome::Waits
    }

    /// Ends a request that an Abort names; false if there is none.
    pub(super) fn abort_event_request(&mut self, id: u16) -> bool {
        let requests = &mut self.events.requests;
        let Some(request) = requests.iter().position(|request| request.id() == id) else {
            return false;
        };
        if let Some(request) = requests.remove(request) {
            self.end(0, &request, Status::ABORT_REQUESTED, 0, None);
        }
        true
    }

    /// What other controllers of the subsystem did.
    pub(super) fn hear(&mut self) {
        let id = self.id;
        let changed = self.subsystem().take_notices(id);
        if !changed.is_empty() {
            self.events.changed.extend(changed);
            self.report(Event::NAMESPACES);
        }
    }

    /// Answers requests with what has happened.
    pub(super) fn tell_events(&mut self) {
        while !self.events.requests.is_empty() {
            let masked = &self.events.masked;
            let Some(at) = self
                .events
                .pending
                .iter()
                .position(|event| !masked.contains(&event.kind))
            else {
                return;
            };
            let told = (self.events.pending.remove(at), self.events.requests.pop_front());
            let (Some(event), Some(request)) = told else { return };
            self.events.masked.insert(event.kind);
            let result = u32::from_le_bytes([event.kind, event.information, event.log, 0]);
            self.end(0, &request, Status::SUCCESS, result, None);
        }
    }
}
