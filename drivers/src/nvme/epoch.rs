//! One word that says whether what was made of a controller is still good.
//!
//! Queues look at it with one load for each command. Whoever resets the controller changes it, and never touches a queue: its owner sees that
//! the word is another one and takes care of the queue himself.

use std::sync::atomic::{AtomicU64, Ordering};

/// The word of a controller: how often namespaces have changed (bits 63:32), how often it was reset (31:2), its state (1:0).
#[derive(Debug, Default)]
pub(crate) struct Epoch(AtomicU64);

/// The word as it was at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u64);

/// What a controller does, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It executes commands.
    Running,
    /// It is being reset: it may still do DMA.
    Resetting,
    /// It was shut down, or could not be reset. Whether it does DMA is for `Backing::quiesce` to say.
    Stopped,
    /// It is not there any more, or somebody waits for it to be closed and what was asked of it is done.
    Gone,
}

const STATE: u64 = 0b11;
const RESETS: u64 = 0xffff_fffc;
const ONE_RESET: u64 = 1 << 2;
const ONE_CHANGE: u64 = 1 << 32;

impl Epoch {
    /// For every command. Relaxed: an owner who sees the change late has rung a doorbell of a queue that is no more, and no memory is given
    /// back before [`current`](Self::current) was asked.
    #[inline]
    pub(crate) fn glance(&self) -> Moment {
        Moment(self.0.load(Ordering::Relaxed))
    }

    /// Acquire: whoever sees that a reset is over sees what it has left.
    pub(crate) fn current(&self) -> Moment {
        Moment(self.0.load(Ordering::Acquire))
    }

    /// Says that a reset is over: the controller has been seen not ready (CSTS.RDY = 0), and runs again. False, and nothing has changed, if it
    /// was stopped or has gone meanwhile.
    #[must_use]
    pub(crate) fn restarted(&self) -> bool {
        self.change(|word| {
            let resets = word.wrapping_add(ONE_RESET) & RESETS;
            let is_resetting = Moment(word).state() == State::Resetting;
            is_resetting.then_some(word & !(RESETS | STATE) | resets | State::Running as u64)
        })
    }

    /// Says what the controller does, if that is as bad as what it does already, or worse: only [`restarted`](Self::restarted) leads back.
    /// False if it is not.
    pub(crate) fn set(&self, state: State) -> bool {
        self.change(|word| (word & STATE <= state as u64).then_some(word & !STATE | state as u64))
    }

    /// Says that formats or capacities of namespaces have changed: what was known of them is not true any more.
    pub(crate) fn namespaces_changed(&self) {
        self.change(|word| Some(word.wrapping_add(ONE_CHANGE)));
    }

    fn change(&self, new: impl Fn(u64) -> Option<u64>) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, new).is_ok()
    }
}

impl Moment {
    /// As no epoch ever is: nothing runs in it.
    pub(crate) const NEVER: Self = Self(RESETS | State::Stopped as u64);

    pub(crate) fn state(self) -> State {
        match self.0 & STATE {
            0 => State::Running,
            1 => State::Resetting,
            2 => State::Stopped,
            _ => State::Gone,
        }
    }

    /// Whether the controller has neither been reset nor changed its state in between.
    #[inline]
    pub(crate) fn is_same_run(self, other: Self) -> bool {
        (self.0 ^ other.0) & (RESETS | STATE) == 0
    }

    /// Whether a reset has ended in between: then nothing from before it is under way.
    pub(crate) fn is_reset_since(self, before: Self) -> bool {
        (self.0 ^ before.0) & RESETS != 0
    }

    /// How often namespaces have changed. Facts about a namespace are good as long as this is what it was when they were read.
    #[inline]
    pub(crate) fn changes(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_seen_and_a_change_of_namespaces_is_no_reset() {
        let epoch = Epoch::default();
        let before = epoch.glance();
        assert_eq!(before.state(), State::Running);
        epoch.namespaces_changed();
        assert!(epoch.glance().is_same_run(before));
        assert_eq!(epoch.glance().changes(), 1);
        assert!(!epoch.restarted(), "it was not being reset");
        assert!(epoch.set(State::Resetting));
        assert!(!epoch.glance().is_same_run(before) && !epoch.current().is_reset_since(before));
        assert!(epoch.restarted());
        let after = epoch.current();
        assert!(!after.is_same_run(before) && after.is_reset_since(before));
        assert_eq!((after.state(), after.changes()), (State::Running, 1));
        for state in [State::Stopped, State::Gone] {
            assert!(epoch.set(state));
            assert_eq!(epoch.current().state(), state);
            assert!(!epoch.current().is_reset_since(after));
        }
    }

    #[test]
    fn what_has_gone_stays_gone_and_what_is_stopped_does_not_run_again() {
        let epoch = Epoch::default();
        for (state, less) in [(State::Stopped, State::Resetting), (State::Gone, State::Stopped)] {
            assert!(epoch.set(state) && epoch.set(state));
            let now = epoch.current();
            assert!(!epoch.set(less) && !epoch.set(State::Running) && !epoch.restarted());
            assert_eq!(epoch.current(), now);
        }
    }
}
