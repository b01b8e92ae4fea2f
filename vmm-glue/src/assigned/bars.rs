//! Where the guest finds the BARs of a function.
//!
//! What the kernel lets be mapped of a BAR is a memory slot, so that the guest reaches it without an exit. All of the BAR is on the bus beside
//! that: what no slot has (the pages of the MSI-X table and of the pending bits, sparse areas, a BAR that cannot be mapped, the expansion ROM)
//! leaves the guest and is read and written through the kernel, never through the map, where an access to a function that does not decode ends the process.
//! A guest that puts a BAR where something else is does not find it until that is gone, as when it moves one BAR after the other.

use super::parts::{self, PAGE};
use super::peer::Peers;
use super::registers::Rest;
use super::state::State;
use super::told::{Matter, Told};
use crate::Result;
use crate::bus::{Bus, Device, Heir, Wait};
use crate::slot::{Slot, Slots};
use ::pci::Bdf;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};
use vfio_core::{BoundDevice, Region, RegionIndex, RegionMap, StableMemory};

/// What is needed to let the guest find a BAR.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) slots: Arc<dyn Slots>,
    pub(super) memory: Arc<Bus>,
    pub(super) peers: Option<Peers>,
    pub(super) told: Told,
    /// Whose BARs they are.
    pub(super) function: Weak<Mutex<State>>,
}

/// A BAR, or the expansion ROM.
#[derive(Debug)]
pub(super) struct Bar {
    // Fields drop in this order: the guest reaches nothing any more before the maps go.
    seat: Option<Seat>,
    /// Where it would be found if nothing else were there.
    wait: Option<Wait>,
    index: RegionIndex,
    /// Answers for what no slot has.
    rest: Arc<dyn Rest>,
    maps: Vec<Arc<RegionMap>>,
}

/// Where a BAR is decoded.
#[derive(Debug)]
struct Seat {
    // Fields drop in this order.
    peers: Vec<iommu::space::PeerMapping>,
    slots: Vec<Box<dyn Slot>>,
    /// The slots were taken away, as the function had fallen silent.
    is_trapped: bool,
    on_bus: OnBus,
}

/// A BAR on the bus; leaves it when dropped.
#[derive(Debug)]
struct OnBus {
    bus: Arc<Bus>,
    range: Range<u64>,
}

impl Drop for OnBus {
    fn drop(&mut self) {
        drop(self.bus.remove(self.range.start));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.remove();
        self.rest.close();
    }
}

impl Bar {
    /// The parts in `trapped` always leave the guest, to `rest`.
    pub(super) fn new(region: &Region, trapped: &[Range<u64>], rest: Arc<dyn Rest>) -> Self {
        let maps = parts::mappable(&region.info().mappable(), trapped)
            .into_iter()
            .filter_map(|part| {
                // Without the map it works all the same, by exits.
                let map = region.map(part.clone()).map(Arc::new);
                map.inspect_err(|error| tracing::warn!(%error, ?part, "a part of a BAR is not mapped, and so is slow"))
                    .ok()
            });
        Self {
            seat: None,
            wait: None,
            index: region.index(),
            rest,
            maps: maps.collect(),
        }
    }

    pub(super) fn index(&self) -> RegionIndex {
        self.index
    }

    /// Where it is decoded.
    pub(super) fn range(&self) -> Option<Range<u64>> {
        self.seat.as_ref().map(|seat| seat.on_bus.range.clone())
    }

    /// The guest finds it nowhere.
    pub(super) fn remove(&mut self) {
        self.seat = None;
        self.wait = None;
    }

    /// All of it leaves the guest, until BARs are placed the next time, there or elsewhere. Whether any of it did not before.
    pub(super) fn trap(&mut self) -> bool {
        let Some(seat) = &mut self.seat else { return false };
        let slots = std::mem::take(&mut seat.slots);
        seat.is_trapped |= !slots.is_empty();
        !slots.is_empty()
    }

    /// Whether any of it is reached without an exit.
    pub(super) fn has_slots(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| !seat.slots.is_empty())
    }

    /// Lets the guest find it there and nowhere else.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::ErrorKind::Occupied) where something else is. It is found nowhere until that is gone.
    pub(super) fn place(&mut self, range: &Range<u64>, device: &BoundDevice, places: &Places) -> Result<()> {
        let is_seated = |seat: &Seat| seat.on_bus.range == *range && !seat.is_trapped;
        if self.seat.as_ref().is_some_and(is_seated) {
            return Ok(());
        }
        self.remove();
        let rest: Arc<dyn Device> = Arc::<dyn Rest>::clone(&self.rest);
        if let Err(error) = places.memory.insert(range.clone(), rest) {
            let heir: Weak<dyn Heir> = Weak::<Mutex<State>>::clone(&places.function);
            self.wait = Some(places.memory.wait_for(range.clone(), heir));
            return Err(error);
        }
        let on_bus = OnBus {
            bus: Arc::clone(&places.memory),
            range: range.clone(),
        };
        let mut slots = Vec::new();
        for map in &self.maps {
            match slot(map, range.start, &*places.slots) {
                Ok(slot) => slots.extend(slot),
                Err(error) => places.told.tell(&Matter::SLOT, device.bdf(), &error),
            }
        }
        let parts = self.maps.iter().map(|map| map.part());
        let peers = places.peers.as_ref();
        let peers = peers
            .map(|peers| peers.map(device, self.index, range.start, parts))
            .unwrap_or_default();
        self.seat = Some(Seat {
            peers,
            slots,
            is_trapped: false,
            on_bus,
        });
        Ok(())
    }

    /// The function was reset, or slept: what the kernel has taken back of its BARs is mapped anew for the others.
    pub(super) fn refresh_peers(&mut self, device: Option<Bdf>, told: &Told) {
        for peer in self.seat.iter_mut().flat_map(|seat| &mut seat.peers) {
            if let Err(error) = peer.refresh() {
                told.tell(&Matter::PEER, device, &format_args!("{}: {error}", peer.range()));
            }
        }
    }
}

/// Gives a map its place in the guest; `None` where it has no address.
fn slot(map: &Arc<RegionMap>, bar: u64, slots: &dyn Slots) -> Result<Option<Box<dyn Slot>>> {
    let Some(memory) = memory_of(map) else {
        return Ok(None);
    };
    let guest = bar.saturating_add(map.part().start);
    if !guest.is_multiple_of(PAGE) {
        return Ok(None);
    }
    let part = 0..map.len();
    slots.map(guest, &memory, part, true).map(Some)
}

/// The bytes of a map.
fn memory_of(map: &Arc<RegionMap>) -> Option<Arc<dyn StableMemory>> {
    let memory = map.to_memory();
    // Registers of a fake machine have no address; other memory of the same length stands for them, for a guest that does not run.
    #[cfg(feature = "fake")]
    let memory = memory.or_else(|| {
        let stands_for = vfio_core::Memory::new(map.len(), vfio_core::MemoryOptions::default()).ok()?;
        Some(Arc::new(stands_for))
    });
    memory
}
