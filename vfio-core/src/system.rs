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

    /// How much memory the process may lock (RLIMIT_MEMLOCK), in bytes; `None` without a limit, or with CAP_IPC_LOCK. What devices may
    /// reach counts as locked.
    #[must_use]
    #[doc(alias = "getrlimit")]
    pub fn memlock_limit(&self) -> Option<u64> {
        self.files.memlock_limit()
    }

    /// How much memory the process has locked and pinned, in bytes (`VmLck` and `VmPin`). At least one of them counts against the limit: type1
    /// counts the first, iommufd the second, and with it what the user's other processes have pinned, which nobody can read.
    #[must_use]
    pub fn memlock_used(&self) -> u64 {
        self.files.memlock_used().max(self.files.pinned())
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
