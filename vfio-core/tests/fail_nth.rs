//! Every call of a scenario fails in turn: nothing leaks, nothing is destroyed twice, nothing panics.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use pci::{Bdf, GroupId};
use rustix::io::Errno;
use std::sync::Arc;
use vfio_core::fake::{Copier, Iommu, Machine};
use vfio_core::iommufd::{
    FaultQueue, HwQueue, HwQueueKind, Hwpt, HwptData, HwptFlags, HwptParent, Iommufd, Placement, Response, Vdevice,
    VeventKind, VeventQueue, Viommu, ViommuKind,
};
use vfio_core::migration::MigrationState;
use vfio_core::{
    Access, Backing, BoundDevice, CdevFile, Container, ContainerPath, DirtyBitmap, Error, EventFd, Group, IommuType,
    Iova, IovaRange, IrqIndex, Memory, MemoryOptions, Pasid, RegionIndex, System, Width,
};

const BDF: &str = "0000:01:00.0";
const OTHER: &str = "0000:01:00.1";
const GROUP: GroupId = GroupId(7);
const READ_WRITE: Access = Access::READ.union(Access::WRITE);
const SIZE: usize = 64 << 10;

fn bdf() -> Bdf {
    BDF.parse().unwrap()
}

fn machine() -> Machine {
    let iommu = Iommu {
        nesting: Some(2),
        viommu: Some(1),
        hw_queue: Some(1),
        ..Iommu::default()
    };
    Machine::builder()
        .iommu(iommu)
        .device(bdf(), GROUP, Copier::new().page_requests())
        .device(OTHER.parse().unwrap(), GROUP, Copier::new())
        .build()
}

/// Calls that end something: when one of them fails, what it was to end is left to the closing of the file.
const ENDS: [&str; 7] = [
    "IOMMU_DESTROY",
    "IOMMU_IOAS_UNMAP",
    "VFIO_IOMMU_UNMAP_DMA",
    "VFIO_DEVICE_DETACH_IOMMUFD_PT",
    "VFIO_GROUP_UNSET_CONTAINER",
    "VFIO_DEVICE_SET_IRQS",
    "VFIO_DEVICE_FEATURE",
];

/// Runs a scenario once for each call in it, and once unharmed.
fn fail_each(scenario: impl Fn(&System) -> Result<(), Error>) {
    for errno in [Errno::NOMEM, Errno::NODEV, Errno::BUSY, Errno::INVAL] {
        for n in 0.. {
            let machine = machine();
            machine.fail_nth(n, errno);
            let result = scenario(&machine.system());
            let failed = machine.failed();
            assert_eq!(
                machine.leaks(),
                Vec::<String>::new(),
                "call {n} ({failed:?}) failed with {errno}: {result:?}"
            );
            let Some(step) = failed else {
                result.unwrap();
                assert_eq!(machine.abandoned(), Vec::<String>::new(), "nothing failed");
                assert_eq!(machine.mistakes(), Vec::<String>::new(), "nothing failed");
                assert!(n > 5, "a scenario makes calls");
                break;
            };
            if !ENDS.contains(&step.as_str()) {
                for left in [machine.abandoned(), machine.mistakes()] {
                    assert_eq!(
                        left,
                        Vec::<String>::new(),
                        "call {n} ({step}) failed with {errno}: {result:?}"
                    );
                }
            }
        }
    }
}

fn memory(backing: Backing) -> Arc<Memory> {
    let options = MemoryOptions {
        backing,
        ..MemoryOptions::default()
    };
    Arc::new(Memory::new(SIZE, options).unwrap())
}

fn bound(system: &System) -> Result<(Iommufd, BoundDevice), Error> {
    let iommufd = Iommufd::open(system)?;
    let device = CdevFile::open(system, "/dev/vfio/devices/vfio0")?.bind(&iommufd, None)?;
    Ok((iommufd, device))
}

fn master(device: &BoundDevice) -> Result<(), Error> {
    device.config()?.write(4, &6_u16.to_le_bytes())
}

#[test]
fn address_spaces_and_mappings() {
    fail_each(|system| {
        let iommufd = Iommufd::open(system)?;
        let (first, second) = (iommufd.alloc_ioas()?, iommufd.alloc_ioas()?);
        let (private, shared) = (memory(Backing::Anonymous), memory(Backing::Shared));
        let fixed = first.map(private.clone(), 0..SIZE, Placement::Fixed(Iova(0x10_0000)), READ_WRITE)?;
        let chosen = first.map(private, 0..SIZE / 2, Placement::Any, Access::READ)?;
        let file = second.map_file(shared.file().unwrap(), 0, SIZE as u64, Placement::Any, READ_WRITE)?;
        let copy = second.copy(&fixed, Placement::Any, READ_WRITE)?;
        first.iova_ranges()?;
        fixed.unmap()?;
        drop(chosen);
        second.unmap(copy.range())?;
        drop(second);
        drop((copy, file));
        Ok(())
    });
}

#[test]
fn a_device_of_its_own_file() {
    fail_each(|system| {
        let (iommufd, device) = bound(system)?;
        let ioas = iommufd.alloc_ioas()?;
        let mapping = ioas.map(memory(Backing::Anonymous), 0..SIZE, Placement::Any, READ_WRITE)?;
        let owner = device.iommufd_device().unwrap();
        let flags = HwptFlags::DIRTY_TRACKING | HwptFlags::PASID;
        let hwpt = Hwpt::alloc(&owner, HwptParent::Ioas(&ioas), flags, HwptData::None, None)?;
        iommufd.hw_info(&owner)?;
        let mut attachment = device.attach(&ioas, None)?;
        attachment.replace(&hwpt)?;
        let pasid = device.attach(&hwpt, Pasid::new(5))?;
        hwpt.set_dirty_tracking(true)?;
        master(&device)?;
        let region = device.region(RegionIndex::BAR0)?;
        let registers = region.map(0..0x1000)?;
        registers.write_u64(0x08, mapping.iova().0).unwrap();
        registers.write_u64(0x10, mapping.iova().0 + 0x1000).unwrap();
        registers.write_u64(0x18, 0x1000).unwrap();
        registers.write_u32(0x28, 1).unwrap();
        assert_eq!(registers.read_u32(0x2c), Some(1), "the copy");
        let page = IovaRange::new(mapping.iova(), SIZE as u64).unwrap();
        let mut dirty = DirtyBitmap::new(page, 4096)?;
        hwpt.dirty_bitmap(&mut dirty, true)?;
        assert_eq!(dirty.count(), 1);
        pasid.detach()?;
        device.reset()?;
        assert_eq!(region.read_u32(0)?, 0x4350_4d45);
        Ok(())
    });
}

#[test]
fn interrupts_and_features() {
    fail_each(|system| {
        let (iommufd, device) = bound(system)?;
        let event = EventFd::new()?;
        let interrupts = device.interrupts(IrqIndex::Msix)?;
        interrupts.enable(0, &[Some(&event), None, Some(&event)])?;
        interrupts.trigger(0)?;
        assert_eq!(event.try_read()?, Some(1));
        drop(interrupts);
        let region = device.region(RegionIndex::BAR0)?;
        let doorbell = region.ioeventfd(0x28, Width::Bits32, 3, &event)?;
        drop(doorbell);
        device.features()?;
        device.low_power_entry_with_wakeup(&event)?;
        device.low_power_exit()?;
        let parts = std::slice::from_ref(&(0..0x1000));
        let file = device.dma_buf(RegionIndex::BAR0, parts)?;
        let ioas = iommufd.alloc_ioas()?;
        let mapping = ioas.map_file(&file, 0, 0x1000, Placement::Any, READ_WRITE)?;
        drop(mapping);
        let range = IovaRange::new(Iova(0), 0x10_0000).unwrap();
        let log = device.dma_logging(4096, &[range])?;
        log.report(&mut DirtyBitmap::new(range, 4096)?)?;
        drop(log);
        let migration = device.migration()?.unwrap();
        let transition = migration.set_state(MigrationState::StopCopy)?;
        drop(transition);
        migration.set_state(MigrationState::Running)?;
        device.hot_reset_set()?;
        Ok(())
    });
}

#[test]
fn page_requests() {
    fail_each(|system| {
        let (iommufd, device) = bound(system)?;
        let ioas = iommufd.alloc_ioas()?;
        let queue: FaultQueue = iommufd.alloc_fault_queue()?;
        let owner = device.iommufd_device().unwrap();
        let flags = HwptFlags::empty();
        let hwpt = Hwpt::alloc(&owner, HwptParent::Ioas(&ioas), flags, HwptData::None, Some(&queue))?;
        let attachment = device.attach(&hwpt, None)?;
        master(&device)?;
        let region = device.region(RegionIndex::BAR0)?;
        region.write_u64(0x08, 0x20_0000)?;
        region.write_u64(0x10, 0x20_1000)?;
        region.write_u64(0x18, 0x1000)?;
        region.write_u32(0x28, 1)?;
        let group = queue.read()?.unwrap();
        let at = Placement::Fixed(Iova(0x20_0000));
        let mapping = ioas.map(memory(Backing::Anonymous), 0..SIZE, at, READ_WRITE)?;
        group.respond(Response::Success)?;
        assert_eq!(region.read_u32(0x2c)?, 1, "the copy");
        drop(mapping);
        attachment.detach()?;
        Ok(())
    });
}

#[test]
fn virtual_iommus() {
    fail_each(|system| {
        let (iommufd, device) = bound(system)?;
        let ioas = iommufd.alloc_ioas()?;
        let owner = device.iommufd_device().unwrap();
        let at = Placement::Fixed(Iova(0x10_0000));
        let mapping = ioas.map(memory(Backing::Anonymous), 0..SIZE, at, READ_WRITE)?;
        let flags = HwptFlags::NEST_PARENT;
        let parent = Hwpt::alloc(&owner, HwptParent::Ioas(&ioas), flags, HwptData::None, None)?;
        let viommu = Viommu::alloc(&owner, &parent, ViommuKind(1), &mut [])?;
        let vdevice = Vdevice::alloc(&viommu, &owner, 0x100)?;
        let events = VeventQueue::alloc(&viommu, VeventKind { kind: 1, data_len: 32 }, 4)?;
        assert!(events.read()?.is_none());
        let range = IovaRange::new(Iova(0x10_0000), 0x1000).unwrap();
        let queue = HwQueue::alloc(&viommu, HwQueueKind(1), 0, range)?;
        let data = HwptData::Raw {
            kind: 2,
            bytes: &[0; 16],
        };
        let nested = Hwpt::alloc(&owner, HwptParent::Viommu(&viommu), HwptFlags::empty(), data, None)?;
        let attachment = device.attach(&nested, None)?;
        drop((attachment, nested, queue, events, vdevice, viommu, parent, mapping));
        Ok(())
    });
}

#[test]
fn a_device_of_a_group() {
    for (path, kind) in [
        (ContainerPath::Vfio, IommuType::Type1v2),
        (ContainerPath::Vfio, IommuType::Type1),
        (ContainerPath::Iommu, IommuType::Type1v2),
        (ContainerPath::Iommu, IommuType::Type1),
    ] {
        fail_each(|system| {
            let group = Group::open(system, GROUP)?;
            group.viable()?;
            let container = Container::open(system, path)?;
            let attached = container.add(&group)?;
            container.set_iommu(kind)?;
            container.info()?;
            let memory = memory(Backing::Anonymous);
            let mapping = container.map(memory.clone(), 0..SIZE, Iova(0x10_0000), READ_WRITE)?;
            let second = container.map(memory, 0..0x1000, Iova(0x100_0000), Access::READ)?;
            let device = attached.device(bdf(), None)?;
            master(&device)?;
            let region = device.region(RegionIndex::BAR0)?;
            region.write_u64(0x08, 0x100_0000)?;
            region.write_u64(0x10, 0x10_0000)?;
            region.write_u64(0x18, 0x1000)?;
            region.write_u32(0x28, 1)?;
            assert_eq!(region.read_u32(0x2c)?, 1, "the copy");
            mapping.unmap()?;
            drop((device, region));
            drop(second);
            Ok(())
        });
    }
}

#[test]
fn handles_in_any_order() {
    fail_each(|system| {
        let (iommufd, device) = bound(system)?;
        let ioas = iommufd.alloc_ioas()?;
        let mapping = ioas.map(memory(Backing::Anonymous), 0..SIZE, Placement::Any, READ_WRITE)?;
        let attachment = device.attach(&ioas, None)?;
        let registers = device.region(RegionIndex::BAR0)?.map(0..0x1000)?;
        let interrupts = device.interrupts(IrqIndex::Msix)?;
        drop(iommufd);
        drop(device);
        drop(ioas);
        drop(attachment);
        drop(registers);
        drop(mapping);
        drop(interrupts);
        Ok(())
    });
}
