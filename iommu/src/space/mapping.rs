//! The guard of one mapping.

use super::AddressSpace;
use crate::{Iova, IovaRange, Result};
use vfio_core::Access;

/// Memory that devices find at an IOVA. Holds the memory and the space; unmapped when dropped.
///
/// If the kernel does not unmap it, memory and IOVA are leaked, because a device may still reach them; `tracing` gets an error.
#[derive(Debug)]
#[must_use = "dropping it unmaps the memory"]
pub struct DmaMapping {
    space: AddressSpace,
    range: IovaRange,
    access: Access,
    id: u64,
    is_done: bool,
}

impl DmaMapping {
    pub(super) fn new(space: AddressSpace, range: IovaRange, access: Access, id: u64) -> Self {
        Self {
            space,
            range,
            access,
            id,
            is_done: false,
        }
    }

    /// Where devices find the first byte.
    #[must_use]
    #[inline]
    pub fn iova(&self) -> Iova {
        self.range.start()
    }

    /// Where devices find it.
    #[must_use]
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// What devices may do.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The space it is in.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// Whether it is still mapped: [`AddressSpace::unmap_range`] may have taken it away.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.space.is_live(self.range.start(), self.id)
    }

    /// Unmaps it, and says whether that went well. What [`AddressSpace::unmap_range`] took away is unmapped already.
    ///
    /// # Errors
    ///
    /// Those of the kernel, and [`ShortUnmap`](vfio_core::ErrorKind::ShortUnmap); [`Error::InUse`](crate::Error::InUse) if an
    /// [`AddressSpace::unmap_range`] that failed has left it in an unknown state. Memory and IOVA are leaked then.
    pub fn unmap(mut self) -> Result<()> {
        self.is_done = true;
        self.space.unmap_one(self.range, self.id)
    }
}

impl Drop for DmaMapping {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if let Err(error) = self.space.unmap_one(self.range, self.id) {
            tracing::error!(range = %self.range, %error, "not unmapped; memory and IOVA are leaked");
        }
    }
}
