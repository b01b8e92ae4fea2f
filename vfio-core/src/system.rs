//! Where files are opened: the running kernel, or a machine in memory.

use crate::ErrorKind;
use crate::sys::Files;
use pci::Sysfs;
use std::fmt;
use std::sync::Arc;

/// The step of those who ask before they lock.
pub(crate) const CHECK_MEMLOCK: &str = "check RLIMIT_MEMLOCK";

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

    /// Why no `len` bytes more may be locked where `used` count, if RLIMIT_MEMLOCK is in the way.
    pub(crate) fn memlock_exceeded(&self, used: u64, len: u64) -> Option<ErrorKind> {
        let limit = self.files.memlock_limit()?;
        let need = used.saturating_add(len);
        (need > limit).then_some(ErrorKind::MemlockExceeded { need, limit })
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
