//! IOVAs that are taken while nothing, or not always the same, is mapped there.

use super::AddressSpace;
use crate::IovaRange;

/// IOVAs that nobody else gets. Given back when dropped, after what was mapped there; leaked as a whole if some of that was not unmapped.
#[derive(Debug)]
pub(crate) struct Reservation {
    space: AddressSpace,
    range: IovaRange,
    is_kept: bool,
}

impl Reservation {
    pub(super) fn new(space: AddressSpace, range: IovaRange) -> Self {
        Self {
            space,
            range,
            is_kept: false,
        }
    }

    pub(crate) fn range(&self) -> IovaRange {
        self.range
    }

    /// Leaves it to a mapping to give them back.
    pub(super) fn hand_over(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let shared = &self.space.shared;
        if shared.check_leaked(self.range).is_err() {
            return shared.leak(self.range);
        }
        if let Err(error) = shared.release(self.range) {
            tracing::error!(range = %self.range, %error, "IOVAs could not be given back");
        }
    }
}
