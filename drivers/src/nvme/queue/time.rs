//! Time-outs: commands are stamped with a number that grows a few times while one may take its time, and never faster.

use super::super::epoch::{Moment, State};
use super::super::payload::Payload;
use super::super::shared::Health;
use super::super::spec::{Opcode, Sqe, Status};
use super::{QueuePair, Tag};
use crate::{Backing, ErrorKind, Presence, Result};
use std::time::Duration;

/// When commands were and will be looked at.
#[derive(Debug)]
pub(super) struct Scans {
    scan: u32,
    next: Duration,
    pace: Duration,
    /// After how many scans a command is late.
    limit: u32,
    timeout: Duration,
}

/// At most so long until a dead controller is seen.
const PACE: Duration = Duration::from_millis(250);
/// At least so often a command is looked at while it has time.
const SCANS: u32 = 8;

impl Scans {
    pub(super) fn new(timeout: Duration, now: Duration) -> Self {
        let pace = (timeout / SCANS).clamp(Duration::from_micros(1), PACE);
        let limit = timeout.as_nanos().div_ceil(pace.as_nanos().max(1));
        Self {
            scan: 0,
            next: now.saturating_add(pace),
            pace,
            // The first scan after a command was stamped may come at once.
            limit: u32::try_from(limit).unwrap_or(u32::MAX / 2).saturating_add(1),
            timeout,
        }
    }

    #[inline]
    pub(super) fn scan(&self) -> u32 {
        self.scan
    }

    pub(super) fn pace(&self) -> Duration {
        self.pace
    }

    /// The time of the last scan does not count: nothing was executed.
    fn hold(&mut self) {
        self.scan = self.scan.wrapping_sub(1);
    }

    /// Whether it is time for the next scan.
    fn is_due(&mut self, now: Duration) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now.saturating_add(self.pace);
        self.scan = self.scan.wrapping_add(1);
        true
    }
}

impl<B: Backing, T: Payload> QueuePair<B, T> {
    /// Looks at the clock, and at whether the device is asked back. [`pop`](Self::pop) does this in every 64th turn; who waits for the event in
    /// some other way calls it from a timer.
    ///
    /// A command that takes too long is aborted; that waits for the admin queue. If it does not come back then either, the queue cannot go on.
    ///
    /// # Errors
    ///
    /// Those of [`pop`](Self::pop).
    #[cold]
    #[inline(never)]
    pub fn check(&mut self) -> Result<()> {
        match self.shared.backing.removal().presence() {
            Presence::Present => {}
            Presence::AskedBack => self.gate = Moment::NEVER,
            Presence::Gone if self.epoch.glance().state() == State::Gone => {}
            Presence::Gone => self.shared.admin.gone(),
        }
        let now = self.shared.backing.now();
        if !self.time.is_due(now) || self.trackers.outstanding() == 0 || self.fault.is_some() {
            return Ok(());
        }
        // Of a controller that another thread is resetting there is nothing to say.
        if !self.epoch.current().is_same_run(self.born) {
            return Ok(());
        }
        match self.shared.health(self.born) {
            Health::Well => {}
            Health::Paused => {
                self.time.hold();
                return Ok(());
            }
            Health::Ill(kind) => return self.give_up(kind),
        }
        match self.trackers.late(self.time.scan, self.time.limit) {
            None => Ok(()),
            // It has come back in time; nobody has popped it.
            Some((tag, _)) if self.cq.holds(self.id, tag.cid()) => Ok(()),
            Some((tag, false)) => self.abort(tag),
            Some((tag, true)) => {
                tracing::warn!(
                    queue = self.id,
                    cid = tag.cid(),
                    "an aborted command does not come back"
                );
                self.give_up(ErrorKind::Timeout(self.time.timeout))
            }
        }
    }

    /// Asks the controller to end a command (Base §5.1.1). If it does, the command is popped, with
    /// [`ABORT_REQUESTED`](Status::ABORT_REQUESTED). Does nothing for a command that is not outstanding.
    ///
    /// # Errors
    ///
    /// When the controller does not answer within two seconds.
    pub fn abort(&mut self, tag: Tag) -> Result<()> {
        if !self.trackers.is_outstanding(tag) {
            return Ok(());
        }
        // What the controller has not heard of it cannot end.
        self.sq.ring();
        self.trackers.stamp(tag, self.time.scan, true);
        let cdw10 = u32::from(tag.cid()) << 16 | u32::from(self.id);
        match self
            .shared
            .admin
            .execute(self.born, Sqe::new(Opcode::ABORT, 0).with_cdw10(cdw10))
        {
            Err(error) if !matches!(error.kind, ErrorKind::Refused(_)) => {
                self.close(error.kind.clone());
                Err(error)
            }
            // Bit 0 of the result: it was not aborted. It may be on its way back; it has its time once more.
            _ => Ok(()),
        }
    }

    fn give_up(&mut self, kind: ErrorKind) -> Result<()> {
        self.close(kind.clone());
        self.failed("wait for completions", kind)
    }

    /// No commands from here on.
    pub(super) fn close(&mut self, kind: ErrorKind) {
        self.gate = Moment::NEVER;
        self.fault = Some(kind);
    }

    /// What a command that did not come back is said to have come back with.
    pub(super) fn status_of_lost(&self) -> Status {
        match self.epoch.current().state() {
            State::Gone => Status::HOST_PATHING,
            _ => Status::ABORTED_BY_HOST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn time_that_does_not_count_makes_no_command_late() {
        let mut scans = Scans::new(Duration::from_secs(1), Duration::ZERO);
        let stamp = scans.scan();
        for second in 1..100 {
            assert!(scans.is_due(Duration::from_secs(second)));
            scans.hold();
        }
        assert_eq!(scans.scan(), stamp);
    }

    proptest! {
        #[test]
        fn a_command_has_all_its_time_and_not_twice_as_much(timeout in 1_u64..100_000, start in 0_u64..1000, steps in prop::collection::vec(1_u64..500, 1..2000)) {
            let timeout = Duration::from_millis(timeout);
            let mut scans = Scans::new(timeout, Duration::ZERO);
            let begin = Duration::from_secs(start);
            let (stamp, mut now) = (scans.scan(), begin);
            for step in steps {
                now += Duration::from_millis(step);
                scans.is_due(now);
                let is_late = scans.scan().wrapping_sub(stamp) >= scans.limit;
                prop_assert!(!is_late || now - begin >= timeout);
                let slack = scans.pace() + Duration::from_millis(500);
                prop_assert!(is_late || now - begin <= timeout * 2 + slack * (scans.limit + 1));
            }
        }
    }
}
