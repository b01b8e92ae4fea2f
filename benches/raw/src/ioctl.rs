//! One `ioctl(2)` with a structure that the kernel reads and writes.

use rustix::ioctl::{Opcode, Updater, ioctl};
use std::io;
use std::os::fd::BorrowedFd;

/// Makes a request.
///
/// # Safety
///
/// `T` is the structure that the kernel knows for this number, and addresses in it are of memory that stays as long as the kernel uses it.
#[inline]
pub(crate) unsafe fn call<const NUMBER: Opcode, T>(file: BorrowedFd<'_>, argument: &mut T) -> io::Result<()> {
    // SAFETY: promised by the caller.
    let request = unsafe { Updater::<NUMBER, T>::new(argument) };
    // SAFETY: promised by the caller.
    unsafe { ioctl(file, request) }?;
    Ok(())
}

/// Bytes of a structure, as it says itself.
pub(crate) const fn size<T>() -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "no structure of the uapi is longer than a hundred bytes"
    )]
    let size = size_of::<T>() as u32;
    size
}
