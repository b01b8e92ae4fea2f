//! A value read from the machine, or why it is not known.

use std::fmt;
use std::path::{Path, PathBuf};

/// A value, or the reason why it could not be read. Optional values are `Reading<Option<T>>`: `Ok(None)` means "the kernel
/// says there is none", `Err` means "we do not know".
pub type Reading<T> = Result<T, Unknown>;

/// Why a value is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// The file that would have told.
    pub path: Box<Path>,
    /// What was wrong with it.
    pub reason: Reason,
}

/// What was wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The reader was not asked for this field.
    NotRead,
    /// The file should exist and does not.
    Missing,
    /// Reading needs a privilege that this process lacks.
    Denied,
    /// The file was read and makes no sense; holds what was found (shortened).
    Malformed(Box<str>),
    /// The read did not come back in time.
    TimedOut,
    /// Any other error of the operating system.
    Io(i32),
}

impl Unknown {
    /// A field that the caller did not ask for.
    #[must_use]
    pub fn not_read(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into().into(),
            reason: Reason::NotRead,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRead => f.write_str("not read"),
            Self::Missing => f.write_str("no such file"),
            Self::Denied => f.write_str("permission denied"),
            Self::Malformed(found) => write!(f, "malformed: {found:?}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Io(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for Unknown {}
