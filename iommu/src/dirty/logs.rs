//! The logs of one tracker, and what was written to memory that was unmapped before anybody asked.

use super::pieces;
use crate::sync::{Mutex, locked};
use crate::{Error, IovaRange, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use vfio_core::iommufd::Hwpt;
use vfio_core::{BoundDevice, Container, DirtyBitmap, DmaLogging};

/// Ranges that a device logs at most: `LOG_MAX_RANGES` of `drivers/vfio/vfio_main.c`.
const RANGES: usize = 256;
/// The most memory that logs are asked about at a time: its bitmap in pages of 4 KiB takes 32 KiB.
pub(super) const STEP: u64 = 1 << 30;

/// Logs that are kept together. The space has it too, weakly, to ask before it unmaps.
#[derive(Debug)]
pub(crate) struct Logs {
    page_size: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    logs: Vec<Log>,
    /// Bytes of the process that were written and unmapped since, by first address; the end of each.
    unmapped: BTreeMap<usize, usize>,
}

#[derive(Debug)]
pub(super) enum Log {
    Table(Hwpt),
    Container(Container),
    /// With the ranges that it logs, in order.
    Device(DmaLogging, Vec<IovaRange>),
}

impl Log {
    /// What a device logs of these ranges, which are sorted.
    pub(super) fn device(device: &BoundDevice, page_size: u64, ranges: &[IovaRange]) -> Result<Self> {
        let ranges = cover(ranges, page_size, RANGES);
        if ranges.is_empty() {
            return Err(Error::Invalid("nothing is mapped that a device could log"));
        }
        let logging = device.dma_logging(page_size, &ranges)?;
        Ok(Self::Device(logging, ranges))
    }

    fn read(&self, bitmap: &mut DirtyBitmap) -> Result<()> {
        match self {
            Self::Table(table) => Ok(table.dirty_bitmap(bitmap, true)?),
            Self::Container(container) => Ok(container.dirty_bitmap(bitmap)?),
            Self::Device(logging, logged) => {
                let asked = bitmap.range();
                let first = logged.partition_point(|range| range.last() < asked.start());
                let inside = logged.iter().skip(first).take_while(|range| range.overlaps(&asked));
                let mut next = Some(asked.start());
                for range in inside {
                    let both = IovaRange::from_bounds(range.start().max(asked.start()), range.last().min(asked.last()));
                    let Some(both) = both else { continue };
                    // Mapped since the log was begun: the device knows nothing of it.
                    let before = next.zip(both.start().0.checked_sub(1).map(vfio_core::Iova));
                    let before = before.and_then(|(start, last)| IovaRange::from_bounds(start, last));
                    before.into_iter().for_each(|unknown| bitmap.mark(unknown));
                    next = both.last().checked_add(1);
                    let mut part = DirtyBitmap::new(both, bitmap.page_size())?;
                    logging.report(&mut part)?;
                    part.ranges().for_each(|range| bitmap.mark(range));
                }
                let rest = next.and_then(|start| IovaRange::from_bounds(start, asked.last()));
                rest.into_iter().for_each(|unknown| bitmap.mark(unknown));
                Ok(())
            }
        }
    }
}

impl Logs {
    pub(super) fn new(page_size: u64) -> Self {
        Self {
            page_size,
            state: Mutex::new(State::default()),
        }
    }

    pub(super) fn page_size(&self) -> u64 {
        self.page_size
    }

    pub(super) fn add(&self, log: Log) {
        locked(&self.state).logs.push(log);
    }

    /// In pieces of how many bytes they may be asked: page tables and containers forget what they were asked about by whole mappings only.
    pub(super) fn step(&self) -> u64 {
        let of_devices = |log: &Log| matches!(log, Log::Device(..));
        if locked(&self.state).logs.iter().all(of_devices) {
            STEP
        } else {
            u64::MAX
        }
    }

    /// What all logs say of a range that is mapped while `is_mapped`; nothing else is unmapped by one mapping's guard meanwhile.
    pub(super) fn read(&self, range: IovaRange, is_mapped: impl FnOnce() -> bool) -> Result<Option<DirtyBitmap>> {
        let state = locked(&self.state);
        if !is_mapped() {
            return Ok(None);
        }
        state.read(range, self.page_size).map(Some)
    }

    /// Keeps what was written to a mapping that is about to be unmapped, of which the process has the bytes from `address` on.
    pub(crate) fn keep(&self, range: IovaRange, address: usize) {
        let step = self.step();
        let mut state = locked(&self.state);
        for piece in pieces(range, step) {
            let written = match state.read(piece, self.page_size) {
                Ok(bitmap) => bitmap.ranges().collect(),
                Err(error) => {
                    tracing::warn!(range = %piece, %error, "what was written is not known, so all of it counts as dirty");
                    vec![piece]
                }
            };
            for dirty in written {
                let offset = dirty.start().offset_from(range.start());
                let place = offset.and_then(|offset| address.checked_add(usize::try_from(offset).ok()?));
                let len = usize::try_from(dirty.len_bytes()).ok();
                if let Some((start, end)) = place.and_then(|start| Some((start, start.checked_add(len?)?))) {
                    join(&mut state.unmapped, start..end);
                }
            }
        }
    }

    pub(super) fn unmapped(&self) -> usize {
        locked(&self.state).unmapped.len()
    }

    pub(super) fn take_unmapped(&self) -> Option<Range<usize>> {
        let first = locked(&self.state).unmapped.pop_first();
        first.map(|(start, end)| start..end)
    }
}

impl State {
    fn read(&self, range: IovaRange, page_size: u64) -> Result<DirtyBitmap> {
        let mut bitmap = DirtyBitmap::new(range, page_size)?;
        for log in &self.logs {
            log.read(&mut bitmap)?;
        }
        Ok(bitmap)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for log in &self.logs {
            let stopped = match log {
                Log::Table(table) => table.set_dirty_tracking(false),
                Log::Container(container) => container.dirty_stop(),
                // Stops by itself.
                Log::Device(..) => Ok(()),
            };
            if let Err(error) = stopped {
                tracing::error!(%error, "dirty pages are still tracked");
            }
        }
    }
}

/// Adds a range to others that do not touch, and keeps it so.
fn join(ranges: &mut BTreeMap<usize, usize>, mut added: Range<usize>) {
    while let Some((&start, &end)) = ranges.range(..=added.end).next_back() {
        if end < added.start {
            break;
        }
        ranges.remove(&start);
        added = start.min(added.start)..end.max(added.end);
    }
    ranges.insert(added.start, added.end);
}

/// At most `most` ranges of whole pages that contain all of `ranges`, which are sorted: the smallest gaps are closed.
fn cover(ranges: &[IovaRange], page_size: u64, most: usize) -> Vec<IovaRange> {
    let mut joined: Vec<IovaRange> = Vec::new();
    for range in ranges {
        let start = vfio_core::Iova(range.start().0 & !(page_size - 1));
        let last = vfio_core::Iova(range.last().0 | (page_size - 1));
        match joined.last_mut() {
            Some(before) if before.last().checked_add(1).is_none_or(|next| next >= start) => extend(before, last),
            _ => joined.extend(IovaRange::from_bounds(start, last)),
        }
    }
    let mut gaps: Vec<(u64, usize)> = joined
        .iter()
        .zip(joined.iter().skip(1))
        .enumerate()
        .map(|(at, (before, after))| (after.start().0 - before.last().0, at + 1))
        .collect();
    gaps.sort_unstable();
    let mut closed: Vec<usize> = gaps
        .into_iter()
        .take(joined.len().saturating_sub(most))
        .map(|(_, at)| at)
        .collect();
    closed.sort_unstable();
    let mut covered: Vec<IovaRange> = Vec::new();
    for (at, range) in joined.into_iter().enumerate() {
        match covered.last_mut() {
            Some(before) if closed.binary_search(&at).is_ok() => extend(before, range.last()),
            _ => covered.push(range),
        }
    }
    covered
}

fn extend(range: &mut IovaRange, last: vfio_core::Iova) {
    if let Some(longer) = IovaRange::from_bounds(range.start(), last.max(range.last())) {
        *range = longer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Iova;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn few_ranges_cover_many(gaps in prop::collection::vec((0_u64..4, 1_u64..4), 0..40), most in 1_usize..10, wide: bool) {
            let page = if wide { 8192 } else { 4096 };
            let (mut next, mut ranges) = (0, vec![]);
            for (gap, pages) in gaps {
                next += gap * 4096;
                ranges.push(IovaRange::new(Iova(next), pages * 4096).unwrap());
                next += pages * 4096;
            }
            let covered = cover(&ranges, page, most);
            prop_assert!(covered.len() <= most);
            prop_assert!(ranges.iter().all(|range| covered.iter().any(|cover| cover.contains(range))));
            prop_assert!(covered.windows(2).all(|two| two[0].last().0 + 1 < two[1].start().0));
            prop_assert!(covered.iter().all(|range| range.start().is_aligned_to(page) && (range.last().0 + 1) % page == 0));
        }

        #[test]
        fn joined_ranges_are_the_bytes(added in prop::collection::vec((0_usize..60, 1_usize..10), 0..30)) {
            let mut ranges = BTreeMap::new();
            for (start, len) in &added {
                join(&mut ranges, *start..start + len);
            }
            for byte in 0..80 {
                prop_assert_eq!(
                    ranges.iter().any(|(start, end)| (*start..*end).contains(&byte)),
                    added.iter().any(|(start, len)| (*start..start + len).contains(&byte))
                );
            }
            prop_assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|((_, end), (start, _))| end < start));
        }
    }

    #[test]
    fn the_smallest_gaps_are_closed() {
        let at = |page: u64| IovaRange::new(Iova(page * 4096), 4096).unwrap();
        let covered = cover(&[at(0), at(9), at(11), at(100)], 4096, 3);
        assert_eq!(
            covered,
            [at(0), IovaRange::new(Iova(9 * 4096), 3 * 4096).unwrap(), at(100)]
        );
    }
}
