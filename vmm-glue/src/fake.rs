//! A guest that does not run, for tests.
//!
//! A [`Guest`] is its interrupts and memory slots. It delivers nothing to anybody: it notes what a processor would have got, and can make every call fail in
//! turn. A [`Board`] is the rest of its machine.

mod board;

pub use board::Board;

use crate::interrupt::{self, Irqs, Line, MsiMessage, Route};
use crate::slot::{Slot, Slots};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_core::{EventFd, StableMemory};

/// A guest of no processors. Cheap to clone; all clones are the same guest.
#[derive(Debug, Clone, Default)]
pub struct Guest(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    routes: BTreeMap<u64, Delivery>,
    lines: BTreeMap<u64, Asserted>,
    slots: BTreeMap<u64, Mapped>,
    delivered: Vec<MsiMessage>,
    /// How often each call was made.
    calls: BTreeMap<&'static str, usize>,
    /// Calls until one fails.
    fails_after: Option<u32>,
    failed: Option<&'static str>,
}

#[derive(Debug)]
struct Delivery {
    event: Arc<EventFd>,
    message: Option<MsiMessage>,
    is_delivered: bool,
}

#[derive(Debug)]
struct Asserted {
    gsi: u32,
    event: Arc<EventFd>,
    resample: Arc<EventFd>,
    is_asserted: bool,
}

/// A memory slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// The guest-physical addresses.
    pub range: Range<u64>,
    /// Where in the memory it begins.
    pub offset: usize,
    /// Whether the guest may write.
    pub is_writable: bool,
}

impl Guest {
    /// What was delivered since this was last asked, in the order in which it is found: that of the routes, not of time.
    #[must_use]
    pub fn delivered(&self) -> Vec<MsiMessage> {
        let mut state = self.state();
        let numbers: Vec<u64> = state.routes.keys().copied().collect();
        for number in numbers {
            state.settle(number);
        }
        std::mem::take(&mut state.delivered)
    }

    /// Whether a line is asserted by any of those who have it.
    #[must_use]
    pub fn is_asserted(&self, gsi: u32) -> bool {
        let mut state = self.state();
        let of_gsi = state.lines.values_mut().filter(|line| line.gsi == gsi);
        of_gsi.fold(false, |any, line| {
            line.is_asserted |= take(&line.event);
            any | line.is_asserted
        })
    }

    /// The guest has ended the interrupt of a line: it is not asserted any more, and all who have it are told.
    pub fn end_interrupt(&self, gsi: u32) {
        let mut state = self.state();
        for line in state.lines.values_mut().filter(|line| line.gsi == gsi) {
            line.is_asserted = false;
            if let Err(error) = line.resample.signal() {
                tracing::error!(%error, gsi, "nobody hears of the end of the interrupt");
            }
        }
    }

    /// The slots, by guest-physical address.
    #[must_use]
    pub fn slots(&self) -> Vec<Mapped> {
        let mut slots: Vec<Mapped> = self.state().slots.values().cloned().collect();
        slots.sort_unstable_by_key(|slot| slot.range.start);
        slots
    }

    /// How many routes there are.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.state().routes.len()
    }

    /// How many lines there are.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.state().lines.len()
    }

    /// How often a call of KVM was made, by its name.
    #[must_use]
    pub fn count(&self, call: &str) -> usize {
        self.state().calls.get(call).copied().unwrap_or_default()
    }

    /// Makes a call fail: the `n`-th from now, the next one for 0.
    pub fn fail_nth(&self, n: u32) {
        let mut state = self.state();
        (state.fails_after, state.failed) = (Some(n), None);
    }

    /// The call that was made to fail, if it has been made.
    #[must_use]
    pub fn failed(&self) -> Option<&'static str> {
        self.state().failed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, name: &'static str) -> Result<u64> {
        *self.calls.entry(name).or_default() += 1;
        if let Some(left) = self.fails_after {
            self.fails_after = left.checked_sub(1);
            if left == 0 {
                self.failed = Some(name);
                let error = io::Error::from(io::ErrorKind::OutOfMemory);
                return Err(Error::new(name, ErrorKind::Io(error)));
            }
        }
        self.next += 1;
        Ok(self.next)
    }

    /// Delivers what a route's event has, if it is delivered at all.
    fn settle(&mut self, number: u64) {
        let Some(route) = self.routes.get(&number) else {
            return;
        };
        let Some(message) = route.message.filter(|_| route.is_delivered) else {
            return;
        };
        if take(&route.event) && message.is_deliverable() {
            self.delivered.push(message);
        }
    }
}

/// Takes the signals of an event; whether there were any.
fn take(event: &EventFd) -> bool {
    event.try_read().is_ok_and(|signals| signals.is_some())
}

impl Irqs for Guest {
    fn route(&self) -> Result<Box<dyn Route>> {
        let event = Arc::new(EventFd::new()?);
        let mut state = self.state();
        let number = state.enter("route")?;
        let delivery = Delivery {
            event: Arc::clone(&event),
            message: None,
            is_delivered: false,
        };
        state.routes.insert(number, delivery);
        let guest = self.clone();
        Ok(Box::new(FakeRoute { guest, number, event }))
    }

    fn set(&self, messages: &[(&dyn Route, MsiMessage)]) -> Result<()> {
        interrupt::check(messages)?;
        let mut state = self.state();
        let messages = messages
            .iter()
            .map(|(route, message)| (u64::from(route.number()), *message));
        let is_changed = |(number, message): &(u64, MsiMessage)| {
            let route = state.routes.get(number);
            route.is_some_and(|route| route.message != Some(*message))
        };
        let changed: Vec<(u64, MsiMessage)> = messages.filter(is_changed).collect();
        if changed.is_empty() {
            return Ok(());
        }
        state.enter("KVM_SET_GSI_ROUTING")?;
        for (number, message) in changed {
            // What came before is delivered as it was then.
            state.settle(number);
            if let Some(route) = state.routes.get_mut(&number) {
                route.message = Some(message);
            }
        }
        Ok(())
    }

    fn line(&self, gsi: u32) -> Result<Box<dyn Line>> {
        let (event, resample) = (Arc::new(EventFd::new()?), Arc::new(EventFd::new()?));
        let mut state = self.state();
        let number = state.enter("line")?;
        let asserted = Asserted {
            gsi,
            event: Arc::clone(&event),
            resample: Arc::clone(&resample),
            is_asserted: false,
        };
        state.lines.insert(number, asserted);
        Ok(Box::new(FakeLine {
            guest: self.clone(),
            number,
            event,
            resample,
        }))
    }

    fn signal(&self, message: MsiMessage) -> Result<()> {
        let mut state = self.state();
        state.enter("signal")?;
        if message.is_deliverable() {
            state.delivered.push(message);
        }
        Ok(())
    }
}

impl Slots for Guest {
    fn map(
        &self,
        guest: u64,
        memory: &Arc<dyn StableMemory>,
        part: Range<usize>,
        is_writable: bool,
    ) -> Result<Box<dyn Slot>> {
        let mut state = self.state();
        let number = state.enter("KVM_SET_USER_MEMORY_REGION")?;
        let failed = |kind| Error::new("KVM_SET_USER_MEMORY_REGION", kind);
        if part.is_empty() || part.end > memory.len() {
            return Err(failed(ErrorKind::Invalid("no part of the memory")));
        }
        if !(guest | part.start as u64 | part.end as u64).is_multiple_of(4096) {
            return Err(failed(ErrorKind::Invalid("off a page")));
        }
        let end = guest.checked_add(part.len() as u64);
        let range = guest..end.ok_or_else(|| failed(ErrorKind::Invalid("past the last address")))?;
        let overlaps = |slot: &&Mapped| slot.range.start < range.end && range.start < slot.range.end;
        if let Some(slot) = state.slots.values().find(overlaps) {
            return Err(failed(ErrorKind::Occupied(slot.range.clone())));
        }
        let mapped = Mapped {
            range: range.clone(),
            offset: part.start,
            is_writable,
        };
        state.slots.insert(number, mapped);
        Ok(Box::new(FakeSlot {
            guest: self.clone(),
            number,
            range,
            _memory: Arc::clone(memory),
        }))
    }
}

#[derive(Debug)]
struct FakeRoute {
    guest: Guest,
    number: u64,
    event: Arc<EventFd>,
}

impl Route for FakeRoute {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn number(&self) -> u32 {
        u32::try_from(self.number).unwrap_or(u32::MAX)
    }

    fn deliver(&self, is_wanted: bool) -> Result<()> {
        let mut state = self.guest.state();
        let route = state.routes.get(&self.number);
        if route.is_none_or(|route| route.is_delivered == is_wanted) {
            return Ok(());
        }
        state.enter("KVM_IRQFD")?;
        if !is_wanted {
            state.settle(self.number);
        }
        if let Some(route) = state.routes.get_mut(&self.number) {
            route.is_delivered = is_wanted;
        }
        Ok(())
    }
}

impl Drop for FakeRoute {
    fn drop(&mut self) {
        let mut state = self.guest.state();
        state.settle(self.number);
        state.routes.remove(&self.number);
    }
}

#[derive(Debug)]
struct FakeLine {
    guest: Guest,
    number: u64,
    event: Arc<EventFd>,
    resample: Arc<EventFd>,
}

impl Line for FakeLine {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn resample(&self) -> &EventFd {
        &self.resample
    }
}

impl Drop for FakeLine {
    fn drop(&mut self) {
        self.guest.state().lines.remove(&self.number);
    }
}

#[derive(Debug)]
struct FakeSlot {
    guest: Guest,
    number: u64,
    range: Range<u64>,
    _memory: Arc<dyn StableMemory>,
}

impl Slot for FakeSlot {
    fn range(&self) -> Range<u64> {
        self.range.clone()
    }
}

impl Drop for FakeSlot {
    fn drop(&mut self) {
        self.guest.state().slots.remove(&self.number);
    }
}
