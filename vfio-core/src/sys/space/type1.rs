//! The address space of a container.

use super::{Failed, Left, Lent, Loan, Space, Table, length};
use crate::sys::Result;
use crate::sys::located::Located;
use crate::sys::vfio::ContainerCalls;
use crate::{Access, IovaRange};
use rustix::io::Errno;
use std::ops::Range;
use std::sync::Arc;

/// A container with an IOMMU.
#[derive(Debug)]
pub(crate) struct Type1Table(Arc<dyn ContainerCalls>);

impl Type1Table {
    pub(crate) fn new(calls: Arc<dyn ContainerCalls>) -> Self {
        Self(calls)
    }
}

impl Table for Type1Table {
    fn map(&self, memory: &Lent<Located>, part: Range<usize>, iova: Option<u64>, access: Access) -> Result<u64> {
        // It chooses none.
        let iova = iova.ok_or(Errno::INVAL)?;
        self.0.map_dma(memory, part, iova, access).map(|()| iova)
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        match u64::try_from(range.len_bytes()) {
            Ok(len) => self.0.unmap_dma(range.start().0, len, None),
            // The one range that has no length.
            Err(_) => self.0.unmap_all(),
        }
    }

    /// Bytes that others mapped may stand for some of ours that are not unmapped: version 1 unmaps parts, and stops where it cannot.
    fn is_all(&self, want: u64, got: u64) -> bool {
        got == want
    }

    /// EINVAL and EOVERFLOW are said of the range, before anything is unmapped. After anything else it is not told which are gone, and there is
    /// no call that changes nothing and tells.
    fn left(&self, failed: Failed, _: IovaRange) -> Left {
        match failed {
            Failed::Kernel(Errno::INVAL | Errno::OVERFLOW) => Left::All,
            _ => Left::Unclear,
        }
    }

    /// Nobody knows, and nothing depends on it.
    fn is_alone(&self) -> bool {
        false
    }
}

impl Space<Type1Table> {
    /// Lets a group leave. If it was the last, the container loses its IOMMU and all that was mapped, and EINVAL is what is said without one.
    /// (Groups may be in it that are not known here.)
    pub(crate) fn leave(&self, leave: impl FnOnce() -> Result<()>) -> Result<()> {
        // Nobody maps between the last group's end and the end of what was mapped.
        self.registry.alone(|entries| {
            leave()?;
            if self.table.0.info() == Err(Errno::INVAL) {
                let all = entries.inside(IovaRange::ALL).unwrap_or_default();
                all.into_iter().for_each(|entry| entries.remove(entry));
            }
            Ok(())
        })
    }
}

impl Loan<Type1Table> {
    /// As [`unmap`](Self::unmap), and sets in `bits` the pages that are dirty. If the bits are refused, it is unmapped without; a ranged unmap took them
    /// away with the mapping.
    pub(crate) fn unmap_dirty(self, page_size: u64, bits: &mut [u64]) -> std::result::Result<(), Failed> {
        let mut was_asked = false;
        let ended = self.end(|loan| {
            was_asked = true;
            let (start, len) = (loan.range.start().0, length(loan.range));
            match loan.space.table.0.unmap_dma(start, len, Some((page_size, bits))) {
                // Nothing is logged, or not in pages of this size. The mapping is still there.
                Err(errno) => {
                    let again = loan.check(loan.space.table.unmap(loan.range));
                    Err(again.map_or(Failed::Kernel(errno), |()| Failed::Bits(Some(errno))))
                }
                // Also what is not all of it: a second call might meet a later mapping of somebody else.
                answer => loan.check(answer),
            }
        });
        match ended {
            Ok(()) if !was_asked => Err(Failed::Bits(None)),
            ended => ended,
        }
    }
}
