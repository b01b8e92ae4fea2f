//! Message-signalled interrupts of a function: from its vectors to the guest's, with no exit (irqfd).
//!
//! A host vector is enabled when the guest unmasks its own the first time: a VF of hundreds of vectors of which a guest uses four costs the host four. One
//! that the guest masks again stays enabled until the guest disables the kind, because Linux masks a vector whenever it changes its message; what the device
//! raises meanwhile stays in the event, pending, and is delivered once unmasked. Before the first time it is pending in the device.
//!
//! KVM learns of messages by its whole table only, so those of one access of the guest are told together: n vectors that change cost one table, which is
//! O(m) for m messages in the guest (n tables where KVM refuses that one), and for each vector a look-up in O(log n) and at most one call of KVM and one
//! of VFIO. A vector that is masked and unmasked with the message that it had costs one call of KVM each time, no table and no allocation.
//!
//! Follows PCI Local Bus 3.0 §6.8 and `VFIO_DEVICE_SET_IRQS`.

use crate::interrupt::{Irqs, MsiMessage, Route};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::{BoundDevice, EventFd, Interrupts, IrqFlags, IrqIndex};

/// The vectors of one kind, MSI or MSI-X.
#[derive(Debug)]
pub(super) struct Vectors {
    // Fields drop in this order: the device signals nothing any more before the routes go.
    interrupts: Interrupts,
    /// Those that the guest has unmasked since it enabled the kind.
    routes: BTreeMap<u32, Vector>,
    irqs: Arc<dyn Irqs>,
    /// How many vectors the kernel has set apart; 0 while the kind is not enabled.
    allocated: u32,
}

#[derive(Debug)]
struct Vector {
    route: Box<dyn Route>,
    /// What the route stands for, as KVM was told.
    message: Option<MsiMessage>,
    /// Whether that is delivered: it is not masked.
    is_live: bool,
    /// Whether the host vector is enabled.
    is_enabled: bool,
}

impl Vector {
    fn new(route: Box<dyn Route>) -> Self {
        Self {
            route,
            message: None,
            is_live: false,
            is_enabled: false,
        }
    }

    /// What is delivered; `None` while it is masked.
    fn delivers(&self) -> Option<MsiMessage> {
        self.message.filter(|_| self.is_live)
    }

    fn mask(&mut self) -> Result<()> {
        self.route.deliver(false)?;
        self.is_live = false;
        Ok(())
    }

    /// Delivers what it stands for, beginning with what was kept.
    fn unmask(&mut self) -> Result<()> {
        if self.is_live {
            return Ok(());
        }
        // It is signalled anew, to be delivered whether or not the route looks for it.
        let was_pending = self.route.event().try_read()?.is_some();
        let delivered = self.route.deliver(true);
        if was_pending {
            self.route.event().signal()?;
        }
        self.is_live = delivered.is_ok();
        delivered
    }
}

impl Vectors {
    /// `None` if the function has none of the kind.
    pub(super) fn new(device: &BoundDevice, index: IrqIndex, irqs: &Arc<dyn Irqs>) -> Result<Option<Self>> {
        let interrupts = device.interrupts(index)?;
        let has_any = interrupts.info().count != 0;
        Ok(has_any.then(|| Self {
            interrupts,
            routes: BTreeMap::new(),
            irqs: Arc::clone(irqs),
            allocated: 0,
        }))
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.interrupts.info().count
    }

    /// Whether the guest has enabled the kind.
    pub(super) fn is_enabled(&self) -> bool {
        self.allocated != 0
    }

    /// The guest has enabled the kind, of which it uses `count` vectors for now. All of them are masked.
    pub(super) fn enable(&mut self, count: u32) -> Result<()> {
        if self.is_enabled() {
            return Ok(());
        }
        if self.is_resizable() {
            return self.allocate(1);
        }
        // None can be added later: as many as there are, without an event, which costs the host little. If that is too much, what is used.
        let all = if self.interrupts.info().index == IrqIndex::Msi {
            count
        } else {
            self.count()
        };
        self.allocate(all.clamp(1, self.count())).or_else(|error| {
            tracing::debug!(%error, all, "not all vectors can be had at once");
            self.allocate(count.clamp(1, self.count()))
        })
    }

    /// The guest has disabled the kind. What is pending is lost, as in a device.
    pub(super) fn disable(&mut self) -> Result<()> {
        if self.is_enabled() {
            self.interrupts.disable()?;
            self.allocated = 0;
        }
        self.routes.clear();
        Ok(())
    }

    /// What a vector is to deliver from now on; `None` masks it. Only after [`enable`](Self::enable).
    pub(super) fn set(&mut self, number: u32, wanted: Option<MsiMessage>) -> Result<()> {
        if !self.is_enabled() || number >= self.count() {
            return Ok(());
        }
        let Some(message) = wanted else {
            let live = self.routes.get_mut(&number).filter(|vector| vector.is_live);
            return live.map_or(Ok(()), Vector::mask);
        };
        let vector = vector(&mut self.routes, &*self.irqs, number)?;
        if vector.message != Some(message) {
            self.irqs.set(&[(&*vector.route, message)])?;
            vector.message = Some(message);
        }
        if vector.is_enabled {
            return vector.unmask();
        }
        self.make_room(number)?;
        self.unmask(number)
    }

    /// [Sets](Self::set) many, of which KVM is told at once. One that fails keeps no other from being set.
    pub(super) fn set_all(&mut self, wanted: impl Iterator<Item = (u32, Option<MsiMessage>)>) -> Result<()> {
        if !self.is_enabled() {
            return Ok(());
        }
        let count = self.count();
        let mut done = Ok(());
        let mut live = Vec::new();
        for (number, message) in wanted.take_while(|(number, _)| *number < count) {
            let now = self.routes.get(&number).and_then(Vector::delivers);
            match message {
                message if now == message => {}
                None => done = done.and(self.set(number, None)),
                Some(message) => match vector(&mut self.routes, &*self.irqs, number) {
                    Ok(_) => live.push((number, message)),
                    Err(error) => done = done.and(Err(error)),
                },
            }
        }
        done = done.and(self.tell(&mut live));
        let last = live.iter().map(|(number, _)| *number).max();
        done = done.and(last.map_or(Ok(()), |last| self.make_room(last)));
        live.into_iter()
            .map(|(number, _)| self.unmask(number))
            .fold(done, Result::and)
    }

    /// Which of 64 vectors the device has raised while they were masked, and events have kept; bit 0 is `first`. One system call at most.
    pub(super) fn pending(&self, first: u32) -> u64 {
        let range = first..first.saturating_add(64);
        let masked = self.routes.range(range).filter(|(_, vector)| !vector.is_live);
        let (numbers, events): (Vec<u32>, Vec<&EventFd>) =
            masked.map(|(number, vector)| (*number, vector.route.event())).unzip();
        if events.is_empty() {
            return 0;
        }
        let ready = vfio_core::wait_any(&events, Some(Duration::ZERO)).unwrap_or_default();
        let numbers = ready.into_iter().filter_map(|place| numbers.get(place));
        numbers.fold(0, |bits, number| bits | 1 << (number - first))
    }

    /// Lets routes stand for messages: at once, and one by one where KVM refuses that. One that is refused costs no more than its own vector, which is
    /// taken out of the list.
    fn tell(&mut self, live: &mut Vec<(u32, MsiMessage)>) -> Result<()> {
        let route = |(number, message): &(u32, MsiMessage)| Some((&*self.routes.get(number)?.route, *message));
        let messages: Vec<(&dyn Route, MsiMessage)> = live.iter().filter_map(route).collect();
        let told = self.irqs.set(&messages);
        if told.is_err() {
            live.retain(|one| route(one).is_some_and(|message| self.irqs.set(&[message]).is_ok()));
        }
        for (number, message) in live {
            if let Some(vector) = self.routes.get_mut(number) {
                vector.message = Some(*message);
            }
        }
        told
    }

    /// Lets a vector deliver the message that its route stands for.
    fn unmask(&mut self, number: u32) -> Result<()> {
        let Some(vector) = self.routes.get_mut(&number) else {
            return Ok(());
        };
        vector.unmask()?;
        if vector.is_enabled {
            return Ok(());
        }
        let enabled = self.enable_host(number);
        if enabled.is_err() {
            // The guest may unmask it again, and has then another chance.
            self.set(number, None)?;
        }
        enabled
    }

    fn enable_host(&mut self, number: u32) -> Result<()> {
        let is_resizable = self.is_resizable();
        let Some(vector) = self.routes.get_mut(&number).filter(|vector| !vector.is_enabled) else {
            return Ok(());
        };
        if number >= self.allocated && !is_resizable {
            return Err(Error::new(
                "VFIO_DEVICE_SET_IRQS",
                ErrorKind::Exhausted("interrupt vector"),
            ));
        }
        self.interrupts.enable(number, &[Some(vector.route.event())])?;
        vector.is_enabled = true;
        self.allocated = self.allocated.max(number + 1);
        Ok(())
    }

    /// Has the kernel set apart vectors up to this one, once, where they do not come one by one.
    fn make_room(&mut self, last: u32) -> Result<()> {
        if last < self.allocated || self.is_resizable() {
            return Ok(());
        }
        self.reallocate(last + 1)
    }

    /// Has the kernel set apart `count` vectors in place of those that it has, of which those that are enabled stay so. What is raised meanwhile is lost,
    /// and nobody knows of which, so each is signalled once: a driver looks, and finds nothing or what it would have missed.
    fn reallocate(&mut self, count: u32) -> Result<()> {
        self.interrupts.disable()?;
        let former = std::mem::take(&mut self.allocated);
        if let Err(error) = self.allocate(count) {
            // As it was, if that can still be had; else it has lost its interrupts.
            return self.allocate(former).and(Err(error));
        }
        for vector in self.routes.values().filter(|vector| vector.is_enabled) {
            vector.route.event().signal()?;
        }
        Ok(())
    }

    fn allocate(&mut self, count: u32) -> Result<()> {
        let event = |number| {
            let vector: Option<&Vector> = self.routes.get(&number);
            let enabled = vector.filter(|vector| vector.is_enabled);
            enabled.map(|vector| vector.route.event())
        };
        let events: Vec<Option<&EventFd>> = (0..count).map(event).collect();
        self.interrupts.enable(0, &events)?;
        self.allocated = count;
        Ok(())
    }

    /// Whether vectors come one by one.
    fn is_resizable(&self) -> bool {
        !self.interrupts.info().flags.contains(IrqFlags::NORESIZE)
    }
}

/// The vector of this number, which has a route from now on.
fn vector<'a>(routes: &'a mut BTreeMap<u32, Vector>, irqs: &dyn Irqs, number: u32) -> Result<&'a mut Vector> {
    Ok(match routes.entry(number) {
        Entry::Vacant(vacant) => vacant.insert(Vector::new(irqs.route()?)),
        Entry::Occupied(occupied) => occupied.into_mut(),
    })
}
