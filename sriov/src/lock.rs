//! One change of the machine at a time: [`Lock`] is a `flock(2)` on a file that names its owner.
//!
//! The kernel drops the lock with the process, however it ends. The file stays; its text only counts while the lock is taken.

use crate::pause::Backoff;
use crate::{Error, ErrorKind, Failure, Owner};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// The right to change the machine; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock in the directory `state`, which is created for the owner alone when it does not exist. `command` tells others
    /// what runs here. When another process has the lock, `notice` is called once and it is waited for at most `limit`.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the other process has it still after `limit`; [`ErrorKind::Denied`] for the directory.
    pub fn acquire(
        state: &Path,
        command: &str,
        limit: Duration,
        notice: &mut dyn FnMut(Option<&Owner>),
    ) -> Result<Self, Error> {
        create_private_dir(state)?;
        let path = state.join("lock");
        let failed = |e: Failure| Error::new(None, format!("lock {}", path.display()), e.into());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(e.into()))?;
        let until = Instant::now() + limit;
        let mut pause = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));
        let mut noticed = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(e) => return Err(failed(e.into())),
            }
            let owner = read_owner(&mut file);
            if !noticed {
                notice(owner.as_ref());
                noticed = true;
            }
            if !pause.wait(until) {
                let step = format!("lock {}", path.display());
                return Err(Error::new(None, step, ErrorKind::Busy { owner }));
            }
        }
        write_owner(&mut file, command).map_err(|e| failed(e.into()))?;
        Ok(Self { _file: file })
    }
}

fn write_owner(file: &mut File, command: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    // A command line may hold anything; the owner is one line.
    let command: String = command.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    file.write_all(format!("{} {command}\n", std::process::id()).as_bytes())
}

/// `None` while the owner is just writing its name.
fn read_owner(file: &mut File) -> Option<Owner> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    let (pid, command) = text.trim_end().split_once(' ')?;
    Some(Owner {
        pid: pid.parse().ok()?,
        command: command.to_owned(),
    })
}

/// Creates a directory and its missing parents, for its owner alone.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::new(None, format!("mkdir {}", path.display()), Failure::from(e).into()))
}
