//! Objects: order of destruction, leaks, answers of odd sizes.

use super::super::{
    HwInfoData, HwInfoKind, HwQueue, HwQueueKind, Hwpt, HwptData, HwptFlags, HwptParent, Invalidation, PageTable,
    Placement, Vdevice, VeventKind, VeventQueue, Viommu, ViommuKind, VtdS1Invalidation,
};
use super::machine::Machine;
use super::{Device, RW, iommufd, memory};
use crate::{DirtyBitmap, ErrorKind, Iova, IovaRange};
use proptest::prelude::*;
use rustix::io::Errno;
use std::any::Any;

/// One of everything, with only the test's own order of dropping.
fn everything(machine: &std::sync::Arc<Machine>) -> Vec<Box<dyn Any>> {
    let iommufd = iommufd(machine);
    let device = Device::new(&iommufd);
    let ioas = iommufd.alloc_ioas().unwrap();
    let memory = memory(1);
    let mapping = ioas.map(memory, 0..4096, Placement::Any, RW).unwrap();
    let faults = iommufd.alloc_fault_queue().unwrap();
    let none = HwptFlags::empty();
    let alloc = |parent, fault| Hwpt::alloc(&device, parent, none, HwptData::None, fault).unwrap();
    let parent = alloc(HwptParent::Ioas(&ioas), None);
    let faulting = alloc(HwptParent::Ioas(&ioas), Some(&faults));
    let nested = alloc(HwptParent::Hwpt(&parent), None);
    let viommu = Viommu::alloc(&device, &parent, ViommuKind::ARM_SMMUV3, &mut []).unwrap();
    let over_viommu = alloc(HwptParent::Viommu(&viommu), None);
    let queue = IovaRange::new(Iova(0x10_0000), 4096).unwrap();
    let queues = [0, 1, 2].map(|index| HwQueue::alloc(&viommu, HwQueueKind::TEGRA241_CMDQV, index, queue).unwrap());
    let vdevice = Vdevice::alloc(&viommu, &device, 5).unwrap();
    let events = VeventQueue::alloc(&viommu, VeventKind::ARM_SMMUV3, 8).unwrap();
    let mut all: Vec<Box<dyn Any>> = vec![
        Box::new(iommufd),
        Box::new(device),
        Box::new(ioas),
        Box::new(mapping),
        Box::new(faults),
        Box::new(parent),
        Box::new(faulting),
        Box::new(nested),
        Box::new(viommu),
        Box::new(over_viommu),
        Box::new(vdevice),
        Box::new(events),
    ];
    all.extend(queues.map(|queue| Box::new(queue) as Box<dyn Any>));
    all
}

proptest! {
    #[test]
    fn any_order_of_dropping_destroys_everything(order in Just((0..15).collect::<Vec<usize>>()).prop_shuffle()) {
        let machine = Machine::new();
        let mut all: Vec<Option<Box<dyn Any>>> = everything(&machine).into_iter().map(Some).collect();
        prop_assert_eq!(all.len(), order.len());
        let made = machine.state().objects.len();
        for index in order {
            drop(all[index].take());
        }
        prop_assert_eq!(&machine.state().objects, &std::collections::BTreeMap::new());
        prop_assert_eq!(machine.state().destroyed.len(), made);
        prop_assert!(machine.state().mappings.is_empty());
    }

    #[test]
    fn an_allocation_that_fails_leaves_nothing(call in prop::sample::select(vec![
        "ioas_alloc", "hwpt_alloc", "fault_queue_alloc", "viommu_alloc", "vdevice_alloc", "veventq_alloc", "hw_queue_alloc", "ioas_map",
    ])) {
        let machine = Machine::new();
        machine.fail(call, Errno::NOMEM);
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| everything(&machine))).is_err();
        prop_assert!(failed, "the test unwraps every call");
        prop_assert_eq!(&machine.state().objects, &std::collections::BTreeMap::new());
    }
}

fn ids(machine: &Machine) -> Vec<u32> {
    machine.state().objects.keys().copied().collect()
}

#[test]
fn an_object_in_use_is_destroyed_when_the_next_one_goes() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let [first, second, third] = [(); 3].map(|()| iommufd.alloc_ioas().unwrap());
    let busy = first.id().0;
    machine.fail("destroy", Errno::BUSY);
    drop(first);
    // Still in use.
    machine.fail("destroy", Errno::BUSY);
    machine.fail("destroy", Errno::BUSY);
    let parked = second.id().0;
    drop(second);
    assert_eq!(ids(&machine), [busy, parked, third.id().0]);
    drop(third);
    assert_eq!(ids(&machine), []);
}

#[test]
fn a_child_in_use_takes_its_parent_with_it_when_it_goes() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let device = Device::new(&iommufd);
    let ioas = iommufd.alloc_ioas().unwrap();
    let table = Hwpt::alloc(
        &device,
        HwptParent::Ioas(&ioas),
        HwptFlags::empty(),
        HwptData::None,
        None,
    )
    .unwrap();
    machine.fail("destroy", Errno::BUSY);
    drop((table, ioas));
    assert_eq!(
        ids(&machine),
        [device.0.id().0],
        "the parent's end is the child's next chance"
    );
}

#[test]
fn marks_are_cleared_only_where_the_mappings_are_known() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let device = Device::new(&iommufd);
    let ioas = iommufd.alloc_ioas().unwrap();
    let alloc = |parent| Hwpt::alloc(&device, parent, HwptFlags::empty(), HwptData::None, None).unwrap();
    let parent = alloc(HwptParent::Ioas(&ioas));
    let viommu = Viommu::alloc(&device, &parent, ViommuKind::ARM_SMMUV3, &mut []).unwrap();
    let mut bitmap = DirtyBitmap::new(IovaRange::new(Iova(0x1000), 4096).unwrap(), 4096).unwrap();
    parent.dirty_bitmap(&mut bitmap, true).unwrap();
    for own in [alloc(HwptParent::Hwpt(&parent)), alloc(HwptParent::Viommu(&viommu))] {
        own.dirty_bitmap(&mut bitmap, false).unwrap();
        let refused = own.dirty_bitmap(&mut bitmap, true).unwrap_err();
        assert!(matches!(refused.kind, ErrorKind::Invalid(_)));
    }
}

#[test]
fn a_number_is_not_destroyed_twice() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let (first, second) = (iommufd.alloc_ioas().unwrap(), iommufd.alloc_ioas().unwrap());
    let leaked = first.id().0;
    machine.fail("destroy", Errno::NOENT);
    drop(first);
    drop(second);
    assert_eq!(ids(&machine), [leaked], "who knows whose it is now");
}

#[test]
fn objects_in_use_are_tried_a_bounded_number_of_times() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let all: Vec<_> = (0..200).map(|_| iommufd.alloc_ioas().unwrap()).collect();
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&calls);
    machine.observe(move |_| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    for _ in 0..100_000 {
        machine.fail("destroy", Errno::BUSY);
    }
    drop(all);
    assert!(calls.load(std::sync::atomic::Ordering::Relaxed) <= 200 * 65);
    // Closing the file is what frees them.
    drop(iommufd);
    assert_eq!(std::sync::Arc::strong_count(&machine), 1);
}

#[test]
fn an_object_in_use_is_left_alone_where_others_have_the_iommufd() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let [first, second, third] = [(); 3].map(|()| iommufd.alloc_ioas().unwrap());
    let left = first.id().0;
    machine.fail("destroy", Errno::BUSY);
    drop(first);
    assert_eq!(iommufd.orphans().count(), 1);
    iommufd.set_vfio_ioas(&second).unwrap();
    // It was an orphan before, and its number may be another's now.
    drop(third);
    assert_eq!(iommufd.orphans().count(), 0, "it was said to be leaked");
    machine.fail("destroy", Errno::BUSY);
    let busy = second.id().0;
    drop(second);
    drop(iommufd.alloc_ioas().unwrap());
    assert_eq!(ids(&machine), [left, busy]);
}

#[test]
fn objects_of_two_iommufds_do_not_mix() {
    let machine = Machine::new();
    let (one, other) = (iommufd(&machine), iommufd(&machine));
    let ioas = one.alloc_ioas().unwrap();
    let device = Device::new(&other);
    let made = Hwpt::alloc(
        &device,
        HwptParent::Ioas(&ioas),
        HwptFlags::empty(),
        HwptData::None,
        None,
    );
    assert!(matches!(made.unwrap_err().kind, ErrorKind::Invalid(_)));
    assert!(matches!(
        other.set_vfio_ioas(&ioas).unwrap_err().kind,
        ErrorKind::Invalid(_)
    ));
    assert!(matches!(one.hw_info(&device).unwrap_err().kind, ErrorKind::Invalid(_)));
}

#[test]
fn a_device_that_cannot_ask_for_pages_is_not_called_gone() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let (device, ioas) = (Device::new(&iommufd), iommufd.alloc_ioas().unwrap());
    let faults = iommufd.alloc_fault_queue().unwrap();
    let alloc = |fault| {
        Hwpt::alloc(
            &device,
            HwptParent::Ioas(&ioas),
            HwptFlags::empty(),
            HwptData::None,
            fault,
        )
        .unwrap()
    };
    let attached = alloc(Some(&faults)).object().attach_error(Errno::NODEV);
    assert!(matches!(
        attached,
        ErrorKind::Unsupported {
            errno: Errno::NODEV,
            ..
        }
    ));
    assert_eq!(
        alloc(None).object().attach_error(Errno::NODEV),
        ErrorKind::Gone(Errno::NODEV)
    );
}

#[test]
fn hardware_information_of_any_length_is_read_whole() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let device = Device::new(&iommufd);
    for len in [0, 1, 63, 64, 65, 5000] {
        machine.state().hw_info = (0..=u8::MAX).cycle().take(len).collect();
        let info = iommufd.hw_info(&device).unwrap();
        let bytes = machine.state().hw_info.clone();
        assert_eq!(
            info.data,
            HwInfoData::Other {
                kind: HwInfoKind(99),
                bytes
            }
        );
        assert_eq!(info.max_pasid_log2, 20);
    }
    machine.state().hw_info = vec![0; 1 << 17];
    assert!(matches!(
        iommufd.hw_info(&device).unwrap_err().kind,
        ErrorKind::Malformed(_)
    ));
}

#[test]
fn an_invalidation_says_how_far_it_came() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let (device, ioas) = (Device::new(&iommufd), iommufd.alloc_ioas().unwrap());
    let hwpt = Hwpt::alloc(
        &device,
        HwptParent::Ioas(&ioas),
        HwptFlags::empty(),
        HwptData::None,
        None,
    )
    .unwrap();
    let entry = VtdS1Invalidation {
        address: 0x1000,
        pages: 1,
        leaf: true,
    };
    assert_eq!(hwpt.invalidate(Invalidation::VtdS1(&[entry; 2])).unwrap(), 2);
    let stopped = hwpt.invalidate(Invalidation::VtdS1(&[entry; 5])).unwrap_err();
    assert_eq!((stopped.handled, stopped.error.errno()), (2, Some(Errno::IO)));
    let cut = Invalidation::Raw {
        kind: 0,
        entry_len: 8,
        entries: &[0; 12],
    };
    assert!(matches!(
        hwpt.invalidate(cut).unwrap_err().error.kind,
        ErrorKind::Invalid(_)
    ));
    let none = Invalidation::Raw {
        kind: 0,
        entry_len: 0,
        entries: &[],
    };
    assert!(matches!(
        hwpt.invalidate(none).unwrap_err().error.kind,
        ErrorKind::Invalid(_)
    ));
}

#[test]
fn what_a_kernel_does_not_offer_is_named_with_what_does() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let (device, ioas) = (Device::new(&iommufd), iommufd.alloc_ioas().unwrap());
    let hwpt = Hwpt::alloc(
        &device,
        HwptParent::Ioas(&ioas),
        HwptFlags::empty(),
        HwptData::None,
        None,
    )
    .unwrap();
    let error = hwpt.set_dirty_tracking(true).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unsupported { errno: Errno::OPNOTSUPP, since } if since.contains("6.7")));
    let error = ioas.get_pa(Iova(0)).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unsupported { errno: Errno::NOTTY, since } if since.contains("7.3")));
    assert!(matches!(
        iommufd.rlimit_mode().unwrap_err().kind,
        ErrorKind::Malformed(_)
    ));
    assert_eq!(iommufd.vfio_ioas().unwrap(), None);
    assert!(matches!(
        iommufd.try_clone_fd().unwrap_err().kind,
        ErrorKind::Unsupported { .. }
    ));
}

#[test]
fn bits_beyond_a_bitmap_are_no_pages() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let (device, ioas) = (Device::new(&iommufd), iommufd.alloc_ioas().unwrap());
    let hwpt = Hwpt::alloc(
        &device,
        HwptParent::Ioas(&ioas),
        HwptFlags::empty(),
        HwptData::None,
        None,
    )
    .unwrap();
    let range = IovaRange::new(Iova(0x4000), 70 * 4096).unwrap();
    let mut bitmap = DirtyBitmap::new(range, 4096).unwrap();
    hwpt.dirty_bitmap(&mut bitmap, true).unwrap();
    assert_eq!(bitmap.ranges().collect::<Vec<_>>(), [range]);
}

#[test]
fn data_has_a_type() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let (device, ioas) = (Device::new(&iommufd), iommufd.alloc_ioas().unwrap());
    let alloc = |kind, bytes| {
        let data = HwptData::Raw { kind, bytes };
        Hwpt::alloc(&device, HwptParent::Ioas(&ioas), HwptFlags::empty(), data, None)
    };
    assert!(matches!(alloc(0, &[1]).unwrap_err().kind, ErrorKind::Invalid(_)));
    alloc(0, &[]).unwrap();
    alloc(9, &[1]).unwrap();
}

#[test]
fn what_is_missing_is_not_called_removed() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let (device, ioas) = (Device::new(&iommufd), iommufd.alloc_ioas().unwrap());
    for errno in [Errno::NODEV, Errno::NXIO] {
        machine.fail("hwpt_alloc", errno);
        let made = Hwpt::alloc(
            &device,
            HwptParent::Ioas(&ioas),
            HwptFlags::empty(),
            HwptData::None,
            None,
        );
        assert_eq!(made.unwrap_err().kind, ErrorKind::Os(errno));
    }
}

#[test]
fn clearing_a_part_of_a_mapping_would_lose_writes() {
    let machine = Machine::new();
    let iommufd = iommufd(&machine);
    let (device, ioas) = (Device::new(&iommufd), iommufd.alloc_ioas().unwrap());
    let table = Hwpt::alloc(
        &device,
        HwptParent::Ioas(&ioas),
        HwptFlags::DIRTY_TRACKING,
        HwptData::None,
        None,
    )
    .unwrap();
    let _mapping = ioas
        .map(memory(2), 0..8192, Placement::Fixed(Iova(0x4000)), RW)
        .unwrap();
    let read = |start, pages: u64, clear| {
        let range = IovaRange::new(Iova(start), pages * 4096).unwrap();
        table.dirty_bitmap(&mut DirtyBitmap::new(range, 4096).unwrap(), clear)
    };
    for (start, pages) in [(0x4000, 1), (0x5000, 1), (0x5000, 2), (0x3000, 2)] {
        assert!(matches!(
            read(start, pages, true).unwrap_err().kind,
            ErrorKind::Invalid(_)
        ));
        read(start, pages, false).unwrap();
    }
    read(0x4000, 2, true).unwrap();
    read(0x3000, 4, true).unwrap();
}
