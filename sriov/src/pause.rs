//! Pauses between two looks at something that tells nobody when it changes, and durations as the kernel takes them.

use rustix::event::{Timespec, poll};
use std::time::{Duration, Instant};

/// Pauses that double from a first one up to a longest one.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// Pauses once, not beyond `until`; `false` when that has passed already.
    pub(crate) fn wait(&mut self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        // An error is an interruption, which only makes the pause shorter.
        let _interrupted = poll(&mut [], Some(&timespec(self.next.min(left)))).is_err();
        self.next = (self.next * 2).min(self.longest);
        true
    }
}

/// A duration for the kernel; what does not fit waits for as long as the kernel can count.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
