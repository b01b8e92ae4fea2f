//! `ioctl(2)`: a request with a structure, a buffer or a number behind it.
//!
//! Opcodes are made by [`rustix::ioctl::opcode`]; both headers use `_IO(group, number)` for all their requests.

use super::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use std::ffi::c_void;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

/// Makes a request whose argument is a structure, or a structure and what follows it as one buffer. Returns ioctl's own value.
///
/// # Safety
///
/// The kernel reads and writes nothing but `arg`, as far as it says it is long, and what addresses in it point to: these are
/// valid for that access during the call, or belong to a mapping that stays as long as the kernel uses it. Whatever the kernel
/// writes is a valid value of `T`.
pub(crate) unsafe fn call<T: ?Sized>(file: BorrowedFd<'_>, opcode: Opcode, arg: &mut T) -> Result<i32> {
    let request = Request {
        opcode,
        arg: std::ptr::from_mut(arg).cast(),
    };
    // SAFETY: promised by the caller.
    unsafe { rustix::ioctl::ioctl(file, request) }
}

/// Makes a request whose argument is a number, 0 for one without an argument. Returns ioctl's own value.
///
/// # Safety
///
/// The kernel takes the argument of this request as a number.
pub(crate) unsafe fn call_number(file: BorrowedFd<'_>, opcode: Opcode, number: usize) -> Result<i32> {
    let request = Request {
        opcode,
        arg: std::ptr::without_provenance_mut(number),
    };
    // SAFETY: promised by the caller; no memory is behind the number.
    unsafe { rustix::ioctl::ioctl(file, request) }
}

/// Takes over a descriptor that a request returned.
///
/// # Safety
///
/// The kernel has just opened `number` for this call, and nobody else owns it.
pub(crate) unsafe fn owned(number: i32) -> OwnedFd {
    // SAFETY: promised by the caller.
    unsafe { OwnedFd::from_raw_fd(number) }
}

struct Request {
    opcode: Opcode,
    arg: *mut c_void,
}

// SAFETY: opcode and argument are handed on as they are and the value is taken as it comes; that they belong together is
// promised by the callers of the functions above, the only ones who make a `Request`.
unsafe impl Ioctl for Request {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.arg
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<IoctlOutput> {
        Ok(out)
    }
}
