//! Interrupts of a function.

use super::Inner;
use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::sync::Arc;
use vfio_core::{BoundDevice, EventFd, Interrupts, IrqFlags, IrqIndex};

/// Interrupts of a function, each an eventfd that the kernel signals. Holds the function; switched off when dropped.
pub struct Vectors {
    // Switched off before the events and the function can go.
    interrupts: Interrupts,
    kind: VectorKind,
    events: Vec<EventFd>,
    function: Arc<Inner>,
}

/// How interrupts are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VectorKind {
    /// A message for each vector (PCIe 6.0 §7.7.2).
    Msix,
    /// Messages that differ in their low bits (PCIe 6.0 §7.7.1).
    Msi,
    /// A pin, masked by the kernel when it fires until it is acknowledged.
    Intx,
}

impl Vectors {
    pub(super) fn new(function: &Arc<Inner>, count: usize) -> Result<Self, ErrorKind> {
        let device = function.attached.device();
        let (index, kind, there) = best(device)?;
        // Who waits here asks first whether a signal is there, and takes it then.
        let events = (0..count.clamp(1, there)).map(|_| EventFd::nonblocking());
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let interrupts = device.interrupts(index)?;
        interrupts.enable(0, &events.iter().map(Some).collect::<Vec<_>>())?;
        Ok(Self {
            interrupts,
            kind,
            events,
            function: Arc::clone(function),
        })
    }

    /// Of which kind they are.
    #[must_use]
    pub fn kind(&self) -> VectorKind {
        self.kind
    }

    /// How many there are: at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.events.len()
    }

    /// The event that a vector signals; `None` of one that is not there. A plain read of it does not block, for this process and for whoever is given
    /// a duplicate; none of them may make it block ([`EventFd::nonblocking`]).
    #[must_use]
    pub fn event(&self, vector: usize) -> Option<&EventFd> {
        self.events.get(vector)
    }

    /// Lets the next interrupt come, once the device was served. Costs a system call for INTx and nothing for others.
    ///
    /// # Errors
    ///
    /// When the function cannot be reached.
    pub fn acknowledge(&self, vector: usize) -> Result<()> {
        if self.kind != VectorKind::Intx {
            return Ok(());
        }
        let unmasked = self.interrupts.unmask(number(vector));
        unmasked.map_err(|error| self.failed("unmask INTx", error))
    }

    /// Whether single vectors can be switched off and on again while others are on.
    #[must_use]
    pub fn can_disarm(&self) -> bool {
        self.kind == VectorKind::Msix && !self.interrupts.info().flags.contains(IrqFlags::NORESIZE)
    }

    /// Switches a vector off, for a queue that is polled for a while: what the device signals meanwhile is lost. A system call.
    ///
    /// # Errors
    ///
    /// Where [`can_disarm`](Self::can_disarm) is false.
    pub fn disarm(&self, vector: usize) -> Result<()> {
        self.set(vector, None)
    }

    /// Switches a vector on again. Its queue must be looked at once more before waiting. A system call.
    ///
    /// # Errors
    ///
    /// As [`disarm`](Self::disarm).
    pub fn arm(&self, vector: usize) -> Result<()> {
        self.set(vector, self.event(vector))
    }

    fn set(&self, vector: usize, event: Option<&EventFd>) -> Result<()> {
        let set = if self.can_disarm() && vector < self.count() {
            self.interrupts
                .enable(number(vector), &[event])
                .map_err(ErrorKind::from)
        } else {
            Err(ErrorKind::Unsupported(
                "MSI-X vectors that go on and off one by one".into(),
            ))
        };
        set.map_err(|kind| self.failed("switch a vector", kind))
    }

    fn failed(&self, step: &'static str, kind: impl Into<ErrorKind>) -> Error {
        Error::new(self.function.attached.device().bdf(), step, kind.into())
    }
}

/// The best kind of interrupts, and how many of it there are.
fn best(device: &BoundDevice) -> Result<(IrqIndex, VectorKind, usize), ErrorKind> {
    let kinds = [
        (IrqIndex::Msix, VectorKind::Msix),
        (IrqIndex::Msi, VectorKind::Msi),
        (IrqIndex::Intx, VectorKind::Intx),
    ];
    for (index, kind) in kinds {
        let there = usize::try_from(device.irq_info(index)?.count).unwrap_or(usize::MAX);
        if there != 0 {
            return Ok((index, kind, there));
        }
    }
    Err(ErrorKind::Unsupported("the function has no interrupts".into()))
}

fn number(vector: usize) -> u32 {
    u32::try_from(vector).unwrap_or(u32::MAX)
}

impl fmt::Debug for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vectors")
            .field("kind", &self.kind)
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}
