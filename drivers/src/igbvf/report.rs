//! How the device says how far it has got with what it sends, and what if it does not.

use super::function::Function;
use super::regs;
use crate::Backing;
use std::time::Duration;

/// How the device says how far it has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// It marks the last descriptor of a batch as done.
    Descriptor,
    /// It writes its head to a place in memory (82576 datasheet §7.2.3). QEMU's device goes on with that after a reset, so that the next driver
    /// waits in vain if this process is killed.
    Head,
}

impl Report {
    /// TXDCTL: prefetch below 8 descriptors, one at a time.
    pub(super) fn control(self) -> u32 {
        let threshold = match self {
            // A VF of the 82576 at times marks no descriptor without a threshold, which is why DPDK's driver sets it, too.
            Self::Descriptor => 1,
            // Nothing may be held back when the head is written (§7.2.3).
            Self::Head => 0,
        };
        8 | 1 << 8 | threshold << 16
    }
}

/// The clock is looked at once in so many polls that find nothing.
const IDLE_POLLS: u32 = 256;
/// How long the device may take to report, while there is a link.
const STALLED: Duration = Duration::from_secs(2);

/// Looks out for reports that are overdue.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Polls that found nothing since the clock was looked at.
    idles: u32,
    /// Since when a report is waited for, as first seen.
    since: Option<Duration>,
}

impl Watch {
    /// There was a report, or none is waited for.
    #[inline]
    pub(super) fn calm(&mut self) {
        self.since = None;
    }

    /// A poll found nothing; whether to [look](Self::is_overdue).
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        self.idles += 1;
        self.idles >= IDLE_POLLS
    }

    /// Whether a report is overdue that is waited for. Without a link nothing is sent, and nothing reported.
    #[cold]
    pub(super) fn is_overdue<B: Backing>(&mut self, function: &Function<B>) -> bool {
        self.idles = 0;
        if !function.registers.read(regs::STATUS).is_up() {
            self.since = None;
            return false;
        }
        let now = function.backing.now();
        now.saturating_sub(*self.since.get_or_insert(now)) > STALLED
    }
}
