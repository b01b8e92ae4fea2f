//! What of mapping only a clock on the wall can tell: fresh pages, and two threads.

use super::cases::bytes;
use super::way::{Bare, Ours, Way};
use super::{BOTH, SUITE, room};
use crate::device::meter::{Meter, median, order};
use crate::device::{Case, Session};
use anyhow::{Result, anyhow};
use iommu::prefault;
use iommu::space::{AddressSpace, MapOptions};
use raw_calls::Table;
use std::num::NonZeroUsize;
use std::sync::{Arc, Barrier};
use vfio_core::{Backend, Iova, Memory, MemoryOptions};

/// By turns, these two.
const WAYS: [&str; 2] = ["ours", "raw"];

/// Touching fresh memory, by one thread and by two.
pub(super) fn touch(session: &mut Session) -> Result<()> {
    for len in sizes(session) {
        let case = Case::new("touch", format!("touch {} of 4 KiB pages", bytes(len)), &[]);
        let mut figures: [Vec<f64>; 2] = Default::default();
        for turn in 0..turns(session) {
            for way in order(2, turn) {
                let threads = NonZeroUsize::MIN.saturating_add(way);
                let memory = Memory::new(len, MemoryOptions::default())?;
                let begin = session.meter.look();
                prefault::populate(&memory, 0..len, threads, |_, _| ())?;
                note(&mut figures, way, session.meter.between(begin, session.meter.look()));
            }
        }
        for (way, turns) in ["1 thread", "2 threads"].into_iter().zip(figures) {
            session.tell(&case, way, turns)?;
        }
    }
    Ok(())
}

/// Mapping fresh memory that nobody has touched: the kernel does on the way.
pub(super) fn untouched(
    session: &mut Session,
    space: &AddressSpace,
    backend: Backend,
    bare: &Arc<dyn Table>,
) -> Result<()> {
    for len in sizes(session) {
        let name = format!("map {} of 4 KiB pages, untouched, {backend}", bytes(len));
        let case = Case::new(SUITE, name, &[("interface", &backend.to_string())]);
        if !session.wants(&case.name) {
            continue;
        }
        let iova = room(space, len)?;
        let mut figures: [Vec<f64>; 2] = Default::default();
        for turn in 0..turns(session) {
            for number in order(2, turn) {
                let memory = Arc::new(Memory::new(len, MemoryOptions::default())?);
                let mut way = way(number, space, bare, &memory, iova)?;
                let begin = session.meter.look();
                way.map()?;
                note(&mut figures, number, session.meter.between(begin, session.meter.look()));
                way.unmap()?;
            }
        }
        for (way, turns) in WAYS.into_iter().zip(figures) {
            session.tell(&case, way, turns)?;
        }
    }
    Ok(())
}

/// Two threads that map and unmap in one space: what both together take for each of them, while both are at work.
pub(super) fn threads(
    session: &mut Session,
    space: &AddressSpace,
    backend: Backend,
    bare: &Arc<dyn Table>,
) -> Result<()> {
    for len in [4 << 10, 2 << 20] {
        let name = format!("map and unmap {} of 4 KiB pages, 2 threads, {backend}", bytes(len));
        let given = [("threads", "2"), ("interface", &backend.to_string())];
        let case = Case::new(SUITE, name, &given);
        if session.wants(&case.name) {
            threads_of(session, &case, space, bare, len)?;
        }
    }
    Ok(())
}

fn threads_of(
    session: &mut Session,
    case: &Case,
    space: &AddressSpace,
    bare: &Arc<dyn Table>,
    len: usize,
) -> Result<()> {
    let mut places = Vec::new();
    let mut held = Vec::new();
    for _ in 0..2 {
        let memory = Arc::new(Memory::new(len, MemoryOptions::default())?);
        memory.populate(0..len)?;
        let mapping = space.map(&memory, 0..len, MapOptions::new(BOTH))?;
        places.push((memory, mapping.iova()));
        held.push(mapping);
    }
    held.into_iter().try_for_each(|mapping| mapping.unmap())?;
    let rounds = if len < 1 << 20 { 300 } else { 20 };
    let mut figures: [Vec<f64>; 2] = Default::default();
    for turn in 0..turns(session) {
        for number in order(2, turn) {
            let ways = places
                .iter()
                .map(|(memory, iova)| way(number, space, bare, memory, *iova));
            let took = together(session.meter, ways.collect::<Result<_>>()?, rounds)?;
            note(&mut figures, number, took);
        }
    }
    for (way, turns) in WAYS.into_iter().zip(figures) {
        session.tell(case, way, turns)?;
    }
    Ok(())
}

/// Each on a thread of its own, from the same moment.
fn together(meter: Meter, mut ways: Vec<Box<dyn Way>>, rounds: u16) -> Result<f64> {
    let barrier = &Barrier::new(ways.len());
    let work = |way: &mut dyn Way| -> Result<f64> {
        barrier.wait();
        let begin = meter.look();
        for _ in 0..rounds {
            way.map()?;
            way.unmap()?;
        }
        Ok(meter.between(begin, meter.look()) / f64::from(rounds))
    };
    let took = std::thread::scope(|scope| {
        let threads: Vec<_> = ways
            .iter_mut()
            .map(|way| scope.spawn(move || work(&mut **way)))
            .collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_panic| anyhow!("a thread panicked"))?);
        joined.collect::<Result<Vec<f64>>>()
    })?;
    Ok(median(&took))
}

fn way(
    number: usize,
    space: &AddressSpace,
    bare: &Arc<dyn Table>,
    memory: &Arc<Memory>,
    iova: Iova,
) -> Result<Box<dyn Way>> {
    Ok(match number {
        0 => Box::new(Ours::new("ours", space, memory, false, MapOptions::new(BOTH))),
        _ => Box::new(Bare::new("raw", bare, memory, iova)?),
    })
}

fn note(figures: &mut [Vec<f64>; 2], way: usize, figure: f64) {
    if let Some(figures) = figures.get_mut(way) {
        figures.push(figure);
    }
}

fn sizes(session: &Session) -> Vec<usize> {
    let all = [2 << 20, 64 << 20];
    all.into_iter().take(if session.is_quick { 1 } else { 2 }).collect()
}

const fn turns(session: &Session) -> usize {
    if session.is_quick { 3 } else { 9 }
}
