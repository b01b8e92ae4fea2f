//! The rules of the kernel's iommufd, at the boundary.

mod address_space;
mod objects;

use crate::fake::options::Iommu;
use crate::fake::{Copier, Description, Machine, Plain, Region};
use crate::sys::iommufd::{Calls, HwptAlloc, Id};
use crate::sys::space::Lent;
use crate::sys::vfio::DeviceCalls;
use crate::{Access, Backing, Iova, IovaRange, Memory, MemoryOptions, StableMemory};
use pci::GroupId;
use proptest::prelude::*;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

const PAGE: u64 = 4096;
const BOTH: Access = Access::READ.union(Access::WRITE);
const SIZE: usize = 16 * 4096;

fn memory() -> Arc<dyn StableMemory> {
    Arc::new(Memory::new(SIZE, MemoryOptions::default()).unwrap())
}

fn shared_memory() -> Memory {
    let backing = Backing::Shared;
    Memory::new(
        SIZE,
        MemoryOptions {
            backing,
            ..MemoryOptions::default()
        },
    )
    .unwrap()
}

fn files(machine: &Machine) -> crate::System {
    machine.system()
}

fn open(machine: &Machine) -> Arc<dyn Calls> {
    files(machine).files().iommufd(Path::new("/dev/iommu")).unwrap()
}

fn cdev(machine: &Machine, number: u32) -> Arc<dyn DeviceCalls> {
    let path = format!("/dev/vfio/devices/vfio{number}");
    files(machine).files().cdev(Path::new(&path)).unwrap()
}

fn one_device(iommu: Iommu) -> Machine {
    let builder = Machine::builder().iommu(iommu);
    let first = builder.device(
        "0000:01:00.0".parse().unwrap(),
        GroupId(7),
        Copier::new().page_requests(),
    );
    first
        .device("0000:02:00.0".parse().unwrap(), GroupId(8), Copier::new())
        .build()
}

fn bound(machine: &Machine) -> (Arc<dyn Calls>, Arc<dyn DeviceCalls>, Id) {
    let iommufd = open(machine);
    let device = cdev(machine, 0);
    let id = device.bind_iommufd(iommufd.number(), None).unwrap();
    (iommufd, device, id)
}

fn map(iommufd: &Arc<dyn Calls>, ioas: Id, iova: u64, pages: usize) -> Result<u64, Errno> {
    iommufd.ioas_map(
        ioas,
        &Lent::memory_to_fake(&memory()),
        0..pages * 4096,
        Some(iova),
        BOTH,
    )
}

fn hwpt(device: Id, parent: Id, flags: u32) -> HwptAlloc<'static> {
    HwptAlloc {
        device,
        parent,
        flags,
        kind: 0,
        data: &[],
        fault: None,
    }
}
