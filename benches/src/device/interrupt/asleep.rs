//! A thread that sleeps until the interrupt comes.

use super::Way;
use crate::device::file;
use crate::device::meter::{Look, Meter};
use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How many waits a thread has.
const WAITS: usize = 25;
/// How long the thread may take to fall asleep, and to wake.
const LIMIT: Duration = Duration::from_secs(10);

/// Raises the interrupt for a thread that sleeps: what passes until it has it, several times.
pub(super) fn measure(
    meter: Meter,
    way: &mut Way<'_>,
    raise: impl Fn() -> Result<()>,
    settle: impl Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let event = way.event;
    let wait = &mut way.wait;
    let (number, numbers) = channel();
    let (woken, wakes) = channel();
    let allowed = sched_getaffinity(None)?;
    let measured = std::thread::scope(|scope| {
        let thread = scope.spawn(move || -> Result<()> {
            pin(1)?;
            number.send(rustix::thread::gettid().as_raw_nonzero().get())?;
            for _ in 0..WAITS {
                wait()?;
                if woken.send(meter.look()).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let raised = pin(0).and_then(|()| raise_all(meter, &numbers, &wakes, raise, settle));
        drop(wakes);
        if raised.is_err() {
            // Whoever still waits finds that nobody listens.
            event.signal()?;
        }
        let ended = thread
            .join()
            .map_err(|_panic| anyhow!("the thread that waits panicked"))?;
        ended?;
        raised
    });
    sched_setaffinity(None, &allowed)?;
    measured
}

/// From each raise to the wake that it brought.
fn raise_all(
    meter: Meter,
    numbers: &Receiver<i32>,
    wakes: &Receiver<Look>,
    raise: impl Fn() -> Result<()>,
    settle: impl Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let number = numbers
        .recv_timeout(LIMIT)
        .context("the thread that waits did not start")?;
    (0..WAITS)
        .map(|_| {
            until_asleep(number)?;
            let begin = meter.look();
            raise()?;
            let woken = wakes.recv_timeout(LIMIT).context("the interrupt woke nobody")?;
            settle()?;
            Ok(meter.between(begin, woken))
        })
        .collect()
}

/// Looks at what the kernel says of a thread.
fn until_asleep(number: i32) -> Result<()> {
    let path = format!("/proc/self/task/{number}/stat");
    let begin = Instant::now();
    loop {
        let stat = file(&path).context("the thread that waits is gone")?;
        // Behind the name, which may hold anything.
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        if state == Some('S') {
            return Ok(());
        }
        if begin.elapsed() > LIMIT {
            bail!("the thread that waits never sleeps: {state:?}");
        }
        std::thread::yield_now();
    }
}

/// To a processor of its own, where there are two.
fn pin(number: usize) -> Result<()> {
    let allowed = sched_getaffinity(None)?;
    let places: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if let (Some(&cpu), true) = (places.get(number), places.len() > 1) {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set)?;
    }
    Ok(())
}
