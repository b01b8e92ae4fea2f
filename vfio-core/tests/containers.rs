//! Containers on the fake machine, in all four of their ways: what is mapped, who holds it, and what errors say.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use pci::{Bdf, GroupId};
use std::sync::Arc;
use vfio_core::fake::{Copier, Machine};
use vfio_core::{
    Access, AttachedGroup, Container, ContainerPath, DirtyBitmap, Errno, ErrorKind, Group, IommuType, Iova, IovaRange,
    Memory, MemoryOptions, RegionIndex,
};

const GROUP: GroupId = GroupId(7);
const SIZE: usize = 64 << 10;
const READ_WRITE: Access = Access::READ.union(Access::WRITE);

const WAYS: [(ContainerPath, IommuType); 4] = [
    (ContainerPath::Vfio, IommuType::Type1),
    (ContainerPath::Vfio, IommuType::Type1v2),
    (ContainerPath::Iommu, IommuType::Type1),
    (ContainerPath::Iommu, IommuType::Type1v2),
];

fn bdf() -> Bdf {
    "0000:01:00.0".parse().unwrap()
}

fn machine() -> Machine {
    Machine::builder().device(bdf(), GROUP, Copier::new()).build()
}

fn attached(machine: &Machine, path: ContainerPath, kind: IommuType) -> AttachedGroup {
    let group = Group::open(&machine.system(), GROUP).unwrap();
    Container::with_group(&machine.system(), path, kind, &group).unwrap()
}

fn memory() -> Arc<Memory> {
    Arc::new(Memory::new(SIZE, MemoryOptions::default()).unwrap())
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

#[test]
fn a_guard_never_unmaps_what_came_after_it() {
    for (path, kind) in WAYS {
        let machine = machine();
        let group = attached(&machine, path, kind);
        let device = group.device(bdf(), None).unwrap();
        let container = group.container();
        let first = container.map(memory(), 0..SIZE, Iova(1 << 20), READ_WRITE).unwrap();
        assert_eq!(container.unmap(first.range()).unwrap(), SIZE as u64);
        let second = container.map(memory(), 0..SIZE, Iova(1 << 20), READ_WRITE).unwrap();
        first.unmap().unwrap();
        assert_eq!(
            container.unmap_all().unwrap(),
            SIZE as u64,
            "{path:?} {kind:?}: the second was still there"
        );
        second.unmap().unwrap();
        assert_eq!(container.unmap_all().unwrap_or(0), 0);
        drop((device, group));
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}

#[test]
fn what_a_failed_ranged_unmap_may_have_taken_is_not_unmapped_again() {
    // Whether the kernel may have begun before it said so.
    for (errno, begun) in [
        (Errno::INVAL, false),
        (Errno::OVERFLOW, false),
        (Errno::BUSY, true),
        (Errno::FAULT, true),
    ] {
        for (path, kind) in WAYS {
            let machine = machine();
            let group = attached(&machine, path, kind);
            let container = group.container();
            let memory = memory();
            let held = Arc::downgrade(&memory);
            let mapping = container.map(memory, 0..SIZE, Iova(1 << 20), READ_WRITE).unwrap();
            machine.fail_next("VFIO_IOMMU_UNMAP_DMA", errno);
            container.unmap(range(1 << 20, SIZE as u64)).unwrap_err();
            assert_eq!(mapping.is_mapped(), !begun, "{path:?} {kind:?} {errno}");
            assert_eq!(mapping.unmap().is_err(), begun, "{path:?} {kind:?} {errno}");
            assert_eq!(held.upgrade().is_some(), begun, "{path:?} {kind:?} {errno}: leaked");
            let left = if begun { SIZE as u64 } else { 0 };
            let got = match container.unmap_all().map_err(|error| error.kind) {
                // More than is known of.
                Err(ErrorKind::ShortUnmap { want: 0, got }) => got,
                all => all.unwrap_or(0),
            };
            assert_eq!(got, left, "{path:?} {kind:?} {errno}");
        }
    }
}

#[test]
fn a_range_that_cuts_a_mapping_is_refused_whole() {
    for (path, kind) in WAYS {
        let machine = machine();
        let group = attached(&machine, path, kind);
        let container = group.container();
        let mapping = container.map(memory(), 0..SIZE, Iova(1 << 20), READ_WRITE).unwrap();
        for part in [
            range(1 << 20, 4096),
            range((1 << 20) - 4096, 8192),
            range((1 << 20) + 4096, 1 << 20),
        ] {
            let refused = container.unmap(part).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::NotMapped(part), "{path:?} {kind:?}");
        }
        mapping.unmap().unwrap();
    }
}

#[test]
fn mappings_end_with_the_last_group() {
    for (path, kind) in WAYS {
        let machine = machine();
        let group = attached(&machine, path, kind);
        let container = group.container().clone();
        let mapping = container.map(memory(), 0..SIZE, Iova(1 << 20), READ_WRITE).unwrap();
        drop(group);
        // Type1 has forgotten it; an iommufd has not.
        mapping.unmap().unwrap();
        drop(container);
        assert_eq!(machine.leaks(), Vec::<String>::new(), "{path:?} {kind:?}");
        let by_the_kernel = usize::from(path == ContainerPath::Vfio);
        assert_eq!(machine.abandoned().len(), by_the_kernel, "{path:?} {kind:?}");
    }
}

#[test]
fn what_is_refused_with_its_bits_is_unmapped_without() {
    for (path, kind) in WAYS {
        let machine = machine();
        let group = attached(&machine, path, kind);
        let container = group.container();
        let memory = memory();
        let held = Arc::downgrade(&memory);
        let mapping = container.map(memory, 0..SIZE, Iova(1 << 20), READ_WRITE).unwrap();
        let mut dirty = DirtyBitmap::new(mapping.range(), 4096).unwrap();
        // Nothing is logged.
        let refused = mapping.unmap_dirty(&mut dirty).unwrap_err();
        assert!(
            matches!(refused.kind, ErrorKind::DirtyUnknown { errno: Some(_), .. }),
            "{path:?} {kind:?}: {refused}"
        );
        assert_eq!(container.unmap_all().unwrap_or(0), 0, "{path:?} {kind:?}: it is gone");
        assert!(held.upgrade().is_none(), "{path:?} {kind:?}: and its memory not leaked");
    }
}

#[test]
fn what_a_ranged_unmap_took_has_no_bits() {
    for (path, kind) in WAYS {
        let machine = machine();
        let group = attached(&machine, path, kind);
        let container = group.container();
        let memory = memory();
        let held = Arc::downgrade(&memory);
        let mapping = container.map(memory, 0..SIZE, Iova(1 << 20), READ_WRITE).unwrap();
        let range = mapping.range();
        let mut dirty = DirtyBitmap::new(range, 4096).unwrap();
        container.unmap(range).unwrap();
        let unknown = mapping.unmap_dirty(&mut dirty).unwrap_err();
        assert_eq!(
            unknown.kind,
            ErrorKind::DirtyUnknown { range, errno: None },
            "{path:?} {kind:?}"
        );
        assert!(held.upgrade().is_none(), "{path:?} {kind:?}: its memory is not leaked");
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    for (path, kind) in WAYS {
        let machine = machine();
        let group = attached(&machine, path, kind);
        let _device = group.device(bdf(), None).unwrap();
        let container = group.container();
        let map = |part, iova, access| container.map(memory(), part, Iova(iova), access);
        let kept = map(0..SIZE, 1 << 20, READ_WRITE).unwrap();
        let overlap = map(0..4096, (1 << 20) + 4096, READ_WRITE).unwrap_err();
        assert_eq!(overlap.kind, ErrorKind::AlreadyMapped(range((1 << 20) + 4096, 4096)));
        let reserved = map(0..4096, 0xfee0_0000, READ_WRITE).unwrap_err();
        assert_eq!(
            reserved.kind,
            ErrorKind::NotAllowed(range(0xfee0_0000, 4096)),
            "{path:?} {kind:?}"
        );
        assert!(reserved.fix().is_some());
        let past = map(0..8192, u64::MAX - 4095, READ_WRITE).unwrap_err();
        assert_eq!(past.kind, ErrorKind::Os(Errno::OVERFLOW));
        for (part, iova, access) in [
            (0..SIZE + 4096, 0, READ_WRITE),
            (std::ops::Range { start: 4096, end: 0 }, 0, READ_WRITE),
            (0..0, 0, READ_WRITE),
            (0..4096, 0, Access::empty()),
            (0..4096, 5, READ_WRITE),
        ] {
            let refused = map(part.clone(), iova, access).unwrap_err();
            assert!(
                matches!(refused.kind, ErrorKind::Invalid(_) | ErrorKind::Misaligned { .. }),
                "{part:?} {iova}: {refused}"
            );
        }
        kept.unmap().unwrap();
    }
}

#[test]
fn limits_say_what_is_needed() {
    let builder = Machine::builder()
        .device(bdf(), GROUP, Copier::new())
        .memlock(SIZE as u64);
    let machine = builder.build();
    let group = attached(&machine, ContainerPath::Vfio, IommuType::Type1v2);
    let first = group.container().map(memory(), 0..SIZE, Iova(0), READ_WRITE).unwrap();
    let refused = group
        .container()
        .map(memory(), 0..4096, Iova(1 << 20), READ_WRITE)
        .unwrap_err();
    let limit = ErrorKind::MemlockExceeded {
        need: SIZE as u64 + 4096,
        limit: SIZE as u64,
    };
    assert_eq!(refused.kind, limit);
    drop((first, group));

    let builder = Machine::builder().device(bdf(), GROUP, Copier::new()).mapping_limit(1);
    let machine = builder.build();
    let group = attached(&machine, ContainerPath::Vfio, IommuType::Type1v2);
    assert_eq!(group.container().info().unwrap().mappings_available, Some(1));
    let _first = group.container().map(memory(), 0..4096, Iova(0), READ_WRITE).unwrap();
    let refused = group
        .container()
        .map(memory(), 0..4096, Iova(1 << 20), READ_WRITE)
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::MappingLimit);
    assert!(refused.fix().unwrap().contains("dma_entry_limit"));
}

#[test]
fn a_group_with_a_host_driver_is_not_viable() {
    let machine = Machine::builder()
        .device(bdf(), GROUP, Copier::new())
        .bystander("0000:01:00.1".parse().unwrap(), GROUP)
        .build();
    let group = Group::open(&machine.system(), GROUP).unwrap();
    assert!(!group.viable().unwrap());
    let container = Container::open(&machine.system(), ContainerPath::Vfio).unwrap();
    let refused = container.add(&group).unwrap_err();
    assert!(
        matches!(refused.kind, ErrorKind::GroupNotViable { group: GROUP, .. }),
        "{refused}"
    );
}

#[test]
fn a_group_is_opened_once_and_is_in_one_container() {
    let machine = machine();
    let group = attached(&machine, ContainerPath::Vfio, IommuType::Type1v2);
    let again = Group::open(&machine.system(), GROUP).unwrap_err();
    assert!(matches!(again.kind, ErrorKind::Busy(_)), "{again}");
    let other = Container::open(&machine.system(), ContainerPath::Vfio).unwrap();
    let refused = other.add(group.group()).unwrap_err();
    assert!(matches!(refused.kind, ErrorKind::Busy(_)), "{refused}");
    let early = other.set_iommu(IommuType::Type1).unwrap_err();
    assert!(
        matches!(early.kind, ErrorKind::Invalid(_)),
        "a container without a group: {early}"
    );
    let elsewhere = group.device("0000:02:00.0".parse().unwrap(), None).unwrap_err();
    assert!(matches!(elsewhere.kind, ErrorKind::NotFound(_)), "{elsewhere}");
}

#[test]
fn a_device_of_a_group_has_no_address_space_of_its_own() {
    let machine = machine();
    let group = attached(&machine, ContainerPath::Vfio, IommuType::Type1v2);
    let device = group.device(bdf(), None).unwrap();
    assert!(device.iommufd_device().is_none());
    let iommufd = vfio_core::iommufd::Iommufd::open(&machine.system()).unwrap();
    let refused = device.attach(&iommufd.alloc_ioas().unwrap(), None).unwrap_err();
    assert!(matches!(refused.kind, ErrorKind::Invalid(_)), "{refused}");
    // The device holds group and container.
    drop(group);
    device.region(RegionIndex::BAR0).unwrap();
    let set = device.hot_reset_set().unwrap();
    assert_eq!((set.groups(), set.is_owned), (vec![GROUP], None));
    let stranger = device.hot_reset(&[]);
    assert!(stranger.is_err(), "no group proves that the device is ours");
    device.hot_reset(&[device.group().unwrap().group()]).unwrap();
}

#[test]
fn pages_that_a_device_may_have_written_are_dirty() {
    let machine = machine();
    let group = attached(&machine, ContainerPath::Vfio, IommuType::Type1v2);
    let container = group.container();
    let logging = container.info().unwrap().dirty_logging.unwrap();
    let page_size = 1 << logging.page_sizes.trailing_zeros();
    let mapping = container.map(memory(), 0..SIZE, Iova(1 << 20), READ_WRITE).unwrap();
    let mut dirty = DirtyBitmap::new(mapping.range(), page_size).unwrap();
    assert!(container.dirty_bitmap(&mut dirty).is_err(), "nothing is logged");
    container.dirty_start().unwrap();
    container.dirty_bitmap(&mut dirty).unwrap();
    assert_eq!(dirty.count(), SIZE as u64 / page_size, "all that is pinned");
    let mut other = DirtyBitmap::new(range(0, 4096), page_size).unwrap();
    let mapping = match mapping.unmap_dirty(&mut other) {
        Err(error) if matches!(error.kind, ErrorKind::Invalid(_)) => {
            container.map(memory(), 0..SIZE, Iova(1 << 20), READ_WRITE).unwrap()
        }
        unexpected => panic!("a bitmap of another range: {unexpected:?}"),
    };
    dirty.clear();
    mapping.unmap_dirty(&mut dirty).unwrap();
    assert_eq!(dirty.count(), SIZE as u64 / page_size);
    container.dirty_stop().unwrap();
}
