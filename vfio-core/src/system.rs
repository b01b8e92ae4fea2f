//! Where files are opened: the running kernel, or a machine in memory.

use crate::sys::Files;
use pci::Sysfs;
use std::fmt;
use std::sync::Arc;

/// The kernel that answers. Cheap to clone.
#[derive(Clone)]
pub struct System {
    files: Arc<dyn Files>,
    sysfs: Option<Sysfs>,
}

impl System {
    /// The running kernel.
    #[must_use]
    pub fn host() -> Self {
        Self {
            files: Arc::new(crate::sys::Host),
            sysfs: Some(Sysfs::host()),
        }
    }

    #[cfg(feature = "fake")]
    pub(crate) fn from_files(files: Arc<dyn Files>, sysfs: Option<Sysfs>) -> Self {
        Self { files, sysfs }
    }

    /// Where the reasons of a refusal are looked up; a machine in memory may have no such place.
    pub(crate) fn sysfs(&self) -> Option<&Sysfs> {
        self.sysfs.as_ref()
    }

    pub(crate) fn files(&self) -> &dyn Files {
        &*self.files
    }
}

impl Default for System {
    fn default() -> Self {
        Self::host()
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}
