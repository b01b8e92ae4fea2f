//! Reads of an NVMe controller, polled and by interrupt.

use super::{Case, DEPTH, SUITE, Session, measure};
use anyhow::{Context, Result, ensure};
use drivers::nvme::{Command, Controller, Interrupt, Options, QueueOptions, Registered};
use drivers::{Backing, VfioBacking};
use pci::Bdf;
use std::sync::Arc;
use vfio_core::{Access, Memory, MemoryOptions};

/// Bytes of a command.
const SIZES: [u32; 3] = [4 << 10, 64 << 10, 256 << 10];

/// Measures on one.
pub(super) fn run(session: &mut Session, function: Bdf) -> Result<()> {
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
                    let meter = session.meter;
                    let blocks = size / namespace.lba_bytes;
                    let places = (namespace.capacity() / u64::from(size)).max(1);
                    let mut next = 0_u64;
                    measure(session, &case, way, (depth, size), "bandwidth", || {
                        let begin = meter.look();
                        for part in parts.drain(..) {
                            next = (next + 1) % places;
                            let command = Command::read(&namespace, next * u64::from(blocks), blocks);
                            queue.submit(&command, Some(part))?;
                        }
                        queue.ring();
                        while queue.outstanding() != 0 {
                            let completion = queue.wait(None)?.context("a wait without an end has ended")?;
                            ensure!(completion.status.is_success(), "a read failed: {}", completion.status);
                            parts.push(completion.payload.context("a completion without its payload")?);
                        }
                        Ok(meter.between(begin, meter.look()))
                    })?;
                }
            }
        }
    }
    Ok(())
}
