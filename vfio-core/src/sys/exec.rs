//! What a program gets of this process's open files when it is executed: `close_range(2)`, `fcntl(2)`.

use super::Result;
use rustix::io::Errno;
use std::ffi::c_int;

/// Marks the descriptors from `first` on as Rust's own are from the beginning.
pub(crate) fn close_on_exec(first: u32) -> Result<()> {
    let (first, last) = (libc::c_ulong::from(first), libc::c_ulong::from(u32::MAX));
    let flags = libc::c_ulong::from(libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: with this flag nothing is closed, and no memory is involved: each owner keeps what it has.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    outcome(answer == 0)
}

/// Marks one, which may be nobody's of this program.
pub(crate) fn close_one_on_exec(number: c_int) -> Result<()> {
    // SAFETY: with this command nothing is closed, and no memory is involved: its owner keeps what it has.
    let answer = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    outcome(answer == 0)
}

fn outcome(is_done: bool) -> Result<()> {
    if is_done {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::NOSYS))
}
