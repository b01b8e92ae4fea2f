//! Machines with engines that copy memory, and driving them.

use iommu::space::AddressSpace;
use iommu::{Iova, Result};
use pci::{Bdf, GroupId};
use std::sync::Arc;
use vfio_core::fake::{Builder, Copier, Machine};
use vfio_core::iommufd::Iommufd;
use vfio_core::{BoundDevice, CdevFile, ContainerPath, Memory, MemoryOptions, RegionIndex};

pub(crate) fn bdf(function: u8) -> Bdf {
    format!("0000:01:00.{function}").parse().unwrap()
}

/// Two engines in groups of their own.
pub(crate) fn two() -> Builder {
    Machine::builder()
        .device(bdf(0), GroupId(7), Copier::new())
        .device(bdf(1), GroupId(8), Copier::new())
}

pub(crate) fn open(machine: &Machine, iommufd: &Iommufd, function: u8) -> Result<BoundDevice> {
    let path = machine.cdev_path(bdf(function)).unwrap();
    let device = CdevFile::open(&machine.system(), path)?.bind(iommufd, None)?;
    device.config()?.set_bus_master(true)?;
    Ok(device)
}

/// A space with one engine in it, over either interface.
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) space: AddressSpace,
    pub(crate) engine: Engine,
    _held: Box<dyn std::any::Any>,
}

impl Bench {
    pub(crate) fn iommufd(builder: Builder) -> Self {
        let machine = builder.build();
        let iommufd = Iommufd::open(&machine.system()).unwrap();
        let device = open(&machine, &iommufd, 0).unwrap();
        let space = AddressSpace::iommufd(&iommufd).unwrap();
        let attached = space.attach(&device).unwrap();
        Self {
            machine,
            space,
            engine: Engine(device),
            _held: Box::new(attached),
        }
    }

    pub(crate) fn type1(builder: Builder) -> Self {
        let machine = builder.build();
        let groups = iommu::group::GroupSpace::open(&machine.system(), ContainerPath::Vfio, &[GroupId(7)]).unwrap();
        let device = groups.device(bdf(0), None).unwrap();
        device.config().unwrap().set_bus_master(true).unwrap();
        let attached = groups.space().attach(&device).unwrap();
        Self {
            machine,
            space: groups.space().clone(),
            engine: Engine(device),
            _held: Box::new(attached),
        }
    }

    /// One of each.
    pub(crate) fn both() -> [Self; 2] {
        [Self::iommufd(two()), Self::type1(two())]
    }
}

/// The engine of [`Copier`].
#[derive(Clone)]
pub(crate) struct Engine(pub(crate) BoundDevice);

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    Failed,
    Waits,
}

impl Engine {
    pub(crate) fn copy(&self, from: Iova, to: Iova, len: u64) -> Status {
        self.command(from.0, to.0, len, 1)
    }

    pub(crate) fn fill(&self, to: Iova, len: u64, byte: u8) -> Status {
        self.command(byte.into(), to.0, len, 2)
    }

    pub(crate) fn set_pasid(&self, pasid: Option<u32>) {
        let bar = self.0.region(RegionIndex::BAR0).unwrap();
        bar.write_u32(0x20, pasid.map_or(0, |pasid| pasid | 1 << 31)).unwrap();
    }

    pub(crate) fn status(&self) -> Status {
        let bar = self.0.region(RegionIndex::BAR0).unwrap();
        match bar.read_u32(0x2c).unwrap() {
            1 => Status::Done,
            3 => Status::Waits,
            _ => Status::Failed,
        }
    }

    fn command(&self, source: u64, target: u64, len: u64, command: u32) -> Status {
        let bar = self.0.region(RegionIndex::BAR0).unwrap();
        for (offset, value) in [(8, source), (0x10, target), (0x18, len)] {
            bar.write_u64(offset, value).unwrap();
        }
        bar.write_u32(0x28, command).unwrap();
        self.status()
    }
}

pub(crate) fn memory(pages: usize) -> Arc<Memory> {
    Arc::new(Memory::new(pages * 4096, MemoryOptions::default()).unwrap())
}

pub(crate) fn bytes(memory: &Memory, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read(offset, &mut bytes).unwrap();
    bytes
}
