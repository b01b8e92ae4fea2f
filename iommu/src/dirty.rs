//! Which memory devices have written, whoever keeps the log.
//!
//! Three can: the IOMMU (a page table with dirty tracking), type1 (which knows what may have been written), and a device itself. A
//! [`DirtyTracker`] takes any of them together and gives one sequence of ranges.

mod logs;

pub(crate) use logs::Logs;

use crate::space::AddressSpace;
use crate::{Error, IovaRange, Result};
use logs::{Log, STEP};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use vfio_core::BoundDevice;
use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, IommuDevice};

/// Collects what devices write in one space. Stops all logs when dropped.
///
/// ```no_run
/// use iommu::dirty::{DirtyTracker, Written};
/// use iommu::space::AddressSpace;
///
/// fn copy_until_quiet(space: &AddressSpace, copy: impl Fn(&Written)) -> Result<(), iommu::Error> {
///     let mut tracker = DirtyTracker::new(space, 4096)?;
///     tracker.track_container()?;
///     loop {
///         let mut bytes = 0;
///         for written in tracker.dirty() {
///             let written = written?;
///             bytes += written.len_bytes();
///             copy(&written);
///         }
///         if bytes < 1 << 20 {
///             return Ok(());
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct DirtyTracker {
    space: AddressSpace,
    logs: Arc<Logs>,
}

/// What devices have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// What is mapped there.
    Mapped(IovaRange),
    /// Bytes of this process, by address, that were mapped when they were written and have been unmapped since. Their IOVAs may be
    /// those of other memory now, and nothing holds the memory: what is there no more need not be copied.
    Unmapped(Range<usize>),
}

impl Written {
    /// Length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u128 {
        match self {
            Self::Mapped(range) => range.len_bytes(),
            Self::Unmapped(bytes) => bytes.len() as u128,
        }
    }
}

impl DirtyTracker {
    /// Tracks nothing yet; will report in pages of `page_size` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a size that is no power of two or smaller than the space's pages.
    pub fn new(space: &AddressSpace, page_size: u64) -> Result<Self> {
        if !page_size.is_power_of_two() || page_size < space.granule() || page_size > STEP {
            return Err(Error::Invalid("the page size is not one to track in"));
        }
        let logs = Arc::new(Logs::new(page_size));
        space.ask_before_unmapping(&logs);
        Ok(Self {
            space: space.clone(),
            logs,
        })
    }

    /// Lets the IOMMU track, in a page table of the space that was made with [`DIRTY_TRACKING`](HwptFlags::DIRTY_TRACKING):
    /// [`table_for`](Self::table_for). Devices that are attached to another table of the space are not tracked by it.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn track_table(&mut self, table: &Hwpt) -> Result<()> {
        table.set_dirty_tracking(true)?;
        self.logs.add(Log::Table(table.clone()));
        Ok(())
    }

    /// A page table of the space that tracks, to attach a device to with [`AddressSpace::attach_table`].
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on type1; [`Unsupported`](vfio_core::ErrorKind::Unsupported) for an IOMMU that does not track.
    pub fn table_for(&self, device: &dyn IommuDevice) -> Result<Hwpt> {
        let ioas = self.space.ioas().ok_or(Error::Unsupported(
            "page tables of its own on type1; track the container",
        ))?;
        Ok(Hwpt::alloc(
            device,
            HwptParent::Ioas(ioas),
            HwptFlags::DIRTY_TRACKING,
            HwptData::None,
            None,
        )?)
    }

    /// Lets type1 track. What is mapped for devices to write counts as dirty the first time.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] on iommufd, and when the container does not log pages of this size.
    pub fn track_container(&mut self) -> Result<()> {
        let container = self
            .space
            .container()
            .ok_or(Error::Unsupported("a container's log on iommufd; track the page table"))?;
        let logging = container.info()?.dirty_logging;
        let logging = logging.ok_or(Error::Unsupported(
            "dirty logging: Linux 5.8 with vfio_iommu_type1 has it",
        ))?;
        // The kernel takes the smallest size only.
        if logging.page_sizes == 0 || 1_u64 << logging.page_sizes.trailing_zeros() != self.logs.page_size() {
            return Err(Error::Unsupported(
                "dirty logging in pages of this size; type1 logs in the IOMMU's smallest",
            ));
        }
        let container = container.clone();
        container.dirty_start()?;
        self.logs.add(Log::Container(container));
        Ok(())
    }

    /// Lets a device track what it writes to what is mapped now; what is mapped later always counts as dirty. Where there are more ranges
    /// than the 256 that the kernel takes, small gaps between them are logged with them.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] while nothing is mapped; [`Unsupported`](vfio_core::ErrorKind::Unsupported) for a device that does not.
    pub fn track_device(&mut self, device: &BoundDevice) -> Result<()> {
        let ranges = self.space.mapped();
        self.logs.add(Log::device(device, self.logs.page_size(), &ranges)?);
        Ok(())
    }

    /// What was written since this was last asked, as long ranges as can be: first what is mapped, in order, then what was unmapped
    /// since. All logs are joined. Ranges that the iterator was not asked for stay dirty.
    ///
    /// What the IOMMU reports can be as coarse as its page table: a mapping on huge pages is dirty by the huge page. Memory may be mapped
    /// and unmapped meanwhile. Unmapping reads the logs first, so a device must be done with memory before it is unmapped, or what
    /// it writes between the two is not known. Of mappings that the process has no bytes of (dma-bufs) nothing is kept.
    ///
    /// After an error nothing is known: all memory counts as dirty, and tracking is to be started anew.
    pub fn dirty(&mut self) -> Dirty<'_> {
        let step = self.logs.step();
        let mapped = self.space.mapped().into_iter();
        let pieces = mapped.flat_map(|range| pieces(range, step)).collect();
        Dirty {
            unmapped: self.logs.unmapped(),
            tracker: self,
            pieces,
            found: VecDeque::new(),
        }
    }
}

/// The dirty ranges of a space, from [`DirtyTracker::dirty`].
#[derive(Debug)]
pub struct Dirty<'a> {
    tracker: &'a DirtyTracker,
    /// Still to be asked about.
    pieces: VecDeque<IovaRange>,
    /// Found, and not yet given out; the last one may go on in the next piece.
    found: VecDeque<IovaRange>,
    /// How many unmapped ranges are given out at most, as others may come all the time.
    unmapped: usize,
}

impl Dirty<'_> {
    fn next_unmapped(&mut self) -> Option<Written> {
        self.unmapped = self.unmapped.checked_sub(1)?;
        self.tracker.logs.take_unmapped().map(Written::Unmapped)
    }
}

impl Iterator for Dirty<'_> {
    type Item = Result<Written>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.found.len() < 2 {
            let Some(piece) = self.pieces.pop_front() else {
                let mapped = self.found.pop_front().map(Written::Mapped);
                return mapped.or_else(|| self.next_unmapped()).map(Ok);
            };
            let DirtyTracker { space, logs } = self.tracker;
            match space.while_mapped(piece, |is_mapped| logs.read(piece, is_mapped)) {
                // Unmapped meanwhile.
                Ok(None) => {}
                Ok(Some(bitmap)) => bitmap.ranges().for_each(|range| push(&mut self.found, range)),
                Err(error) => {
                    self.pieces.clear();
                    self.found.clear();
                    self.unmapped = 0;
                    return Some(Err(error));
                }
            }
        }
        self.found.pop_front().map(Written::Mapped).map(Ok)
    }
}

/// Adds a range, or makes the last one longer.
fn push(found: &mut VecDeque<IovaRange>, range: IovaRange) {
    if let Some(last) = found.back_mut()
        && last.last().checked_add(1) == Some(range.start())
        && let Some(joined) = IovaRange::from_bounds(last.start(), range.last())
    {
        *last = joined;
    } else {
        found.push_back(range);
    }
}

/// A range in pieces of at most `step` bytes.
fn pieces(range: IovaRange, step: u64) -> impl Iterator<Item = IovaRange> {
    let mut next = Some(range.start());
    std::iter::from_fn(move || {
        let start = next?;
        let last = start
            .checked_add(step - 1)
            .map_or(range.last(), |last| last.min(range.last()));
        next = if last == range.last() {
            None
        } else {
            last.checked_add(1)
        };
        IovaRange::from_bounds(start, last)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Iova;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_the_range(start in 0_u64..1000, len in 1_u64..5000, step in 1_u64..700) {
            let range = IovaRange::new(Iova(start), len).unwrap();
            let mut joined = VecDeque::new();
            for piece in pieces(range, step) {
                prop_assert!(piece.len_bytes() <= u128::from(step));
                push(&mut joined, piece);
            }
            prop_assert_eq!(joined, [range]);
        }
    }

    #[test]
    fn the_last_address_ends_the_pieces() {
        assert_eq!(pieces(IovaRange::ALL, u64::MAX).count(), 2);
        let top = IovaRange::from_bounds(Iova(u64::MAX - 4), Iova(u64::MAX)).unwrap();
        assert_eq!(pieces(top, 2).count(), 3);
    }
}
