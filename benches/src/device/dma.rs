//! DMA of a device: an NVMe controller writes what it reads into memory. Latency with one command at a time, and bandwidth with many.
//!
//! Ours alone: what peers make of it says `cargo lab bench nvme`, on the same controller.

use super::meter::{distribution, median};
use super::{Case, Session};
use crate::record::Clock;
use anyhow::{Context, Result, ensure};
use drivers::nvme::{Command, Controller, Interrupt, Namespace, Options, Part, QueueOptions, QueuePair, Registered};
use drivers::{Backing, VfioBacking};
use pci::Bdf;
use std::sync::Arc;
use vfio_core::{Access, Memory, MemoryOptions};

const SUITE: &str = "dma";
/// Bytes of a command.
const SIZES: [u32; 3] = [4 << 10, 64 << 10, 256 << 10];
/// Commands that are outstanding when bandwidth is measured.
const DEPTH: u16 = 16;

/// Measures on one NVMe controller.
///
/// # Errors
/// Of ours.
pub fn run(session: &mut Session, function: Bdf) -> Result<()> {
    if session.meter.clock() != Clock::Wall {
        return session.miss(SUITE, "", "ours", "a device's DMA takes no instructions");
    }
    for (case, why) in [
        ("edu", "its model begins 100 ms after it was asked to, by a timer"),
        ("82576", "a VF sends what another one gets: see the frames of VFs"),
    ] {
        session.miss(SUITE, case, "ours", why)?;
    }
    for (way, vectors) in [("ours, polled", 0), ("ours, by interrupt", 2)] {
        let backing = VfioBacking::open(function)?;
        let options = Options {
            queues: 1,
            vectors,
            ..Options::default()
        };
        let controller = Controller::new(backing.clone(), &options)?;
        let namespace = controller.namespace(1)?;
        let largest = SIZES.iter().max().copied().unwrap_or_default();
        let len = usize::try_from(largest)? * usize::from(DEPTH);
        let memory = Memory::new(len, MemoryOptions::default())?;
        memory.populate(0..len)?;
        let registered = Registered::new(backing.space(), Arc::new(memory), Access::READ | Access::WRITE)?;
        let mut queue = controller.queue_pair(QueueOptions {
            depth: DEPTH,
            transfer_bytes: largest.into(),
            interrupt: if vectors == 0 {
                Interrupt::Off
            } else {
                Interrupt::Vector(1)
            },
            ..QueueOptions::default()
        })?;
        for size in SIZES {
            for depth in [1, DEPTH] {
                let name = format!("NVMe reads of {} KiB, {depth} at a time", size >> 10);
                let case = Case::new(
                    SUITE,
                    name,
                    &[("bytes", &size.to_string()), ("depth", &depth.to_string())],
                );
                if session.wants(&case.name) {
                    let mut parts = (0..usize::from(depth))
                        .map(|place| {
                            let size = usize::try_from(size)?;
                            let part = registered.part(place * size..(place + 1) * size);
                            part.context("a part outside the memory")
                        })
                        .collect::<Result<Vec<_>>>()?;
                    measure(session, &case, way, (&mut queue, &namespace, size), &mut parts)?;
                }
            }
        }
    }
    Ok(())
}

fn measure(
    session: &mut Session,
    case: &Case,
    way: &str,
    (queue, namespace, size): (&mut QueuePair<VfioBacking, Part>, &Namespace, u32),
    parts: &mut Vec<Part>,
) -> Result<()> {
    let meter = session.meter;
    let (turns, rounds) = if session.is_quick { (3, 20) } else { (7, 100) };
    let blocks = size / namespace.lba_bytes;
    let places = namespace.capacity() / u64::from(size);
    let depth = parts.len();
    let (mut all, mut medians, mut next) = (Vec::new(), Vec::new(), 0_u64);
    for turn in 0..=turns {
        let mut figures = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let begin = meter.look();
            for part in parts.drain(..) {
                next = (next + 1) % places.max(1);
                let command = Command::read(namespace, next * u64::from(blocks), blocks);
                queue.submit(&command, Some(part))?;
            }
            queue.ring();
            while queue.outstanding() != 0 {
                let completion = queue.wait(None)?.context("a wait without an end has ended")?;
                ensure!(completion.status.is_success(), "a read failed: {}", completion.status);
                parts.push(completion.payload.context("a completion without its payload")?);
            }
            #[expect(clippy::cast_precision_loss, reason = "a few")]
            let count = depth as f64;
            figures.push(meter.between(begin, meter.look()) / count);
        }
        if turn > 0 {
            medians.push(median(&figures));
            all.extend(figures);
        }
    }
    let rates = medians.iter().map(|nanos| f64::from(size) * 1e9 / nanos.max(1.0));
    let rates = rates.collect();
    session.tell_as(case, way, medians, Clock::Wall, "ns/op", distribution(&all))?;
    let mut case = case.clone();
    case.name.push_str(", bandwidth");
    session.tell_as(&case, way, rates, Clock::Wall, "bytes/s", Vec::new())
}
