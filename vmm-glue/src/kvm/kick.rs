//! A signal for the thread of a processor, so that it leaves the guest.

use crate::{Error, ErrorKind, Result};
use std::ffi::{c_int, c_void};
use std::thread::JoinHandle;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal};

/// Makes the signal harmless to the process, which it would end otherwise. System calls that wait are not begun again: that is the point.
pub(crate) fn prepare() -> Result<()> {
    let registered = register_signal_handler(SIGRTMIN(), handle);
    registered.map_err(|error| Error::new("sigaction", ErrorKind::Io(error.into())))
}

/// Lets the calling thread have it, whatever it has inherited.
pub(crate) fn listen() {
    if let Err(error) = unblock_signal(SIGRTMIN()) {
        tracing::warn!(%error, "a processor's thread may not be stopped");
    }
}

/// Sends it. A thread that is just about to enter the guest is not stopped by it: to be repeated until it has answered.
pub(crate) fn kick<T>(thread: &JoinHandle<T>) {
    if let Err(error) = thread.kill(SIGRTMIN()) {
        tracing::debug!(%error, "a processor's thread takes no signal");
    }
}

/// There is nothing to do: that it came is enough.
extern "C" fn handle(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}
