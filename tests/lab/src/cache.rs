//! Where the lab keeps what it fetched and built: `$XDG_CACHE_HOME/sriovctl-lab`.

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The cache directory. Entries are made beside their place and moved in whole, so one that exists is complete.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache.
    ///
    /// # Errors
    /// When neither `XDG_CACHE_HOME` nor `HOME` says where that is, or it cannot be created.
    pub fn of_user() -> Result<Self> {
        let base = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
                .join(".cache"),
        };
        Self::at(std::path::absolute(base)?.join("sriovctl-lab"))
    }

    /// A cache in that directory.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        Ok(Self { root })
    }

    /// The path of an entry.
    #[must_use]
    pub fn path(&self, entry: impl AsRef<Path>) -> PathBuf {
        self.root.join(entry)
    }

    /// Waits until no other process sets the lab up in this cache; the lock ends with the returned file.
    ///
    /// # Errors
    /// When the lock file cannot be created.
    pub fn lock(&self, on_wait: impl FnOnce()) -> Result<File> {
        let file = File::create(self.path("lock"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            on_wait();
            flock(&file, FlockOperation::LockExclusive)?;
        }
        Ok(file)
    }

    /// Makes a directory entry: `fill` gets an empty directory, which takes the entry's place when it returns `Ok`.
    ///
    /// # Errors
    /// Those of `fill`, and those of the file system.
    pub fn make(&self, entry: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let place = self.path(entry);
        let beside = self.scratch()?;
        fill(beside.path())?;
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", place.display()));
            }
            _ => {}
        }
        fs::rename(beside.keep(), &place).with_context(|| format!("move {} into place", place.display()))?;
        Ok(place)
    }

    /// A directory for work under way, removed when dropped.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn scratch(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("partial-").tempdir_in(&self.root)?)
    }

    /// Reads a small record; `None` when there is none or it is of another version.
    #[must_use]
    pub fn record<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_reader(File::open(self.path(name)).ok()?).ok()
    }

    /// Writes a small record, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn set_record<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.root)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.persist(self.path(name))?;
        Ok(())
    }
}

/// A short name for a set of inputs: equal inputs, equal name.
#[must_use]
pub(crate) fn key(inputs: &[&str]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        hash.update(input.len().to_le_bytes());
        hash.update(input.as_bytes());
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_could_not_be_filled_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        assert!(cache.make("entry", |_| anyhow::bail!("no")).is_err());
        assert!(!cache.path("entry").exists());
        let place = cache
            .make("entry", |path| Ok(fs::create_dir(path.join("inside"))?))
            .unwrap();
        assert!(place.join("inside").is_dir());
    }

    #[test]
    fn keys_tell_inputs_apart_by_their_borders() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }
}
