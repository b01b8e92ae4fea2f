//! The rules of the kernel's VFIO, at the boundary.

mod container;
mod device;
mod machine;

use super::irq::{ERR, INTX, MSI, MSIX, REQ};
use crate::fake::{Copier, Description, Iommu, Machine, MigrationSupport, Plain, Region};
use crate::sys::iommufd::Calls;
use crate::sys::space::Lent;
use crate::sys::vfio::{ContainerCalls, DeviceCalls, GroupCalls, IrqData};
use crate::{Access, EventFd, Memory, MemoryOptions, StableMemory, System};
use pci::{Bdf, GroupId};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use vfio_bindings::bindings::vfio as uapi;

const BOTH: Access = Access::READ.union(Access::WRITE);
const CONFIG: u64 = 7 << 40;
const MASTER: [u8; 2] = [6, 0];
const TRIGGER: u32 = uapi::VFIO_IRQ_SET_ACTION_TRIGGER;
const MASK: u32 = uapi::VFIO_IRQ_SET_ACTION_MASK;
const UNMASK: u32 = uapi::VFIO_IRQ_SET_ACTION_UNMASK;

fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

fn memory(pages: usize) -> Arc<dyn StableMemory> {
    Arc::new(Memory::new(pages * 4096, MemoryOptions::default()).unwrap())
}

fn iommufd(machine: &Machine) -> Arc<dyn Calls> {
    machine.system().files().iommufd(Path::new("/dev/iommu")).unwrap()
}

fn cdev(machine: &Machine, number: u32) -> Arc<dyn DeviceCalls> {
    let path = format!("/dev/vfio/devices/vfio{number}");
    machine.system().files().cdev(Path::new(&path)).unwrap()
}

fn group(machine: &Machine, number: u32) -> Result<Arc<dyn GroupCalls>, Errno> {
    machine
        .system()
        .files()
        .group(Path::new(&format!("/dev/vfio/{number}")))
}

fn container(machine: &Machine, path: &str) -> Arc<dyn ContainerCalls> {
    machine.system().files().container(Path::new(path)).unwrap()
}

fn with(device: impl crate::fake::Device + 'static) -> (Machine, Arc<dyn Calls>, Arc<dyn DeviceCalls>) {
    let machine = Machine::builder()
        .device(bdf("0000:01:00.0"), GroupId(7), device)
        .build();
    let iommufd = iommufd(&machine);
    let device = cdev(&machine, 0);
    device.bind_iommufd(iommufd.number(), None).unwrap();
    (machine, iommufd, device)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn read_u32(device: &Arc<dyn DeviceCalls>, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    assert_eq!(device.read(offset, &mut bytes), Ok(4));
    u32::from_le_bytes(bytes)
}
