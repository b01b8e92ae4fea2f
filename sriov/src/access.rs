//! The way to sysfs files whose access may block in the kernel, with a deadline.
//!
//! `sriov_numvfs`, `driver_override`, `unbind`, `bind`, `drivers_probe` and `reset` take the device lock, some for reading too.
//! While vfio waits for the process that holds a function, that lock is taken, without limit, and the waiter cannot be killed.
//! [`Access`] is what the rest of the crate sees; [`WorkerAccess`](crate::WorkerAccess) does the access in another process.

use crate::PolicyRoutes;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// Access to files below a root; paths are relative to it (`sys/bus/pci/drivers_probe`).
///
/// [`read`](Self::read), [`write`](Self::write), [`replace`](Self::replace), [`is_claimed`](Self::is_claimed) and [`policy_routes`](Self::policy_routes) may block in the kernel and so have a limit. The others must not be used for
/// what blocks: links, names and existence are answered by kernfs and devtmpfs themselves, which take no device lock.
pub trait Access: fmt::Debug {
    /// The file's text without trailing newlines.
    ///
    /// # Errors
    /// A [`Failure`]; after [`Failure::TimedOut`] the access may still happen later.
    fn read(&mut self, path: &Path, limit: Duration) -> Result<String, Failure>;

    /// Writes `value` in one `write(2)`; an empty value as a newline, since a write of no bytes does not reach the kernel.
    ///
    /// # Errors
    /// A [`Failure`]; after [`Failure::TimedOut`] and [`Failure::Worker`] the write may have happened, or happen later.
    fn write(&mut self, path: &Path, value: &str, limit: Duration) -> Result<(), Failure>;

    /// Writes `value` as [`write`](Self::write) does and reads what is there then: at once, where asking costs more than doing.
    ///
    /// # Errors
    /// Those of writing. What cannot be read is empty.
    fn replace(&mut self, path: &Path, value: &str, limit: Duration) -> Result<String, Failure> {
        self.write(path, value, limit)?;
        Ok(self.read(path, limit).unwrap_or_default())
    }

    /// Whether the kernel refuses the block device at `path` (`dev/NAME`) to us because somebody has it, or a partition of it, for
    /// himself (`O_EXCL`). A disk that is on its way out may keep us waiting.
    ///
    /// # Errors
    /// A [`Failure`]; ENOTBLK for anything but a block device.
    fn is_claimed(&mut self, path: &Path, limit: Duration) -> Result<bool, Failure>;

    /// The routes of IPv4 in tables other than main, by interface. Answering may wait for a driver that comes or goes.
    ///
    /// # Errors
    /// A [`Failure`]
    fn policy_routes(&mut self, limit: Duration) -> Result<Vec<PolicyRoutes>, Failure>;

    /// The last component of a symbolic link's target; `None` when there is no such link.
    ///
    /// # Errors
    /// [`Failure::Errno`], also when the path is no link.
    fn link(&mut self, path: &Path) -> Result<Option<String>, Failure>;

    /// The names in a directory, sorted; empty when there is no such directory.
    ///
    /// # Errors
    /// [`Failure::Errno`]
    fn names(&mut self, path: &Path) -> Result<Vec<String>, Failure>;

    /// Whether the path, links followed, leads to something.
    ///
    /// # Errors
    /// [`Failure::Errno`]
    fn exists(&mut self, path: &Path) -> Result<bool, Failure>;

    /// Opens the node of a VFIO group (`dev/vfio/N`), which at most one process can have open at a time. That keeps everybody else
    /// from the group's functions, and does not keep the kernel from removing them: it waits for devices, not for groups.
    ///
    /// # Errors
    /// [`Failure::Errno`]; EBUSY when somebody has the group, or one of its functions through its character device.
    fn claim(&mut self, path: &Path) -> Result<OwnedFd, Failure>;
}

/// Why an access failed. Which function and step it was for is added once, by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The kernel's answer.
    Errno(i32),
    /// The kernel did not answer within this time.
    TimedOut(Duration),
    /// The process that serves the accesses could not be started, or ended.
    Worker(String),
}

/// How long the kernel is given for one access. A deadline only bounds what is never going to end, so each is several times
/// what the slowest device seen needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Any read, and writing an attribute that only stores a value. Default 10 s.
    pub attribute: Duration,
    /// A driver's probe or remove: `bind`, `drivers_probe`, `unbind`. Default 180 s: a disk may take 127.5 s to
    /// become ready (`CAP.TO`, NVM Express Base 2.0 §3.1.3.1).
    pub driver: Duration,
    /// Writing `sriov_numvfs`, which probes or removes every VF, one after the other. Default 600 s, more than one driver gets.
    pub count: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            attribute: Duration::from_secs(10),
            driver: Duration::from_secs(180),
            count: Duration::from_secs(600),
        }
    }
}

impl Failure {
    /// The failure as an errno of the operating system, if it is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Errno(errno) => Some(*errno),
            Self::TimedOut(_) | Self::Worker(_) => None,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Errno(error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Errno(errno.raw_os_error())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            Self::TimedOut(after) => write!(f, "no answer within {:.1} s", after.as_secs_f64()),
            Self::Worker(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::Deadlines;

    #[test]
    fn many_probes_get_more_time_than_one_and_one_more_than_a_plain_read() {
        let Deadlines {
            attribute,
            driver,
            count,
        } = Deadlines::default();
        assert!(attribute < driver && driver < count);
    }
}
