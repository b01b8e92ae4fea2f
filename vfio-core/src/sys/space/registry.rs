//! Which of an address space's mappings are there, so that no guard ever unmaps a later one at the same place.
//!
//! The invariant, at any time when no ranged unmap runs: a mapping that was made through this registry is entered in it from
//! before its guard exists until its guard begins to unmap it or a ranged unmap took it away.
//!
//! - The kernel alone decides whether a range is free, so two mappings of one place never exist together. A guard takes its entry out
//!   (`claim`) before it asks the kernel to unmap; who maps the place next can succeed only after the kernel has done so. Hence a guard's
//!   own unmap never meets a later mapping.
//! - Mapping and entering, and claiming and unmapping, hold the outer lock shared; a ranged unmap holds it alone. Hence a ranged unmap never
//!   sees a mapping that is in the kernel but not entered, or an entry whose mapping is already on its way out, and afterwards the entries
//!   it took away are gone in the kernel too. Without this, a guard could claim its entry, lose its mapping to a ranged unmap, and then
//!   unmap what somebody has mapped there meanwhile.
//! - A guard whose unmap fails leaves a mapping without an entry. Its memory is leaked, so a ranged unmap may take it away or not.
//! - Shared holders do not wait for each other in the kernel's work: the inner lock is held for a look into the tree only.

use crate::{Iova, IovaRange, RecentMap};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// All guards' entries of one address space.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: RwLock<Mutex<Entries>>,
}

/// Number of a guard; never used twice in an address space.
pub(super) type GuardId = u64;

#[derive(Debug, Default)]
pub(super) struct Entries {
    /// By first address; they do not overlap.
    live: RecentMap<Iova, (Iova, GuardId)>,
    /// Guards of which it is unclear whether their mappings exist: a ranged unmap failed, or somebody else unmapped there.
    unclear: BTreeSet<GuardId>,
    next: GuardId,
}

/// What became of a guard's mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is there, and it is the guard's to unmap.
    Live,
    /// A ranged unmap took it away.
    Gone,
    /// Nobody knows.
    Unclear,
}

/// The right to map, or to unmap one's own, while no ranged unmap runs.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    entries: RwLockReadGuard<'a, Mutex<Entries>>,
}

impl Registry {
    pub(super) fn share(&self) -> Shared<'_> {
        Shared {
            entries: self.entries.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Runs a ranged unmap with nobody else mapping or unmapping.
    pub(super) fn alone<T>(&self, unmap: impl FnOnce(&mut Entries) -> T) -> T {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        unmap(entries.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a mapping could begin now, and whether a ranged unmap could.
    #[cfg(test)]
    pub(super) fn is_open_for(&self) -> (bool, bool) {
        let mapping = self.entries.try_read().is_ok();
        let ranged_unmap = self.entries.try_write().is_ok();
        (mapping, ranged_unmap)
    }
}

impl Shared<'_> {
    /// Enters what the kernel has just mapped. If something was entered for the same place, somebody else with the descriptor unmapped it, or a part
    /// of it.
    pub(super) fn enter(&self, range: IovaRange) -> GuardId {
        let mut entries = self.lock();
        if entries.is_touched(range) {
            for (start, id) in entries.overlapping(range) {
                entries.live.remove(start);
                entries.unclear.insert(id);
            }
        }
        let id = entries.next;
        entries.next += 1;
        entries.live.insert(range.start(), (range.last(), id));
        id
    }

    pub(super) fn is_live(&self, start: Iova, id: GuardId) -> bool {
        self.lock().live.get(start).is_some_and(|(_, live)| *live == id)
    }

    /// Whether a range has a part of a mapping, but not all of it.
    pub(crate) fn is_cut_by(&self, range: IovaRange) -> bool {
        self.lock().inside(range).is_none()
    }

    /// Takes a guard's entry out, for good.
    pub(super) fn claim(&self, start: Iova, id: GuardId) -> Claim {
        let mut entries = self.lock();
        if !entries.unclear.is_empty() && entries.unclear.remove(&id) {
            return Claim::Unclear;
        }
        match entries.live.remove_if(start, |(_, live)| *live == id) {
            Some(_) => Claim::Live,
            None => Claim::Gone,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Whether an entry shares an address with `range`. As they do not overlap, the last that begins in it or before it tells.
    fn is_touched(&self, range: IovaRange) -> bool {
        let last = self.live.last_until(range.last());
        last.is_some_and(|(_, (last, _))| *last >= range.start())
    }

    /// First addresses and ids of the entries that share an address with `range`, in order.
    fn overlapping(&mut self, range: IovaRange) -> Vec<(Iova, GuardId)> {
        // Backwards: as they do not overlap, the first that ends before the range is followed by such only. Mostly that is the first at all.
        let behind = self.live.sorted().range(..=range.last()).rev();
        let found = behind.take_while(|(_, (last, _))| *last >= range.start());
        let mut found: Vec<_> = found.map(|(start, (_, id))| (*start, *id)).collect();
        found.reverse();
        found
    }

    /// The entries that lie inside `range`, in order; `None` if one lies partly outside.
    pub(super) fn inside(&mut self, range: IovaRange) -> Option<Vec<IovaRange>> {
        let found = self.overlapping(range).into_iter().filter_map(|(start, _)| {
            let (last, _) = self.live.get(start)?;
            IovaRange::from_bounds(start, *last)
        });
        let found: Vec<_> = found.collect();
        found.iter().all(|entry| range.contains(entry)).then_some(found)
    }

    /// The mapping is gone in the kernel.
    pub(super) fn remove(&mut self, entry: IovaRange) {
        self.live.remove(entry.start());
    }

    /// Whether the mapping is still there cannot be found out.
    pub(super) fn make_unclear(&mut self, entry: IovaRange) {
        if let Some((_, id)) = self.live.remove(entry.start()) {
            self.unclear.insert(id);
        }
    }
}
