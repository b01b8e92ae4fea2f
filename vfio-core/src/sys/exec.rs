//! What a program gets of this process's open files when it is executed: `close_range(2)`.

use super::Result;
use rustix::io::Errno;

/// Marks the descriptors from `first` on as Rust's own are from the beginning.
pub(crate) fn close_on_exec(first: u32) -> Result<()> {
    let (first, last) = (libc::c_ulong::from(first), libc::c_ulong::from(u32::MAX));
    let flags = libc::c_ulong::from(libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: with this flag nothing is closed, and no memory is involved: each owner keeps what it has.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if answer == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::NOSYS))
}
