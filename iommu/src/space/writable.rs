//! Spaces in which everything is mapped for writing.

use super::AddressSpace;
use crate::{Error, Result};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use vfio_core::Access;

/// As long as it lives, the space maps nothing for reading only.
#[derive(Debug)]
pub(crate) struct AllWritable(AddressSpace);

const READ_ONLY: Error = Error::Unsupported(
    "mapping for reading only in a space that guests' tables nest under on this VT-d (erratum 772415); map for writing too",
);

impl AddressSpace {
    /// Refuses mappings for reading only from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there is one.
    pub(crate) fn all_writable(&self) -> Result<AllWritable> {
        let _alone = self.shared.gate.write().unwrap_or_else(PoisonError::into_inner);
        if crate::sync::locked(&self.shared.mappings)
            .sorted()
            .values()
            .any(|entry| !entry.access.contains(Access::WRITE))
        {
            return Err(READ_ONLY);
        }
        self.shared.all_writable.fetch_add(1, Ordering::Relaxed);
        Ok(AllWritable(self.clone()))
    }

    /// Whether something may be mapped like this. To be asked with the gate held until it is entered.
    pub(super) fn check_access(&self, access: Access) -> Result<()> {
        let is_refused = !access.contains(Access::WRITE) && self.shared.all_writable.load(Ordering::Relaxed) > 0;
        if is_refused { Err(READ_ONLY) } else { Ok(()) }
    }
}

impl Drop for AllWritable {
    fn drop(&mut self) {
        self.0.shared.all_writable.fetch_sub(1, Ordering::Relaxed);
    }
}
