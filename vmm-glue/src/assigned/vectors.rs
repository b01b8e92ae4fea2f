//! Message-signalled interrupts of a function: from its vectors to the guest's, with no exit (irqfd).
//!
//! A host vector is enabled when the guest unmasks its own the first time: a VF of hundreds of vectors of which a guest uses four costs the host four. One
//! that the guest masks again stays enabled until the guest disables the kind, because Linux masks a vector whenever it changes its message; what the device
//! raises meanwhile stays in the event, pending, and is delivered once unmasked. Before the first time it is pending in the device.
//!
//! Follows PCI Local Bus 3.0 §6.8 and `VFIO_DEVICE_SET_IRQS`.

use crate::Result;
use crate::interrupt::{Irqs, MsiMessage, Route};
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
    /// What is delivered; `None` while it is masked.
    message: Option<MsiMessage>,
    /// Whether the host vector is enabled.
    is_enabled: bool,
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
            tracing::info!(%error, all, "not all vectors can be had at once");
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
    pub(super) fn set(&mut self, number: u32, message: Option<MsiMessage>) -> Result<()> {
        let current = self.routes.get(&number).and_then(|vector| vector.message);
        if current == message || number >= self.count() || !self.is_enabled() {
            return Ok(());
        }
        match message {
            None => self.mask(number),
            Some(message) if current.is_some() => self.change(number, message),
            Some(message) => self.unmask(number, message),
        }
    }

    /// Whether the device has raised a masked vector, and the event has kept it.
    pub(super) fn is_pending(&self, number: u32) -> bool {
        let masked = self.routes.get(&number).filter(|vector| vector.message.is_none());
        masked.is_some_and(|vector| {
            vfio_core::wait_any(&[vector.route.event()], Some(Duration::ZERO)).is_ok_and(|ready| !ready.is_empty())
        })
    }

    fn mask(&mut self, number: u32) -> Result<()> {
        if let Some(vector) = self.routes.get_mut(&number) {
            vector.route.set(None)?;
            vector.message = None;
        }
        Ok(())
    }

    fn change(&mut self, number: u32, message: MsiMessage) -> Result<()> {
        if let Some(vector) = self.routes.get_mut(&number) {
            vector.route.set(Some(message))?;
            vector.message = Some(message);
        }
        Ok(())
    }

    fn unmask(&mut self, number: u32, message: MsiMessage) -> Result<()> {
        let vector = match self.routes.entry(number) {
            Entry::Occupied(vector) => vector.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Vector {
                route: self.irqs.route()?,
                message: None,
                is_enabled: false,
            }),
        };
        // What was kept is signalled anew, to be delivered whether or not the route looks for it.
        let was_pending = vector.route.event().try_read()?.is_some();
        let set = vector.route.set(Some(message));
        if was_pending {
            vector.route.event().signal()?;
        }
        set?;
        vector.message = Some(message);
        if vector.is_enabled {
            return Ok(());
        }
        let enabled = self.enable_host(number);
        if enabled.is_err() {
            // The guest may unmask it again, and has then another chance.
            self.mask(number)?;
        }
        enabled
    }

    fn enable_host(&mut self, number: u32) -> Result<()> {
        if number >= self.allocated && !self.is_resizable() {
            return self.reallocate(number + 1);
        }
        let Some(vector) = self.routes.get_mut(&number) else {
            return Ok(());
        };
        self.interrupts.enable(number, &[Some(vector.route.event())])?;
        vector.is_enabled = true;
        self.allocated = self.allocated.max(number + 1);
        Ok(())
    }

    /// Has the kernel set apart `count` vectors in place of those that it has, and enables the last of them with those that are. What is raised meanwhile
    /// is lost, and nobody knows of which, so each is signalled once: a driver looks, and finds nothing or what it would have missed.
    fn reallocate(&mut self, count: u32) -> Result<()> {
        self.interrupts.disable()?;
        let former = std::mem::take(&mut self.allocated);
        if let Some(last) = self.routes.get_mut(&(count - 1)) {
            last.is_enabled = true;
        }
        if let Err(error) = self.allocate(count) {
            if let Some(last) = self.routes.get_mut(&(count - 1)) {
                last.is_enabled = false;
            }
            // As it was, if that can still be had.
            if let Err(error) = self.allocate(former) {
                tracing::error!(%error, "a function has lost its interrupts");
            }
            return Err(error);
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
