//! Queues: doorbells, plain and shadow, and posting of completions.
//!
//! NVM Express Base Specification 2.0 §3.3.1 (queues), §3.3.3.2 (completion entries), §5.8 (doorbell buffers), PCIe Transport 1.0 §3.1.2 (doorbells).

use super::controller::Controller;
use super::events::Event;
use super::fault::Fault;
use super::host::Host;
use super::registers::DOORBELLS;
use std::collections::{BTreeSet, VecDeque};

/// A submission queue.
#[derive(Debug)]
pub(super) struct Submissions {
    pub(super) base: u64,
    pub(super) size: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) completions: u16,
    /// Identifiers of commands that were fetched and have not ended.
    pub(super) used: BTreeSet<u16>,
    /// Whether its shadow doorbell is looked at.
    pub(super) awake: bool,
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct Completions {
    pub(super) base: u64,
    pub(super) size: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    phase: bool,
    pub(super) vector: Option<u16>,
    /// What has not been written yet.
    waiting: VecDeque<Entry>,
    /// The half of an entry that is to be written next: where.
    late: Option<(u64, u64)>,
    awake: bool,
}

/// A completion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) result: u32,
    pub(super) head: u16,
    pub(super) queue: u16,
    pub(super) id: u16,
    pub(super) status: u16,
    pub(super) fault: Option<Fault>,
}

impl Submissions {
    pub(super) fn new(base: u64, size: u32, completions: u16) -> Self {
        Self {
            base,
            size,
            head: 0,
            tail: 0,
            completions,
            used: BTreeSet::new(),
            awake: true,
        }
    }
}

impl Completions {
    pub(super) fn new(base: u64, size: u32, vector: Option<u16>) -> Self {
        Self {
            base,
            size,
            head: 0,
            tail: 0,
            phase: true,
            vector,
            waiting: VecDeque::new(),
            late: None,
            awake: true,
        }
    }

    fn is_full(&self) -> bool {
        (self.tail + 1) % self.size == self.head
    }

    fn used(&self) -> u32 {
        (self.tail + self.size - self.head) % self.size
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.waiting.push_back(entry);
    }

    /// Writes what there is room for; whether anything was.
    fn flush(&mut self, host: &Host<'_>) -> Result<bool, super::command::Status> {
        let mut is_written = false;
        if let Some((at, half)) = self.late.take() {
            host.write(at, &half.to_le_bytes())?;
            is_written = true;
        }
        while !self.is_full() && self.late.is_none() {
            let Some(entry) = self.waiting.pop_front() else { break };
            self.write(&entry, host)?;
            is_written = true;
        }
        Ok(is_written)
    }

    fn write(&mut self, entry: &Entry, host: &Host<'_>) -> Result<(), super::command::Status> {
        let at = self.base + 16 * u64::from(self.tail);
        let phase = self.phase != (entry.fault == Some(Fault::StalePhase));
        let first = u64::from(entry.result);
        let second = u64::from(entry.head)
            | u64::from(entry.queue) << 16
            | u64::from(entry.id) << 32
            | u64::from(phase) << 48
            | u64::from(entry.status) << 49;
        self.tail = (self.tail + 1) % self.size;
        self.phase ^= self.tail == 0;
        // The half with the phase comes last: it says that all of it is there.
        let halves = [(at, first), (at + 8, second)];
        let [now, then] = match entry.fault {
            Some(Fault::PhaseFirst) => {
                let [first, second] = halves;
                [second, first]
            }
            _ => halves,
        };
        host.write(now.0, &now.1.to_le_bytes())?;
        if matches!(entry.fault, Some(Fault::PhaseFirst | Fault::InParts)) {
            self.late = Some(then);
            return Ok(());
        }
        host.write(then.0, &then.1.to_le_bytes())
    }
}

impl Controller {
    /// A doorbell was written.
    pub(super) fn doorbell(&mut self, offset: u64, value: u32) {
        if self.is_deaf() {
            self.mistake(format!("doorbell {offset:#x} while the controller is not ready"));
        }
        if !self.fetches() {
            return;
        }
        self.counts.doorbells += 1;
        let at = offset - DOORBELLS;
        let index = at / self.stride();
        let queue = u16::try_from(index / 2).unwrap_or(u16::MAX);
        let is_completion = index % 2 == 1;
        let is_there = if is_completion {
            self.completions.contains_key(&queue)
        } else {
            self.submissions.contains_key(&queue)
        };
        if !at.is_multiple_of(self.stride()) || !is_there {
            self.mistake(format!("doorbell {offset:#x} is of no queue"));
            return self.report(Event::INVALID_DOORBELL);
        }
        let is_valid = if is_completion {
            self.set_head(queue, value)
        } else {
            self.set_tail(queue, value)
        };
        if !is_valid {
            self.mistake(format!("doorbell {offset:#x}: {value:#x}"));
            self.report(Event::INVALID_DOORBELL_VALUE);
        }
    }

    fn set_tail(&mut self, queue: u16, value: u32) -> bool {
        let Some(submissions) = self.submissions.get_mut(&queue) else {
            return false;
        };
        submissions.awake = true;
        let size = submissions.size;
        if value >= size {
            return false;
        }
        // More than the queue has room for would pass the head.
        let new = (value + size - submissions.tail) % size;
        let before = (submissions.tail + size - submissions.head) % size;
        if before + new >= size {
            return false;
        }
        submissions.tail = value;
        true
    }

    fn set_head(&mut self, queue: u16, value: u32) -> bool {
        let Some(completions) = self.completions.get_mut(&queue) else {
            return false;
        };
        completions.awake = true;
        let size = completions.size;
        if value >= size {
            return false;
        }
        let freed = (value + size - completions.head) % size;
        if freed > completions.used() {
            return false;
        }
        completions.head = value;
        true
    }

    /// Where a queue's shadow doorbell and its event index are.
    fn shadow(&self, queue: u16, is_completion: bool) -> Option<(u64, u64)> {
        let (doorbells, events) = self.doorbell_buffers.filter(|_| queue != 0)?;
        let offset = (2 * u64::from(queue) + u64::from(is_completion)) * self.stride();
        Some((doorbells + offset, events + offset))
    }

    /// Takes over the tail of a queue's shadow doorbell. Once nothing new is there, the event index says where the next doorbell is to be rung.
    pub(super) fn look_at_tail(&mut self, queue: u16, host: &Host<'_>) {
        let Some((shadow, event)) = self.shadow(queue, false) else {
            return;
        };
        for _ in 0..2 {
            let Some(submissions) = self.submissions.get(&queue).filter(|queue| queue.awake) else {
                return;
            };
            let tail = submissions.tail;
            let mut bytes = [0; 4];
            if host.read(shadow, &mut bytes).is_err() {
                return self.halt();
            }
            let value = u32::from_le_bytes(bytes);
            if value != tail {
                if !self.set_tail(queue, value) {
                    self.mistake(format!("shadow doorbell of submission queue {queue}: {value:#x}"));
                    self.report(Event::INVALID_DOORBELL_VALUE);
                    self.sleep(queue);
                }
                return;
            }
            // The index is written before the doorbell is read once more, so that a ring between the two is not missed.
            if host.write(event, &value.to_le_bytes()).is_err() {
                return self.halt();
            }
        }
        self.sleep(queue);
    }

    fn sleep(&mut self, queue: u16) {
        if let Some(submissions) = self.submissions.get_mut(&queue) {
            submissions.awake = false;
        }
    }

    fn look_at_head(&mut self, queue: u16, host: &Host<'_>) {
        let Some((shadow, event)) = self.shadow(queue, true) else {
            return;
        };
        for _ in 0..2 {
            let Some(completions) = self.completions.get(&queue).filter(|queue| queue.awake) else {
                return;
            };
            let head = completions.head;
            let mut bytes = [0; 4];
            if host.read(shadow, &mut bytes).is_err() {
                return self.halt();
            }
            let value = u32::from_le_bytes(bytes);
            if value != head {
                if !self.set_head(queue, value) {
                    self.mistake(format!("shadow doorbell of completion queue {queue}: {value:#x}"));
                    self.report(Event::INVALID_DOORBELL_VALUE);
                }
                return;
            }
            if host.write(event, &value.to_le_bytes()).is_err() {
                return self.halt();
            }
        }
        if let Some(completions) = self.completions.get_mut(&queue) {
            completions.awake = false;
        }
    }

    /// Posts what has ended, and interrupts.
    pub(super) fn post(&mut self, host: &Host<'_>) {
        let queues: Vec<u16> = self.completions.keys().copied().collect();
        for queue in queues {
            let is_full = |completions: &Completions| !completions.waiting.is_empty() && completions.is_full();
            if self.completions.get(&queue).is_some_and(is_full) {
                self.look_at_head(queue, host);
            }
            let Some(completions) = self.completions.get_mut(&queue) else {
                continue;
            };
            match completions.flush(host) {
                Ok(false) => {}
                Ok(true) => {
                    completions.awake = true;
                    if let Some(vector) = completions.vector {
                        self.counts.interrupts += 1;
                        self.interrupt(vector, host);
                    }
                }
                // A completion that cannot be told is the end of the controller.
                Err(_data_transfer) => self.halt(),
            }
        }
        self.level(host);
    }

    fn interrupt(&self, vector: u16, host: &Host<'_>) {
        match self.options.interrupts {
            super::Interrupts::Msix(_) => host.bus.msix(vector.into()),
            super::Interrupts::Msi(_) if self.registers.masked >> vector & 1 == 0 => host.bus.msi(vector.into()),
            _ => {}
        }
    }

    /// The pin is asserted while there is something that the host has not taken.
    fn level(&self, host: &Host<'_>) {
        if self.options.interrupts == super::Interrupts::Intx {
            let mut queues = self.completions.values();
            let is_pending = queues.any(|queue| queue.vector.is_some() && queue.head != queue.tail);
            host.bus.intx(is_pending && self.registers.masked & 1 == 0);
        }
    }
}
