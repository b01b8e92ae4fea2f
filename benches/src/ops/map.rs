//! Mapping and unmapping: what is ours of it. The kernel's part is a model's here, and not counted.

use super::{OURS, Operation, Subject, metered, pool};
use crate::record::Clock;
use anyhow::Result;
use iommu::space::{AddressSpace, MapOptions};
use pci::{Bdf, GroupId, RoutingId, Segment};
use std::any::Any;
use std::sync::Arc;
use vfio_core::fake::{Copier, Machine};
use vfio_core::{Access, Container, ContainerPath, Group, IommuType, Memory, MemoryOptions};

const PAGE: usize = 4096;
const BOTH: Access = Access::READ.union(Access::WRITE);

pub(super) fn operations() -> Vec<Operation> {
    let operation = |case, prepare: fn() -> Result<Subject>| {
        Operation::new("map", case, OURS, 1, prepare).by(&[Clock::Instructions, Clock::Count])
    };
    vec![
        operation("map and unmap 4 KiB, iommufd", iommufd),
        operation("map and unmap 4 KiB, type1", type1),
    ]
}

fn map(machine: Machine, space: AddressSpace, device: impl Any) -> Result<Subject> {
    let options = MapOptions::new(BOTH);
    let page = || Memory::new(PAGE, MemoryOptions::default()).map(Arc::new);
    // A space of nothing else would make and drop its trees' nodes each time, which no program does.
    let beside = space.map(&page()?, 0..PAGE, options)?;
    let memory = page()?;
    let cycle = move || metered(|| Ok(space.map(&memory, 0..PAGE, options)?.unmap()?));
    Ok(Subject::new(cycle).with_calls_of(machine).on((beside, device)))
}

fn iommufd() -> Result<Subject> {
    let (machine, space) = pool::space()?;
    map(machine, space, ())
}

fn type1() -> Result<Subject> {
    let (bdf, group) = (Bdf::new(Segment(0), RoutingId(0x100)), GroupId(1));
    let machine = Machine::builder().device(bdf, group, Copier::new()).build();
    let system = machine.system();
    let group = Group::open(&system, group)?;
    let group = Container::with_group(&system, ContainerPath::Vfio, IommuType::Type1v2, &group)?;
    let attached = AddressSpace::type1(group.container().clone())?.attach(&group.device(bdf, None)?)?;
    map(machine, attached.space().clone(), (attached, group))
}
