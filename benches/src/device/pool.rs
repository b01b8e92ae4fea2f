//! Buffers for DMA: from a pool that is mapped as a whole, and by a call to the kernel for each.
//!
//! That a pool makes no system call is shown rather than counted: a process of its own takes and returns buffers while the kernel ends it
//! at any call but the one by which it says that it is done; its end is such a call.

use super::map::room;
use super::meter::{median, order};
use super::{Case, Session};
use crate::record::Clock;
use anyhow::{Context, Result};
use iommu::OpenOptions;
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::pool::DmaPool;
use iommu::space::{AddressSpace, MapOptions};
use pci::Bdf;
use raw_calls::Place;
use rustix::process::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};
use std::sync::Arc;
use vfio_core::{Access, Memory, MemoryOptions, PageSize};

const SUITE: &str = "pool";
/// Bytes of a buffer.
const LEN: usize = 2048;
/// Buffers that are out at a time.
const HELD: usize = 32;

/// Takes and returns buffers, and says how many.
type Cycle<'a> = Box<dyn FnMut() -> Result<usize> + 'a>;

/// Measures on one function.
///
/// # Errors
/// Of ours, and of bare calls.
pub fn run(session: &mut Session, functions: &[Bdf]) -> Result<()> {
    let function = *functions.first().context("no function to measure on")?;
    silent(session, function)?;
    let attached = OpenOptions::default().open(function)?;
    let space = attached.space();
    let case = Case::new(SUITE, "take and return a buffer of 2 KiB", &[("held", "32")]);
    if !session.wants(&case.name) {
        return Ok(());
    }
    let mut pool = pool(space)?;
    let mut held = Vec::with_capacity(HELD);
    let memory = Arc::new(Memory::new(4096, MemoryOptions::default())?);
    memory.populate(0..4096)?;
    let iova = room(space, 4096)?;
    let table = super::map::bare(space)?;
    let mut place = Place::new(&table, &memory, 0..4096, iova).context("memory of no bytes")?;
    let options = small();
    let mut ways: [(&str, Cycle<'_>); 4] = [
        (
            "ours, pool",
            Box::new(|| {
                cycle(&mut pool, &mut held)?;
                Ok(HELD)
            }),
        ),
        (
            "ours, mapped for each",
            Box::new(|| {
                space
                    .map(&memory, 0..4096, MapOptions::new(Access::READ.union(Access::WRITE)))?
                    .unmap()?;
                Ok(1)
            }),
        ),
        (
            "raw, mapped for each",
            Box::new(|| {
                place.map()?;
                place.unmap()?;
                Ok(1)
            }),
        ),
        (
            "ours, memory and mapping for each",
            Box::new(|| {
                drop(DmaBuffer::<Both>::new(space, LEN, &options)?);
                Ok(1)
            }),
        ),
    ];
    let (turns, rounds) = if session.is_quick { (3, 20) } else { (9, 100) };
    let mut figures = vec![Vec::new(); ways.len()];
    for turn in 0..=turns {
        for number in order(ways.len(), turn) {
            let (Some((_, way)), Some(figures)) = (ways.get_mut(number), figures.get_mut(number)) else {
                continue;
            };
            let mut samples = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                let begin = session.meter.look();
                let count = way()?;
                #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
                let count = count as f64;
                samples.push(session.meter.between(begin, session.meter.look()) / count);
            }
            if turn > 0 {
                figures.push(median(&samples));
            }
        }
    }
    for ((name, _), figures) in ways.iter().zip(figures) {
        session.tell(&case, name, figures)?;
    }
    Ok(())
}

fn pool(space: &AddressSpace) -> Result<DmaPool<Both>> {
    Ok(DmaPool::new(space, 2 << 20, small())?)
}

/// Takes buffers, and returns them in another order.
fn cycle(pool: &mut DmaPool<Both>, held: &mut Vec<DmaBuffer<Both>>) -> Result<()> {
    while held.len() < HELD {
        held.push(pool.take(LEN)?);
    }
    while !held.is_empty() {
        drop(held.swap_remove(0));
    }
    Ok(())
}

/// What a process may do in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Silence {
    /// Take buffers of a pool, and return them
    Pool,
    /// Map a buffer, and unmap it: to see that the kernel does end it
    Map,
}

const DONE: &[u8] = b"done\n";
/// `__NR_write` of x86-64.
const ALLOWED: i64 = 1;

/// Starts processes that may make no system calls: the one with a pool must live, the one that maps must not.
fn silent(session: &mut Session, function: Bdf) -> Result<()> {
    let case = Case::new(SUITE, "take and return a buffer of 2 KiB, system calls", &[]);
    let start = |silence: &str| {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--silence", silence, "--device", &function.to_string()])
            .output()
    };
    let (pool, map) = (start("pool")?, start("map")?);
    match doubt(&pool, &map) {
        Some(reason) => session.miss(SUITE, &case.name, "ours, pool", &reason),
        None => session.tell_as(
            &case,
            "ours, pool",
            vec![0.0],
            Clock::Count,
            "system calls/op",
            Vec::new(),
        ),
    }
}

/// Why the ends of both processes do not show that a pool makes no system calls; `None` if they do. Whatever else ended the one that maps, it
/// would not show that the kernel ends one that makes a call.
fn doubt(pool: &Output, map: &Output) -> Option<String> {
    let for_a_call = |output: &Output| output.status.signal() == Some(Signal::SYS.as_raw());
    let (who, output) = if map.stdout == DONE || !for_a_call(map) {
        ("the kernel did not end the process that maps for a call", map)
    } else if pool.stdout != DONE || !for_a_call(pool) {
        ("the process with a pool did not end as it should", pool)
    } else {
        return None;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    Some(format!("{who}: {}: {text}", output.status))
}

/// The process that may make no system calls, once its pool has its memory.
///
/// # Errors
/// Of opening the function, and of the filter.
pub fn be_silent(silence: Silence, function: Bdf) -> Result<()> {
    let attached = OpenOptions::default().open(function)?;
    let mut pool = pool(attached.space())?;
    let mut held = Vec::with_capacity(HELD);
    cycle(&mut pool, &mut held)?;
    let filter = SeccompFilter::new(
        [(ALLOWED, Vec::new())].into(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    if silence == Silence::Map {
        drop(DmaBuffer::<Both>::new(attached.space(), LEN, &small())?);
    }
    for _ in 0..10_000 {
        cycle(&mut pool, &mut held)?;
    }
    rustix::io::write(rustix::stdio::stdout(), DONE)?;
    Ok(())
}

fn small() -> BufferOptions {
    BufferOptions {
        pages: PageSize::Base,
        ..BufferOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitStatus;

    #[test]
    fn only_an_end_for_a_call_shows_that_there_were_none() {
        let output = |status, stdout: &[u8]| Output {
            status: ExitStatus::from_raw(status),
            stdout: stdout.to_vec(),
            stderr: b"why".to_vec(),
        };
        let (ended, failed) = (Signal::SYS.as_raw(), 1 << 8);
        let killed = Signal::KILL.as_raw();
        assert_eq!(doubt(&output(ended, DONE), &output(ended, b"")), None);
        // The function is busy yet; the filter does nothing.
        for map in [
            output(failed, b""),
            output(killed, b""),
            output(0, DONE),
            output(ended, DONE),
        ] {
            let reason = doubt(&output(ended, DONE), &map).unwrap();
            assert!(reason.contains("that maps") && reason.contains("why"), "{reason}");
        }
        for pool in [output(ended, b""), output(failed, b""), output(0, DONE)] {
            let reason = doubt(&pool, &output(ended, b"")).unwrap();
            assert!(reason.contains("with a pool"), "{reason}");
        }
    }
}
