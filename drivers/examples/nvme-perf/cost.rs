//! What the driver itself costs: the time that a thread spends in it, without what the controller takes.

use super::work::Worker;
use anyhow::{Context, ensure};
use drivers::Backing;
use std::time::{Duration, Instant};

/// What came of it.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) commands: u64,
    /// Submitting them and ringing the doorbell, all together.
    pub(crate) submission: Duration,
    /// Taking their completions.
    pub(crate) completion: Duration,
}

/// Fills the queue, naps, and empties it, until the time is over.
pub(crate) fn measure<B: Backing>(worker: &mut Worker<B>) -> anyhow::Result<Cost> {
    let (clock, end) = (clock(), Instant::now() + worker.plan.time);
    let mut cost = Cost {
        commands: 0,
        submission: Duration::ZERO,
        completion: Duration::ZERO,
    };
    let mut parts = std::mem::take(&mut worker.parts);
    while Instant::now() < end && cost.commands < worker.plan.count {
        let begin = Instant::now();
        for part in parts.drain(..) {
            worker.submit(part, begin)?;
        }
        worker.queue.ring();
        cost.submission += begin.elapsed().saturating_sub(clock);
        while worker.queue.outstanding() != 0 {
            worker.queue.backing().nap();
            let begin = Instant::now();
            while let Some(completion) = worker.queue.pop()? {
                ensure!(
                    completion.status.is_success(),
                    "a command failed: {}",
                    completion.status
                );
                parts.push(completion.payload.context("a completion without its payload")?);
            }
            cost.completion += begin.elapsed().saturating_sub(clock);
        }
        cost.commands += parts.len() as u64;
    }
    Ok(cost)
}

/// What a look at the clock costs.
fn clock() -> Duration {
    let looks = (0..1000).map(|_| Instant::now().elapsed());
    looks.min().unwrap_or_default()
}
