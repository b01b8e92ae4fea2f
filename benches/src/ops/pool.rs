//! Buffers for DMA: of a pool, and with a mapping each. How long the latter takes is the kernel's affair, and the one here is a model: of it only the
//! calls count.

use super::{OURS, Operation, Subject, metered};
use crate::record::Clock;
use anyhow::{Context, Result};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::pool::DmaPool;
use iommu::space::AddressSpace;
use pci::{Bdf, GroupId, RoutingId, Segment};
use vfio_core::CdevFile;
use vfio_core::fake::{Copier, Machine};
use vfio_core::iommufd::Iommufd;

const BUFFERS: u32 = 64;
const LEN: usize = 2048;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new("pool", "take and drop 2 KiB, 64 at a time", OURS, BUFFERS, pool).by(&[
            Clock::Wall,
            Clock::Instructions,
            Clock::Count,
        ]),
        Operation::new(
            "pool",
            "take and drop 2 KiB, 64 at a time",
            "a mapping each",
            BUFFERS,
            mappings,
        )
        .by(&[Clock::Count]),
    ]
}

pub(super) fn space() -> Result<(Machine, AddressSpace)> {
    let bdf = Bdf::new(Segment(0), RoutingId(0x100));
    let machine = Machine::builder().device(bdf, GroupId(1), Copier::new()).build();
    let system = machine.system();
    let iommufd = Iommufd::open(&system)?;
    let path = machine.cdev_path(bdf).context("no such device")?;
    let device = CdevFile::open(&system, path)?.bind(&iommufd, None)?;
    let attached = AddressSpace::iommufd(&iommufd)?.attach(&device)?;
    Ok((machine, attached.space().clone()))
}

fn pool() -> Result<Subject> {
    let (machine, space) = space()?;
    let mut pool = DmaPool::<Both>::new(&space, 2 << 20, BufferOptions::default())?;
    pool.prepare(LEN, BUFFERS as usize)?;
    let mut buffers = Vec::with_capacity(BUFFERS as usize);
    let cycle = move || {
        metered(|| -> Result<()> {
            for _ in 0..BUFFERS {
                buffers.push(pool.take(LEN)?);
            }
            buffers.clear();
            Ok(())
        })
    };
    Ok(Subject::new(cycle).with_calls_of(machine))
}

fn mappings() -> Result<Subject> {
    let (machine, space) = space()?;
    let options = BufferOptions::default();
    let mut buffers = Vec::with_capacity(BUFFERS as usize);
    let cycle = move || {
        for _ in 0..BUFFERS {
            buffers.push(DmaBuffer::<Both>::new(&space, LEN, &options)?);
        }
        buffers.clear();
        Ok(())
    };
    Ok(Subject::new(cycle).with_calls_of(machine))
}
