//! Functions that come and go while the guest runs.

use super::space::Space;
use super::{Filled, Functions, Given, Listed, Opened, give, numbered};
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
    /// [`ErrorKind::Exhausted`] when all slots are filled; [`ErrorKind::Invalid`] when the machine has ended, or the guest would have one twice; those of opening, attaching and mapping. Nothing is left of it then.
    pub fn add(&self, opened: Vec<Opened>) -> Result<Vec<Listed>> {
        let (mut space, slot) = self.free_slot(&opened)?;
        let port = self.port(slot)?;
        let members = space.open_all(opened)?;
        if let Err(error) = space.map(&mut |_, _| ()) {
            space.close(members);
            return Err(error);
        }
        let number = u8::try_from(slot).unwrap_or(u8::MAX);
        let mut given = give(&mut space, members, number, &self.parts, &self.options)?;
        // The first one may have brought memory on demand.
        let heard = self.listener.get().map_or(Ok(()), |listener| {
            space.serve_pages()?;
            given.iter_mut().try_for_each(|given| listener.watch(given))
        });
        if let Err(error) = heard {
            return space.end(given).and(Err(error));
        }
        let mut slots = self.slots();
        if let Err(error) = slots.runs().and_then(|()| port.insert(numbered(&given))) {
            drop(slots);
            return space.end(given).and(Err(error));
        }
        let listed = given.iter().map(|given| given.listed(port)).collect();
        if let Some(place) = slots.given.get_mut(slot) {
            *place = given;
        }
        Ok(listed)
    }

    /// Where functions can be put, which nobody else does meanwhile.
    fn free_slot(&self, opened: &[Opened]) -> Result<(MutexGuard<'_, Space>, usize)> {
        let full = || Error::new("plug a function in", ErrorKind::Exhausted("slot"));
        let is_settled = |slot: &usize| self.port(*slot).is_ok_and(|port| port.state().power == Indicator::Off);
        // A guest that has just switched a slot off takes no notice of it for a second, and then its indicator is off.
        let (deadline, nobody) = (Instant::now() + SETTLE, EventFd::new()?);
        loop {
            let space = self.space();
            let slots = self.slots();
            slots.runs()?;
            let comes_twice = |number, bdf| opened.iter().take(number).any(|before: &Opened| before.bdf == bdf);
            let has = |(number, one): &(usize, &Opened)| slots.find(one.bdf).is_ok() || comes_twice(*number, one.bdf);
            if let Some((_, there)) = opened.iter().enumerate().find(has) {
                let kind = ErrorKind::Invalid("the guest has it already");
                return Err(Error::new("plug a function in", kind).on(there.bdf));
            }
            let free: Vec<usize> = slots.free(&self.root).collect();
            drop(slots);
            let first = free.first().ok_or_else(full)?;
            match free.iter().find(|slot| is_settled(slot)) {
                Some(slot) => return Ok((space, *slot)),
                None if Instant::now() >= deadline => return Ok((space, *first)),
                None => drop(space),
            }
            nobody.wait_timeout(LOOK)?;
        }
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
        let slots = self.slots();
        if slots.has(removal.slot, &removal.function) && !slots.is_leaving(removal.slot) {
            self.port(removal.slot)?.cancel_removal();
        }
        drop(slots);
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
        let slots = self.slots();
        slots.runs()?;
        let (slot, given) = slots.find(bdf)?;
        let removal = Removal {
            slot,
            function: Arc::downgrade(&given.function),
            emptied: Arc::new(EventFd::new()?),
        };
        drop(slots);
        if let Some(waiting) = self.waiting.get(slot) {
            waiting.add(&removal.emptied);
        }
        self.press(&removal)?;
        Ok(removal)
    }

    /// Whether the button is pressed anew, the port knows.
    pub(super) fn press(&self, removal: &Removal) -> Result<()> {
        let waiting = self.waiting.get(removal.slot).map(Arc::clone);
        let slots = self.slots();
        if !slots.has(removal.slot, &removal.function) {
            return Ok(removal.emptied.signal()?);
        }
        let pressed = self.port(removal.slot)?.request_removal(move |functions| {
            // On a processor's thread: what takes time is done elsewhere.
            drop(functions);
            if let Some(waiting) = waiting {
                waiting.signal();
            }
        });
        drop(slots);
        match pressed {
            // The guest has let go of it since.
            Err(_) if !self.is_held(removal) => Ok(removal.emptied.signal()?),
            pressed => pressed,
        }
    }

    /// Whether the guest still has it.
    fn is_held(&self, removal: &Removal) -> bool {
        let is_present = || self.port(removal.slot).is_ok_and(|port| port.state().is_present);
        self.slots().has(removal.slot, &removal.function) && is_present()
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
        let mut space = self.space();
        let mut slots = self.slots();
        if !slots.has(removal.slot, &removal.function) {
            return Ok(());
        }
        if self.port(removal.slot)?.state().is_present {
            let kind = ErrorKind::Invalid("the guest has not let go of it");
            return Err(Error::new(UNPLUG, kind));
        }
        let given = slots.take(removal.slot);
        drop(slots);
        space.end(given)
    }

    /// Takes the slot of a function from the guest without asking it, which learns of it afterwards; resets and closes what is in it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a function that the guest does not have; those of resetting and detaching it, which is gone all the same.
    pub fn eject(&self, bdf: Bdf) -> Result<()> {
        let slots = self.slots();
        let (slot, given) = slots.find(bdf)?;
        let function = Arc::downgrade(&given.function);
        drop(slots);
        self.expel(slot, &function)
    }

    /// As [`eject`](Self::eject), unless the function has left meanwhile.
    pub(super) fn expel(&self, slot: usize, function: &Weak<Assigned>) -> Result<()> {
        let mut space = self.space();
        if !self.slots().has(slot, function) {
            return Ok(());
        }
        drop(self.port(slot)?.eject());
        let given = self.slots().take(slot);
        let ended = space.end(given);
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
        let slots = self.slots();
        let (_, given) = slots.find(bdf)?;
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
        let of = |given: &Given| (given.bdf, Arc::clone(&given.function));
        // One that has failed is reset, which nobody is to wait for.
        let functions: Vec<(Bdf, Arc<Assigned>)> = self.slots().given.iter().flatten().map(of).collect();
        let (mut notices, mut taken) = (Vec::new(), Ok(()));
        for (bdf, function) in functions {
            match function.take_notices() {
                Ok(of) => notices.extend(of.into_iter().map(|notice| (bdf, notice))),
                Err(error) => taken = taken.and(Err(error)),
            }
        }
        // What was heard is heard once.
        match taken {
            Err(error) if notices.is_empty() => Err(error),
            _ => Ok(notices),
        }
    }
}

impl Filled {
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
            .zip(&self.given)
            .flat_map(|(slot, given)| given.iter().map(move |given| (slot, given)));
        let none = || Error::new("look for a function", ErrorKind::Invalid("the guest does not have it"));
        all.find(|(_, given)| given.bdf == bdf).ok_or_else(|| none().on(bdf))
    }

    /// Whether the kernel wants back what is in a slot.
    fn is_leaving(&self, slot: usize) -> bool {
        let mut given = self.given.get(slot).into_iter().flatten();
        given.any(|given| given.leaving.is_some())
    }

    /// What the guest was asked to let go of, if it is still there.
    pub(super) fn asked(&mut self, removal: &Removal) -> Option<&mut Given> {
        let mut functions = self.given.get_mut(removal.slot).into_iter().flatten();
        functions.find(|given| std::ptr::eq(Arc::as_ptr(&given.function), removal.function.as_ptr()))
    }

    /// Whether a function is still in its slot.
    fn has(&self, slot: usize, function: &Weak<Assigned>) -> bool {
        let mut functions = self.given.get(slot).into_iter().flatten();
        functions.any(|given| std::ptr::eq(Arc::as_ptr(&given.function), function.as_ptr()))
    }

    /// Slots in which nothing is.
    fn free(&self, root: &Root) -> impl Iterator<Item = usize> {
        let slots = self.given.iter().zip(root.ports()).enumerate();
        let free = slots.filter(|(_, (given, port))| given.is_empty() && !port.state().is_present);
        free.map(|(slot, _)| slot)
    }
}
