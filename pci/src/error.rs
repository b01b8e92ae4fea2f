//! The crate's error: which step, on which device, went wrong how.

use crate::Bdf;
use std::path::PathBuf;

/// What went wrong, where. Only failures of the whole request are errors; a single unreadable value is an
/// [`Unknown`](crate::Unknown) inside the result.
#[derive(Debug, thiserror::Error)]
#[error("{}{step}: {kind}", .device.map(|d| format!("{d}: ")).unwrap_or_default())]
pub struct Error {
    /// The function concerned, if one is.
    pub device: Option<Bdf>,
    /// The step, in the kernel's words (`read /sys/bus/pci/devices`).
    pub step: String,
    /// What happened.
    pub kind: ErrorKind,
}

/// The kinds of failure that callers may tell apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no PCI bus under this root.
    #[error("no PCI bus at {}", .0.display())]
    NoPciBus(PathBuf),
    /// Permission denied.
    #[error("permission denied")]
    Denied,
    /// The path is not inside the root.
    #[error("path {} leaves the root", .0.display())]
    OutsideRoot(PathBuf),
    /// Text that does not follow its format; line (1-based) and what is wrong.
    #[error("line {line}: {what}")]
    Syntax {
        /// Line number, from 1.
        line: usize,
        /// What was expected.
        what: String,
    },
    /// Any other error of the operating system.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Io(i32),
}

impl Error {
    /// What the user can do about it.
    #[must_use]
    pub fn fix(&self) -> Option<&'static str> {
        match self.kind {
            ErrorKind::NoPciBus(_) => Some("run on a machine with a PCI bus, or give a captured tree with --sysroot"),
            ErrorKind::Denied => Some("run as root"),
            _ => None,
        }
    }
}
