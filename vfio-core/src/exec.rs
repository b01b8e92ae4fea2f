//! Handing no more to a program than it is to have.

use crate::{Error, ErrorKind, sys};
use rustix::io::Errno;
use std::io;

/// Lets the kernel close all descriptors from `first` on when this process executes a program: also those that it was started with, which belong to none of
/// its own. What is given to a program on purpose is duplicated afterwards, as [`std::process::Command`] does.
///
/// Where the kernel has no call for all of them (before Linux 5.11) or a filter does not let this program make it, as those of some containers, each is
/// marked that `/proc/self/fd` lists.
///
/// # Errors
///
/// That of `/proc`, where it is needed and not mounted.
#[doc(alias = "close_range")]
pub fn close_on_exec(first: u32) -> Result<(), Error> {
    match sys::exec::close_on_exec(first) {
        Ok(()) => Ok(()),
        Err(errno) => {
            tracing::debug!("close_range: {errno}; /proc/self/fd is read instead");
            mark_each(first)
        }
    }
}

fn mark_each(first: u32) -> Result<(), Error> {
    let failed = |error: io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Error::new("read /proc/self/fd", ErrorKind::from_errno(errno))
    };
    for entry in std::fs::read_dir("/proc/self/fd").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|number| u32::try_from(*number).is_ok_and(|number| number >= first)) else {
            continue;
        };
        match sys::exec::close_one_on_exec(number) {
            // Somebody has closed it meanwhile.
            Ok(()) | Err(Errno::BADF) => {}
            Err(errno) => return Err(Error::new("fcntl", ErrorKind::from_errno(errno))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
    use std::os::fd::AsRawFd;

    /// One test: what the two mark belongs to the whole process.
    #[test]
    fn what_a_program_was_started_with_is_not_handed_on_with_one_call_or_one_at_a_time() {
        let file = tempfile::tempfile().unwrap();
        let number = u32::try_from(file.as_raw_fd()).unwrap();
        for mark_from in [close_on_exec, mark_each] {
            // As one is that was inherited.
            fcntl_setfd(&file, FdFlags::empty()).unwrap();
            mark_from(number + 1).unwrap();
            assert_eq!(fcntl_getfd(&file).unwrap(), FdFlags::empty());
            mark_from(number).unwrap();
            assert_eq!(fcntl_getfd(&file).unwrap(), FdFlags::CLOEXEC);
            assert!(file.metadata().is_ok(), "it is open");
        }
    }
}
