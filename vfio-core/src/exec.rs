//! Handing no more to a program than it is to have.

use crate::{Error, ErrorKind};
use rustix::io::Errno;

/// Lets the kernel close all descriptors from `first` on when this process executes a program: also those that it was started with, which belong to none of
/// its own. What is given to a program on purpose is duplicated afterwards, as [`std::process::Command`] does.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] before Linux 5.11.
#[doc(alias = "close_range")]
pub fn close_on_exec(first: u32) -> Result<(), Error> {
    crate::sys::exec::close_on_exec(first).map_err(|errno| {
        let kind = match errno {
            Errno::NOSYS | Errno::INVAL => ErrorKind::Unsupported {
                errno,
                since: "Linux 5.11",
            },
            other => ErrorKind::from_errno(other),
        };
        Error::new("close_range", kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
    use std::os::fd::AsRawFd;

    #[test]
    fn what_a_program_was_started_with_is_not_handed_on() {
        let file = tempfile::tempfile().unwrap();
        // As one is that was inherited.
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        let number = u32::try_from(file.as_raw_fd()).unwrap();
        close_on_exec(number + 1).unwrap();
        assert_eq!(fcntl_getfd(&file).unwrap(), FdFlags::empty());
        close_on_exec(number).unwrap();
        assert_eq!(fcntl_getfd(&file).unwrap(), FdFlags::CLOEXEC);
        assert!(file.metadata().is_ok(), "it is open");
    }
}
