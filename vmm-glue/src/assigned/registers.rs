//! What answers for a BAR where no memory slot does.

use super::state::State;
use crate::bus::Device;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, Weak};
use vfio_core::Region;

/// A region until it is closed. A processor may still be on its way here when the bus has nothing here any more.
#[derive(Debug)]
pub(super) struct Held(RwLock<Option<Region>>);

impl Held {
    pub(super) fn new(region: Region) -> Self {
        Self(RwLock::new(Some(region)))
    }

    /// `None` when it is closed.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&Region) -> T) -> Option<T> {
        let region = self.0.read().unwrap_or_else(PoisonError::into_inner);
        region.as_ref().map(use_it)
    }

    /// Holds the device open no longer. Nobody uses it here once this returns.
    pub(super) fn close(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What answers for a BAR until it is closed.
pub(super) trait Rest: Device {
    /// Lets go of the device for good.
    fn close(&self);
}

/// Registers that are read and written through the kernel.
#[derive(Debug)]
pub(super) struct Registers {
    pub(super) region: Held,
    msix: Option<Msix>,
}

/// The parts of the BAR that are MSI-X's.
#[derive(Debug)]
pub(super) struct Msix {
    pub(super) bar: u8,
    /// The table, if it is in this BAR.
    pub(super) table: Range<u64>,
    /// The pending bits, alike.
    pub(super) pending: Range<u64>,
    pub(super) function: Weak<Mutex<State>>,
}

impl Registers {
    pub(super) fn new(region: Region, msix: Option<Msix>) -> Self {
        let region = Held::new(region);
        Self { region, msix }
    }

    fn msix(&self, offset: u64, len: usize) -> Option<&Msix> {
        let end = offset.saturating_add(len as u64);
        let touches = |range: &Range<u64>| range.start < end && offset < range.end;
        let msix = self.msix.as_ref();
        msix.filter(|msix| touches(&msix.table) || touches(&msix.pending))
    }
}

impl Rest for Registers {
    fn close(&self) {
        self.region.close();
    }
}

impl Device for Registers {
    fn read(&self, offset: u64, to: &mut [u8]) {
        to.fill(0xFF);
        if let Some(msix) = self.msix(offset, to.len()) {
            if let Some(function) = msix.function.upgrade() {
                lock(&function).msix_read(&self.region, msix, offset, to);
            }
            return;
        }
        if let Some(Err(error)) = self.region.with(|region| region.read(offset, to)) {
            tracing::debug!(%error, "read as all ones");
            to.fill(0xFF);
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        if let Some(msix) = self.msix(offset, from.len()) {
            if let Some(function) = msix.function.upgrade() {
                lock(&function).msix_write(msix.bar, offset, from);
            }
            return;
        }
        if let Some(Err(error)) = self.region.with(|region| region.write(offset, from)) {
            tracing::debug!(%error, "a write is lost");
        }
    }
}

fn lock(function: &Mutex<State>) -> MutexGuard<'_, State> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}
