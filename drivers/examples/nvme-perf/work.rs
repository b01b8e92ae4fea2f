//! What a thread does.

use anyhow::{Context, bail};
use drivers::Backing;
use drivers::nvme::{Command, Completion, Namespace, Part, QueuePair};
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// What a thread is to do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) namespace: Namespace,
    /// Blocks of a command.
    pub(crate) blocks: u32,
    /// Places for commands in the namespace.
    pub(crate) slots: u64,
    pub(crate) is_random: bool,
    /// Percentage.
    pub(crate) reads: u8,
    /// Whether to look for completions rather than wait.
    pub(crate) polls: bool,
    pub(crate) time: Duration,
    pub(crate) count: u64,
    pub(crate) first: u64,
    pub(crate) seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) commands: u64,
    pub(crate) elapsed: Duration,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// A thread's own.
#[derive(Debug)]
pub(crate) struct Worker<B: Backing> {
    pub(crate) queue: QueuePair<B, Part>,
    pub(crate) parts: Vec<Part>,
    pub(crate) plan: Plan,
    /// When the commands that are outstanding were submitted, by their tags' indices.
    submitted: Vec<Instant>,
    latency: Histogram<u64>,
    slot: u64,
    random: u64,
    left: u64,
}

impl<B: Backing> Worker<B> {
    pub(crate) fn new(queue: QueuePair<B, Part>, parts: Vec<Part>, plan: Plan) -> anyhow::Result<Self> {
        // A minute at most, to three digits: made before the first command.
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
        Ok(Self {
            submitted: vec![Instant::now(); queue.depth()],
            slot: plan.first,
            random: plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            left: plan.count,
            latency,
            parts,
            plan,
            queue,
        })
    }

    /// Keeps as many commands outstanding as there are parts, until the time is over or the commands are done.
    pub(crate) fn run(&mut self) -> anyhow::Result<Outcome> {
        let begin = Instant::now();
        let end = begin + self.plan.time;
        let (mut now, mut commands) = (begin, 0_u64);
        for part in std::mem::take(&mut self.parts) {
            if self.left != 0 {
                self.submit(part, now)?;
            }
        }
        self.queue.ring();
        while self.queue.outstanding() != 0 {
            let Some(completion) = self.next()? else {
                self.queue.ring();
                self.queue.backing().idle();
                continue;
            };
            now = Instant::now();
            commands += 1;
            let part = self.finish(completion, now)?;
            if self.left != 0 && now < end {
                self.submit(part, now)?;
            }
        }
        let elapsed = begin.elapsed();
        Ok(Outcome {
            commands,
            elapsed,
            latency: std::mem::replace(&mut self.latency, Histogram::new(3)?),
        })
    }

    #[inline]
    fn next(&mut self) -> anyhow::Result<Option<Completion<Part>>> {
        Ok(if self.plan.polls {
            self.queue.pop()?
        } else {
            self.queue.wait(None)?
        })
    }

    #[inline]
    pub(crate) fn submit(&mut self, part: Part, now: Instant) -> anyhow::Result<()> {
        self.left -= 1;
        let is_read = match self.plan.reads {
            100 => true,
            0 => false,
            reads => self.random() % 100 < u64::from(reads),
        };
        let slot = if self.plan.is_random {
            // The high half of a product: as even as the random number, without a division.
            u64::try_from((u128::from(self.random()) * u128::from(self.plan.slots)) >> 64).unwrap_or(0)
        } else {
            let next = self.slot + 1;
            std::mem::replace(&mut self.slot, if next == self.plan.slots { 0 } else { next })
        };
        let (lba, blocks) = (slot * u64::from(self.plan.blocks), self.plan.blocks);
        let command = if is_read {
            Command::read(&self.plan.namespace, lba, blocks)
        } else {
            Command::write(&self.plan.namespace, lba, blocks)
        };
        let tag = self.queue.submit(&command, Some(part))?;
        if let Some(submitted) = self.submitted.get_mut(tag.index()) {
            *submitted = now;
        }
        Ok(())
    }

    #[inline]
    fn finish(&mut self, completion: Completion<Part>, now: Instant) -> anyhow::Result<Part> {
        if !completion.status.is_success() {
            bail!("a command failed: {}", completion.status);
        }
        let submitted = self
            .submitted
            .get(completion.tag.index())
            .context("a tag that is too large")?;
        let nanos = now.saturating_duration_since(*submitted).as_nanos();
        self.latency.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        completion.payload.context("a completion without its payload")
    }

    /// xorshift64*.
    #[inline]
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
