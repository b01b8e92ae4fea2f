//! Unmapping: one mapping, or all in a range.

use super::{AddressSpace, Entry};
use crate::dirty::Logs;
use crate::sync::locked;
use crate::{Error, Iova, IovaRange, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use vfio_core::{Access, StableMemory};

/// Memory that was mapped. It is let go with the gate open, because what its owner does when it goes may be to map or unmap here.
type Kept = Vec<Arc<dyn StableMemory>>;

impl AddressSpace {
    /// Unmaps every mapping inside `range` with one call, and returns how many bytes that were. Guards of these mappings have nothing
    /// left to do.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a mapping lies across an end of the range; nothing is unmapped then. If the kernel fails, what is left
    /// is found and unmapped as before, by each mapping's own guard; where a container does not tell what is left, memory and IOVAs are leaked.
    pub fn unmap_range(&self, range: IovaRange) -> Result<u64> {
        let mut kept = Kept::new();
        self.unmap_alone(range, &mut kept)
    }

    fn unmap_alone(&self, range: IovaRange, kept: &mut Kept) -> Result<u64> {
        let _alone = self.shared.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut locked_mappings = locked(&self.shared.mappings);
        let mappings = locked_mappings.sorted();
        let inside = inside(mappings, range)?;
        if inside.is_empty() {
            return Ok(0);
        }
        // Nobody may be told an IOVA that is about to end.
        let entries = inside.iter().filter_map(|start| mappings.get(start));
        entries.for_each(|entry| self.shared.forget(entry));
        for entry in inside.iter().filter_map(|start| mappings.get(start)) {
            self.keep_dirty(entry);
        }
        let unmapped = self.shared.backend.unmap(range);
        let mut gone = Vec::new();
        for start in inside {
            match mappings.get_mut(&start) {
                Some(left) if unmapped.is_err() && left.is_mapped().0 => {
                    // Of what is there in part nothing is found.
                    left.noted = left.noted.filter(|_| left.is_mapped().1);
                    self.shared.note(left);
                }
                _ => gone.extend(mappings.remove(&start)),
            }
        }
        drop(locked_mappings);
        // Each finds that it is unmapped, and lets go of its IOVAs.
        let finished = gone.into_iter().map(|mut entry| {
            let said = |error: &Error| tracing::error!(%range, %error, "not unmapped; memory and IOVA are leaked");
            kept.extend(entry.memory.take());
            self.finish(entry).inspect_err(said)
        });
        let finished = finished.fold(Ok(()), Result::and);
        let got = unmapped?;
        finished.map(|()| got)
    }

    /// Unmaps everything.
    ///
    /// # Errors
    ///
    /// Those of [`unmap_range`](Self::unmap_range).
    pub fn unmap_all(&self) -> Result<u64> {
        self.unmap_range(IovaRange::ALL)
    }

    /// Unmaps what a guard stands for, unless that was done. If a ranged unmap left it where it was, that is an error here too.
    pub(super) fn unmap_one(&self, range: IovaRange, id: u64) -> Result<()> {
        let (memory, unmapped) = self.unmap_own(range, id);
        drop(memory);
        unmapped
    }

    fn unmap_own(&self, range: IovaRange, id: u64) -> (Option<Arc<dyn StableMemory>>, Result<()>) {
        let _shared = self.shared.share();
        let mut mappings = locked(&self.shared.mappings);
        let own = mappings.remove_if(range.start(), |entry| entry.id == id);
        drop(mappings);
        let Some(mut entry) = own else {
            // IOVAs that are leaked have had no other mapping since.
            return (None, self.shared.check_leaked(range));
        };
        self.shared.forget(&entry);
        self.keep_dirty(&entry);
        (entry.memory.take(), self.finish(entry))
    }

    /// From now on these logs are asked before anything is unmapped, as long as they live.
    pub(crate) fn ask_before_unmapping(&self, logs: &Arc<Logs>) {
        let mut known = locked(&self.shared.logs);
        known.retain(|logs| logs.strong_count() > 0);
        known.push(Arc::downgrade(logs));
    }

    /// Calls `work` with a way to tell whether all of a range is one mapping's, and lets no range be unmapped meanwhile.
    pub(crate) fn while_mapped<T>(&self, range: IovaRange, work: impl FnOnce(&dyn Fn() -> bool) -> T) -> T {
        let _shared = self.shared.share();
        work(&|| {
            let mappings = locked(&self.shared.mappings);
            let before = mappings.last_until(range.start());
            before.is_some_and(|(_, entry)| entry.range.contains(&range))
        })
    }

    /// Lets trackers read what was written to a mapping, which the kernel forgets when it unmaps.
    fn keep_dirty(&self, entry: &Entry) {
        let written = entry.address.filter(|_| entry.access.contains(Access::WRITE));
        let Some(address) = written else { return };
        let mut logs = locked(&self.shared.logs);
        if logs.is_empty() {
            return;
        }
        logs.retain(|logs| {
            let logs = logs.upgrade();
            logs.inspect(|logs| logs.keep(entry.range, address)).is_some()
        });
    }

    pub(super) fn is_live(&self, start: Iova, id: u64) -> bool {
        locked(&self.shared.mappings)
            .get(start)
            .is_some_and(|entry| entry.id == id)
    }

    /// Whoever calls lets go of the memory, later.
    fn finish(&self, entry: Box<Entry>) -> Result<()> {
        let mut unmapped = entry.mapped.unmap();
        for piece in entry.more {
            let next = piece.unmap();
            unmapped = unmapped.and(next);
        }
        match (unmapped, entry.is_reserved) {
            // The reservation gives them back.
            (Ok(()), true) => Ok(()),
            (Ok(()), false) => self.shared.release(entry.taken),
            (failed, _) => {
                // The allocator keeps them as in use, for ever: a device may still reach what is there.
                self.shared.leak(entry.taken);
                failed
            }
        }
    }
}

/// The mappings inside a range; none may lie across its ends.
fn inside(mappings: &BTreeMap<Iova, Box<Entry>>, range: IovaRange) -> Result<Vec<Iova>> {
    let before = mappings.range(..range.start()).next_back();
    let touched = before.into_iter().chain(mappings.range(range.start()..=range.last()));
    let touched = touched.filter(|(_, entry)| entry.range.overlaps(&range));
    let checked = touched.map(|(start, entry)| {
        let is_inside = range.contains(&entry.range);
        is_inside
            .then_some(*start)
            .ok_or(Error::Invalid("a mapping lies across an end of the range"))
    });
    checked.collect()
}
