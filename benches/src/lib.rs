//! Benchmarks of the device path, and what they share: a large machine to measure on, the tool against other programs, and the
//! report of all that was measured.
#![forbid(unsafe_code)]

pub mod aims;
pub mod baseline;
pub mod causes;
pub mod counts;
#[cfg(feature = "device")]
pub mod device;
pub mod list;
pub mod meter;
pub mod named;
pub mod ops;
pub mod peers;
pub mod program;
pub mod record;
pub mod report;
pub mod samples;

use system_tests::tree::{Tree, server};
use tempfile::TempDir;

/// A generated machine in memory that goes away with it.
#[derive(Debug)]
pub struct Machine {
    /// Its files.
    pub tree: Tree,
    /// How many functions it has.
    pub functions: usize,
    _directory: TempDir,
}

impl Machine {
    /// A server with so many functions.
    ///
    /// # Errors
    /// What the file system says: each function takes some 130 KiB of it.
    pub fn of(functions: usize) -> std::io::Result<Self> {
        let directory = in_memory()?;
        Ok(Self {
            tree: Tree::of(directory.path(), &server(functions))?,
            functions,
            _directory: directory,
        })
    }
}

/// A directory that goes away with the value. Not the disk is to be measured.
fn in_memory() -> std::io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}
