//! Unmapping: one mapping, or all in a range.

use super::{AddressSpace, Entry};
use crate::sync::locked;
use crate::{Error, Iova, IovaRange, Result};
use std::collections::BTreeMap;
use std::sync::PoisonError;

impl AddressSpace {
    /// Unmaps every mapping inside `range` with one call, and returns how many bytes that were. Guards of these mappings have nothing
    /// left to do.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a mapping lies across an end of the range; nothing is unmapped then. If the kernel fails, each mapping's
    /// own guard unmaps what is left.
    pub fn unmap_range(&self, range: IovaRange) -> Result<u64> {
        let _alone = self.shared.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut mappings = locked(&self.shared.mappings);
        let inside = inside(&mappings, range)?;
        if inside.is_empty() {
            return Ok(0);
        }
        // Nobody may be told an IOVA that is about to end.
        for start in &inside {
            mappings
                .get_mut(start)
                .into_iter()
                .for_each(|entry| self.shared.forget(entry));
        }
        let want: u128 = inside
            .iter()
            .filter_map(|start| mappings.get(start))
            .map(|entry| entry.range.len_bytes())
            .sum();
        let got = self.shared.backend.unmap(range)?;
        if u128::from(got) < want {
            let want = u64::try_from(want).unwrap_or(u64::MAX);
            let kind = vfio_core::ErrorKind::ShortUnmap { want, got };
            return Err(vfio_core::Error::new("unmap a range", kind).into());
        }
        let gone: Vec<Entry> = inside.iter().filter_map(|start| mappings.remove(start)).collect();
        drop(mappings);
        // Each finds that it is unmapped, and lets go of the memory.
        let finished = gone.into_iter().map(|entry| self.finish(entry));
        finished.fold(Ok(()), Result::and).map(|()| got)
    }

    /// Unmaps everything.
    ///
    /// # Errors
    ///
    /// Those of [`unmap_range`](Self::unmap_range).
    pub fn unmap_all(&self) -> Result<u64> {
        self.unmap_range(IovaRange::ALL)
    }

    /// Unmaps what a guard stands for, unless that was done.
    pub(super) fn unmap_one(&self, start: Iova, id: u64) -> Result<()> {
        let _shared = self.shared.share();
        let mut mappings = locked(&self.shared.mappings);
        if mappings.get(&start).is_none_or(|entry| entry.id != id) {
            return Ok(());
        }
        let Some(mut entry) = mappings.remove(&start) else {
            return Ok(());
        };
        drop(mappings);
        self.shared.forget(&mut entry);
        self.finish(entry)
    }

    pub(super) fn is_live(&self, start: Iova, id: u64) -> bool {
        locked(&self.shared.mappings)
            .get(&start)
            .is_some_and(|entry| entry.id == id)
    }

    fn finish(&self, entry: Entry) -> Result<()> {
        // On failure the allocator keeps the range as in use, for ever: a device may still reach what is there.
        entry.mapped.unmap()?;
        if entry.is_reserved {
            Ok(())
        } else {
            self.shared.release(entry.range)
        }
    }
}

/// The mappings inside a range; none may lie across its ends.
fn inside(mappings: &BTreeMap<Iova, Entry>, range: IovaRange) -> Result<Vec<Iova>> {
    let before = mappings.range(..range.start()).next_back();
    let touched = before.into_iter().chain(mappings.range(range.start()..=range.last()));
    let touched = touched.filter(|(_, entry)| entry.range.overlaps(&range));
    let check = |(start, entry): (&Iova, &Entry)| {
        let is_inside = range.contains(&entry.range);
        is_inside
            .then_some(*start)
            .ok_or(Error::Invalid("a mapping lies across an end of the range"))
    };
    touched.map(check).collect()
}
