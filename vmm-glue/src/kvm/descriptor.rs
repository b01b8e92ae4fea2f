//! Descriptors between owners.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use vfio_core::EventFd;

/// Gives a descriptor to a type that owns one.
pub(super) fn adopt<T: FromRawFd>(fd: OwnedFd) -> T {
    // SAFETY: the descriptor is open and nobody else's: it was ours until now.
    unsafe { T::from_raw_fd(fd.into_raw_fd()) }
}

/// A second descriptor of the same file.
pub(super) fn duplicate(owner: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: the owner is alive until the end of this function, and its descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) };
    fd.try_clone_to_owned()
}

/// Lets `use_it` have an event as the kind that `kvm-ioctls` takes.
pub(super) fn lend<R>(event: &EventFd, use_it: impl FnOnce(&vmm_sys_util::eventfd::EventFd) -> R) -> R {
    // SAFETY: the event is open until the end of this function, and what is made here is never dropped, so it does not close it.
    let lent = unsafe { vmm_sys_util::eventfd::EventFd::from_raw_fd(event.as_fd().as_raw_fd()) };
    use_it(&ManuallyDrop::new(lent))
}
