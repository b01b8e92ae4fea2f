//! Reads from an NVMe controller in memory: what the driver does for each. Times are those of driver and model together; instructions are the
//! driver's alone.

use super::{OURS, Operation, Subject, metered};
use crate::record::Clock;
use anyhow::{Result, ensure};
use drivers::Backing;
use drivers::fake::FakeBacking;
use drivers::fake::nvme::{Nvme, Options};
use drivers::nvme::spec::Status;
use drivers::nvme::{self, Command, Controller, QueueOptions};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};

const LEN: usize = 4096;
const BLOCKS: u32 = 8;

pub(super) fn operations() -> Vec<Operation> {
    let operation = |depth: u32| {
        Operation::new("nvme", "submit and complete 4 KiB", OURS, depth, move || reads(depth))
            .at(depth.into(), "at a time")
            .by(&[Clock::Wall, Clock::Instructions, Clock::Count])
            .allocates(false)
    };
    [1, 8, 32].map(operation).into()
}

fn reads(depth: u32) -> Result<Subject> {
    let device = Nvme::new(Options {
        latency: 0..1,
        ..Options::default()
    });
    let backing = FakeBacking::new(device.clone())?;
    let controller = Controller::new(backing.clone(), &nvme::Options::default())?;
    let namespace = controller.namespace(1)?;
    let options = QueueOptions {
        depth: 64,
        ..QueueOptions::default()
    };
    let mut queue = controller.queue_pair(options)?;
    let buffer = |_| DmaBuffer::<Both>::new(backing.space(), LEN, &BufferOptions::default());
    let mut buffers: Vec<_> = (0..depth).map(buffer).collect::<Result<_, _>>()?;
    let machine = backing.machine().clone();
    let mut lba = 0;
    let cycle = move || {
        let done = device.counts().reads + u64::from(depth);
        metered(|| -> Result<()> {
            while let Some(buffer) = buffers.pop() {
                lba = (lba + u64::from(BLOCKS)) % 4096;
                let command = Command::read(&namespace, lba, BLOCKS);
                queue.submit(&command, Some(buffer)).map_err(drivers::Error::from)?;
            }
            queue.ring();
            Ok(())
        })?;
        for _ in 0..4 * depth {
            if device.counts().reads >= done {
                break;
            }
            backing.poke();
        }
        // The last may have been executed, and not said so.
        backing.poke();
        metered(|| -> Result<()> {
            while let Some(completion) = queue.pop()? {
                ensure!(completion.status == Status::SUCCESS, "{:?}", completion.status);
                buffers.extend(completion.payload);
            }
            Ok(())
        })?;
        ensure!(buffers.len() == depth as usize, "{} of {depth} reads", buffers.len());
        Ok(())
    };
    Ok(Subject::new(cycle).with_calls_of(machine).on(controller))
}
