//! The log of dirty pages that type1 keeps. It knows what was pinned, not what was written: a page that a device may write counts as dirty.

use super::Container;
use crate::{DirtyBitmap, Error, ErrorKind};
use rustix::io::Errno;

const STEP: &str = "VFIO_IOMMU_DIRTY_PAGES";

impl Container {
    /// Begins to log the pages that devices may have written.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where [`ContainerInfo::dirty_logging`](crate::info::ContainerInfo::dirty_logging) is `None`.
    #[doc(alias = "VFIO_IOMMU_DIRTY_PAGES")]
    pub fn dirty_start(&self) -> Result<(), Error> {
        self.calls().dirty_start().map_err(failed)
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// As [`dirty_start`](Self::dirty_start).
    pub fn dirty_stop(&self) -> Result<(), Error> {
        self.calls().dirty_stop().map_err(failed)
    }

    /// Marks in `bitmap` the pages of its range that may have been written since they were last asked for. The range cuts no mapping, and the
    /// page size is the smallest that the container logs in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`] with EINVAL otherwise, or while nothing is logged; as [`dirty_start`](Self::dirty_start).
    #[doc(alias = "VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP")]
    pub fn dirty_bitmap(&self, bitmap: &mut DirtyBitmap) -> Result<(), Error> {
        let (iova, len, page_size) = (bitmap.range().start().0, bitmap.len_bytes(), bitmap.page_size());
        // The kernel wants zeros, and may overwrite what is set.
        let mut bits = vec![0; bitmap.words_mut().len()];
        self.calls()
            .dirty_get(iova, len, page_size, &mut bits)
            .map_err(failed)?;
        for (to, from) in bitmap.words_mut().iter_mut().zip(bits) {
            *to |= from;
        }
        Ok(())
    }
}

fn failed(errno: Errno) -> Error {
    let kind = match errno {
        Errno::NOTTY | Errno::OPNOTSUPP | Errno::NODEV => ErrorKind::Unsupported {
            errno,
            since: "Linux 5.8 with vfio_iommu_type1, not an iommufd in its place",
        },
        other => ErrorKind::from_errno(other),
    };
    Error::new(STEP, kind)
}
