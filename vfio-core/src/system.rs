//! Where files are opened: the running kernel, or a machine in memory.

use crate::sys::Files;
use std::fmt;
use std::sync::Arc;

/// The kernel that answers. Cheap to clone.
#[derive(Clone)]
pub struct System {
    files: Arc<dyn Files>,
}

impl System {
    /// The running kernel.
    #[must_use]
    pub fn host() -> Self {
        Self {
            files: Arc::new(crate::sys::Host),
        }
    }

    #[cfg(feature = "fake")]
    pub(crate) fn from_files(files: Arc<dyn Files>) -> Self {
        Self { files }
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
