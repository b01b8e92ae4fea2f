//! The only way from this crate to a file: a root directory under which `sys/`, `proc/` and `dev/` lie.

use std::path::{Path, PathBuf};

/// A handle on a system tree: the running machine (`/`) or a captured one.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// The running machine.
    #[must_use]
    pub fn host() -> Self {
        Self::at("/")
    }

    /// The tree below `root`: expects `root/sys/bus/pci`, and for some questions `root/proc` and `root/dev`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the running machine and not a captured tree.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The path of a file given relative to the root (`sys/bus/pci/devices`); a leading slash is ignored.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        let relative = relative.as_ref();
        self.root.join(relative.strip_prefix("/").unwrap_or(relative))
    }
}
