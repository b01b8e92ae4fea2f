//! Which of the guest's memory devices have written.

use crate::{Error, ErrorKind, Result};
use iommu::dirty::{DirtyTracker, Written};
use iommu::space::AddressSpace;
use std::ops::Range;
use vfio_core::{BoundDevice, Feature};

/// A log of what devices write of the guest's memory, which they have at IOVAs equal to its addresses. Ends when dropped.
#[derive(Debug)]
pub struct DirtyRam {
    tracker: DirtyTracker,
}

impl DirtyRam {
    /// Begins to log, in pages of 4 KiB. Each device logs for itself where it can; else type1 does for all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where nobody logs: on iommufd with a device that does not, unless its page table does
    /// ([`DirtyTracker::track_table`]); those of the kernel.
    pub fn new(space: &AddressSpace, devices: &[BoundDevice]) -> Result<Self> {
        let mut tracker = DirtyTracker::new(space, 4096)?;
        let mut by_container = false;
        for device in devices {
            if device.features()?.contains(Feature::DMA_LOGGING_START) {
                tracker.track_device(device)?;
            } else {
                by_container = true;
            }
        }
        if by_container {
            if space.container().is_none() {
                let kind = ErrorKind::Unsupported("a device that logs its DMA, an IOMMU that does, or type1");
                return Err(Error::new("log what devices write", kind));
            }
            tracker.track_container()?;
        }
        Ok(Self { tracker })
    }

    /// The guest-physical addresses that were written since this was last asked.
    ///
    /// # Errors
    ///
    /// Those of the kernel. All memory counts as written then, and the log is to be begun anew.
    pub fn take(&mut self) -> Result<Vec<Range<u64>>> {
        let mut written = Vec::new();
        for range in self.tracker.dirty() {
            // What is mapped no more is no memory of the guest.
            if let Written::Mapped(range) = range? {
                written.push(range.start().0..range.last().0.saturating_add(1));
            }
        }
        Ok(written)
    }
}
