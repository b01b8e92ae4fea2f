//! Functions that come and go while the guest runs.

use super::{Functions, Given, Listed, Opened, numbered};
use crate::assigned::{Assigned, Notice};
use crate::error::UNPLUG;
use crate::pci::{Indicator, Port, Root};
use crate::{Error, ErrorKind, Result};
use ::pci::Bdf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use vfio_core::EventFd;

/// How long a guest may take to see the button before it is pressed again: one that is still booting has lost it.
const PRESS: Duration = Duration::from_secs(8);
/// How long a guest may take to be done with a slot that it has switched off.
const SETTLE: Duration = Duration::from_secs(20);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(20);

/// A slot that the guest was asked to let go of.
#[derive(Debug, Clone)]
pub struct Removal {
    slot: usize,
    /// Who was in it: another may be there later.
    function: Weak<Assigned>,
    /// Signalled when the guest has.
    emptied: Arc<EventFd>,
}

impl Removal {
    /// What becomes readable when the guest has let go: then [`Functions::finish_removal`] ends it. So it does when somebody else has taken the slot from the
    /// guest.
    #[must_use]
    pub fn emptied(&self) -> &EventFd {
        &self.emptied
    }
}

/// Those who wait for a slot to be emptied: the port knows only who asked last.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Vec<Weak<EventFd>>>);

impl Waiting {
    fn add(&self, event: &Arc<EventFd>) {
        let mut events = self.events();
        events.retain(|event| event.strong_count() > 0);
        events.push(Arc::downgrade(event));
    }

    pub(super) fn signal(&self) {
        for event in self.events().iter().filter_map(Weak::upgrade) {
            if let Err(error) = event.signal() {
                tracing::error!(%error, "somebody does not hear that a slot is empty");
            }
        }
    }

    fn events(&self) -> MutexGuard<'_, Vec<Weak<EventFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Functions {
    /// Plugs functions into a free slot of a running guest: those of one device, the first of which is function 0.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exhausted`] when all slots are filled; [`ErrorKind::Invalid`] when the machine has ended; those of opening, attaching and mapping. Nothing is left of it then.
    pub fn add(&self, opened: Vec<Opened>) -> Result<Vec<Listed>> {
        let full = || Error::new("plug a function in", ErrorKind::Exhausted("slot"));
        let is_settled = |slot: &usize| self.port(*slot).is_ok_and(|port| port.state().power == Indicator::Off);
        // A guest that has just switched a slot off takes no notice of it for a second, and then its indicator is off.
        let (deadline, nobody) = (Instant::now() + SETTLE, EventFd::new()?);
        let (mut state, slot) = loop {
            let state = self.state();
            state.runs()?;
            if let Some(there) = opened.iter().find(|opened| state.find(opened.bdf).is_ok()) {
                let kind = ErrorKind::Invalid("the guest has it already");
                return Err(Error::new("plug a function in", kind).on(there.bdf));
            }
            let free: Vec<usize> = state.free(&self.root).collect();
            let first = free.first().ok_or_else(full)?;
            match free.iter().find(|slot| is_settled(slot)) {
                Some(slot) => break (state, *slot),
                None if Instant::now() >= deadline => break (state, *first),
                None => drop(state),
            }
            nobody.wait_timeout(LOOK)?;
        };
        let port = self.port(slot)?;
        let members = state.open(opened)?;
        if let Err(error) = state.space.map(&mut |_, _| ()) {
            state.close(members);
            return Err(error);
        }
        let number = u8::try_from(slot).unwrap_or(u8::MAX);
        let mut given = state.give(members, number, &self.parts, &self.options)?;
        if let Some(watcher) = self.watcher.get()
            && let Err(error) = given.iter_mut().try_for_each(|given| watcher.watch(given))
        {
            return state.end(given).and(Err(error));
        }
        if let Err(error) = port.insert(numbered(&given)) {
            return state.end(given).and(Err(error));
        }
        let listed = given.iter().map(|given| given.listed(port)).collect();
        if let Some(place) = state.slots.get_mut(slot) {
            *place = given;
        }
        Ok(listed)
    }

    /// Takes the slot of a function from the guest, once it has let go of it, and resets and closes what is in it. A guest that has not after `timeout` keeps
    /// it, unless the kernel wants it back too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a function that the guest does not have; [`ErrorKind::TimedOut`]; those of resetting and detaching it, which is gone all the
    /// same.
    pub fn remove(&self, bdf: Bdf, timeout: Duration) -> Result<()> {
        let deadline = Instant::now().checked_add(timeout);
        let removal = self.begin_removal(bdf)?;
        loop {
            let left = deadline.map_or(PRESS, |deadline| deadline.saturating_duration_since(Instant::now()));
            removal.emptied.wait_timeout(left.min(PRESS))?;
            if !self.is_held(&removal) {
                return self.finish_removal(&removal);
            }
            if left <= PRESS {
                break;
            }
            self.press(&removal)?;
        }
        // What the kernel has asked for stays asked for.
        if !self.state().is_leaving(removal.slot) {
            self.port(removal.slot)?.cancel_removal();
        }
        if self.is_held(&removal) {
            return Err(Error::new(UNPLUG, ErrorKind::TimedOut).on(bdf));
        }
        // The guest has let go of it in this moment.
        self.finish_removal(&removal)
    }

    /// Asks the guest to let go of a function, and of all in its slot.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a function that the guest does not have.
    pub fn begin_removal(&self, bdf: Bdf) -> Result<Removal> {
        let state = self.state();
        state.runs()?;
        let (slot, given) = state.find(bdf)?;
        let removal = Removal {
            slot,
            function: Arc::downgrade(&given.function),
            emptied: Arc::new(EventFd::new()?),
        };
        drop(state);
        if let Some(waiting) = self.waiting.get(slot) {
            waiting.add(&removal.emptied);
        }
        self.press(&removal)?;
        Ok(removal)
    }

    /// Whether the button is pressed anew, the port knows.
    pub(super) fn press(&self, removal: &Removal) -> Result<()> {
        let waiting = self.waiting.get(removal.slot).map(Arc::clone);
        let pressed = self.port(removal.slot)?.request_removal(move |functions| {
            // On a processor's thread: what takes time is done elsewhere.
            drop(functions);
            if let Some(waiting) = waiting {
                waiting.signal();
            }
        });
        match pressed {
            // The guest has let go of it since.
            Err(_) if !self.is_held(removal) => Ok(removal.emptied.signal()?),
            pressed => pressed,
        }
    }

    /// Whether the guest still has it.
    fn is_held(&self, removal: &Removal) -> bool {
        let is_present = || self.port(removal.slot).is_ok_and(|port| port.state().is_present);
        self.state().has(removal) && is_present()
    }

    fn port(&self, slot: usize) -> Result<&Arc<Port>> {
        let none = || Error::new("look for a slot", ErrorKind::Invalid("there is no such slot"));
        self.root.ports().get(slot).ok_or_else(none)
    }

    /// Takes what the guest has let go of: resets and closes it. Does nothing the second time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] while the guest has it; those of resetting and detaching, and it is gone all the same.
    pub fn finish_removal(&self, removal: &Removal) -> Result<()> {
        let mut state = self.state();
        if !state.has(removal) {
            return Ok(());
        }
        if self.port(removal.slot)?.state().is_present {
            let kind = ErrorKind::Invalid("the guest has not let go of it");
            return Err(Error::new(UNPLUG, kind));
        }
        let given = state.slots.get_mut(removal.slot).map(std::mem::take);
        state.end(given.unwrap_or_default())
    }

    /// Takes the slot of a function from the guest without asking it, which learns of it afterwards; resets and closes what is in it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a function that the guest does not have; those of resetting and detaching it, which is gone all the same.
    pub fn eject(&self, bdf: Bdf) -> Result<()> {
        let mut state = self.state();
        let (slot, _) = state.find(bdf)?;
        self.expel(&mut state, slot)
    }

    pub(super) fn expel(&self, state: &mut super::State, slot: usize) -> Result<()> {
        drop(self.port(slot)?.eject());
        let given = state.slots.get_mut(slot).map(std::mem::take);
        let ended = state.end(given.unwrap_or_default());
        if let Some(waiting) = self.waiting.get(slot) {
            waiting.signal();
        }
        ended
    }

    /// The events that become readable when the kernel has something to tell of a function, for [`take_notices`](Self::take_notices).
    ///
    /// # Errors
    ///
    /// For a function that the guest does not have; when no descriptor is left.
    pub fn notice_events(&self, bdf: Bdf) -> Result<Vec<EventFd>> {
        let state = self.state();
        let (_, given) = state.find(bdf)?;
        given.function.notice_events()
    }

    /// What the kernel has told of the guest's functions since this was last asked. One that has [failed](Notice::Failed) is stopped by then, and is to
    /// be [ejected](Self::eject): it is held open as long as it is in its slot. One that is
    /// [wanted](Notice::Wanted) is to be [removed](Self::begin_removal).
    ///
    /// # Errors
    ///
    /// None that valid events have.
    pub fn take_notices(&self) -> Result<Vec<(Bdf, Notice)>> {
        let state = self.state();
        let mut notices = Vec::new();
        for given in state.slots.iter().flatten() {
            let of = given.function.take_notices()?;
            notices.extend(of.into_iter().map(|notice| (given.bdf, notice)));
        }
        Ok(notices)
    }
}

impl super::State {
    /// An error of a machine that has ended.
    pub(super) fn runs(&self) -> Result<()> {
        match self.is_stopped {
            true => Err(Error::new(
                "look for a slot",
                ErrorKind::Invalid("the machine has ended"),
            )),
            false => Ok(()),
        }
    }

    /// A function that the guest has, and its slot.
    pub(super) fn find(&self, bdf: Bdf) -> Result<(usize, &Given)> {
        let mut all = (0..)
            .zip(&self.slots)
            .flat_map(|(slot, given)| given.iter().map(move |given| (slot, given)));
        let none = || Error::new("look for a function", ErrorKind::Invalid("the guest does not have it"));
        all.find(|(_, given)| given.bdf == bdf).ok_or_else(|| none().on(bdf))
    }

    /// Whether the kernel wants back what is in a slot.
    fn is_leaving(&self, slot: usize) -> bool {
        let mut given = self.slots.get(slot).into_iter().flatten();
        given.any(|given| given.leaving.is_some())
    }

    /// Whether what is to be removed is still in its slot.
    fn has(&self, removal: &Removal) -> bool {
        let mut functions = self.slots.get(removal.slot).into_iter().flatten();
        functions.any(|given| std::ptr::eq(Arc::as_ptr(&given.function), removal.function.as_ptr()))
    }

    /// Slots in which nothing is.
    fn free(&self, root: &Root) -> impl Iterator<Item = usize> {
        let slots = self.slots.iter().zip(root.ports()).enumerate();
        let free = slots.filter(|(_, (given, port))| given.is_empty() && !port.state().is_present);
        free.map(|(slot, _)| slot)
    }

    /// Takes functions from the guest for good.
    pub(super) fn end(&mut self, given: Vec<Given>) -> Result<()> {
        let mut ended = Ok(());
        for given in given {
            let Given {
                watched,
                function,
                member,
                ..
            } = given;
            drop(watched);
            ended = ended.and(function.stop());
            // A processor may still be in it, but it holds nothing any more.
            drop(function);
            ended = ended.and(self.space.remove(member));
        }
        ended
    }
}

impl Drop for super::State {
    fn drop(&mut self) {
        let all: Vec<Given> = self.slots.iter_mut().flat_map(std::mem::take).collect();
        if let Err(error) = self.end(all) {
            tracing::error!(%error, "a guest's function was not let go of as it should be");
        }
    }
}
