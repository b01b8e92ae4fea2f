//! A value read from the machine, or why it is not known.

use rustix::io::Errno;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A value, or the reason why it could not be read. Optional values are `Reading<Option<T>>`: `Ok(None)` means "the kernel
/// says there is none", `Err` means "we do not know".
pub type Reading<T> = Result<T, Unknown>;

/// Why a value is not known. Cheap to clone, and as small as a pointer: a snapshot of a large machine has room for very many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown(Arc<(PathBuf, Reason)>);

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
    /// The path leads out of the tree that is read: an absolute link, or one with too many `..`.
    OutsideRoot,
    /// Something else lies where a regular file should: a directory, FIFO, socket or device node.
    NotAFile,
    /// The file is longer than anything that belongs there; holds the limit in bytes.
    TooLarge(usize),
    /// The read did not come back in time.
    TimedOut,
    /// Any other error of the operating system.
    Io(i32),
}

impl Unknown {
    /// A field that the caller did not ask for.
    #[must_use]
    pub fn not_read(path: impl Into<PathBuf>) -> Self {
        Reason::NotRead.at(path)
    }

    /// The file that would have told; empty where no single file would.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.0
    }

    /// What was wrong with it.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.0.1
    }

    /// Whether the file does not exist, as opposed to being unreadable.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        *self.reason() == Reason::Missing
    }
}

impl Reason {
    /// A text that does not follow its format; keeps the beginning of it.
    #[must_use]
    pub fn malformed(found: &str) -> Self {
        const SHOWN: usize = 80;
        Self::Malformed(found.chars().take(SHOWN).collect())
    }

    /// The same reason with the file it is about.
    #[must_use]
    pub fn at(self, path: impl Into<PathBuf>) -> Unknown {
        Unknown(Arc::new((path.into(), self)))
    }
}

impl From<Errno> for Reason {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Missing,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::XDEV => Self::OutsideRoot,
            Errno::ISDIR => Self::NotAFile,
            other => Self::Io(other.raw_os_error()),
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
            Self::OutsideRoot => f.write_str("leads out of the tree"),
            Self::NotAFile => f.write_str("not a regular file"),
            Self::TooLarge(limit) => write!(f, "longer than {limit} bytes"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Io(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path().as_os_str().is_empty() {
            return self.reason().fmt(f);
        }
        write!(f, "{}: {}", self.path().display(), self.reason())
    }
}

impl std::error::Error for Unknown {}
