//! Groups and containers of every kind.

use super::*;

#[test]
fn groups_and_containers() {
    let machine = Machine::builder()
        .device(bdf("0000:01:00.0"), GroupId(7), Copier::new())
        .bystander(bdf("0000:02:00.0"), GroupId(8))
        .device(bdf("0000:02:00.1"), GroupId(8), Copier::new())
        .build();
    let files = machine.system();
    assert_eq!(
        files.files().group(Path::new("/dev/vfio/9")).map(|_| ()),
        Err(Errno::NOENT)
    );
    let unviable = group(&machine, 8).unwrap();
    assert_eq!(unviable.status(), Ok(0));
    let container = container(&machine, "/dev/vfio/vfio");
    assert_eq!(unviable.set_container(&*container), Err(Errno::PERM));
    let group = group(&machine, 7).unwrap();
    assert_eq!(self::group(&machine, 7).map(|_| ()), Err(Errno::BUSY), "opens once");
    assert_eq!(group.status(), Ok(uapi::VFIO_GROUP_FLAGS_VIABLE));
    assert_eq!(
        group.device("0000:01:00.0").map(|_| ()),
        Err(Errno::INVAL),
        "no container"
    );
    assert_eq!(group.unset_container(), Err(Errno::INVAL));
    assert_eq!(
        container.set_iommu(uapi::VFIO_TYPE1_IOMMU),
        Err(Errno::INVAL),
        "no group"
    );
    assert_eq!(container.check_extension(uapi::VFIO_TYPE1v2_IOMMU), Ok(1));
    assert_eq!(container.check_extension(uapi::VFIO_NOIOMMU_IOMMU), Ok(0));
    group.set_container(&*container).unwrap();
    assert_eq!(group.set_container(&*container), Err(Errno::INVAL));
    assert_eq!(group.status(), Ok(3));
    assert_eq!(
        container.map_dma(&Lent::memory_to_fake(&memory(1)), 0..4096, 0, BOTH),
        Err(Errno::INVAL),
        "no IOMMU"
    );
    container.set_iommu(uapi::VFIO_TYPE1v2_IOMMU).unwrap();
    assert_eq!(container.set_iommu(uapi::VFIO_TYPE1v2_IOMMU), Err(Errno::INVAL));
    assert_eq!(group.device("0000:02:00.1").map(|_| ()), Err(Errno::NODEV));
    assert_eq!(group.device("0000:01:00.0 vf_token=x").map(|_| ()), Err(Errno::INVAL));
    let device = group.device("0000:01:00.0").unwrap();
    let again = group.device("0000:01:00.0").unwrap();
    assert_eq!(
        device.attach(1, None),
        Err(Errno::NOTTY),
        "a group's device is not attached"
    );
    assert_eq!(group.unset_container(), Err(Errno::BUSY));
    // Files are closed in any order; the device holds the group, and the group its container.
    drop((group, container));
    assert!(device.info().is_ok());
    drop(device);
    drop(again);
    drop(unviable);
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

fn type1(kind: u32, machine: &Machine) -> (Arc<dyn ContainerCalls>, Arc<dyn GroupCalls>) {
    let container = container(machine, "/dev/vfio/vfio");
    let group = group(machine, 7).unwrap();
    group.set_container(&*container).unwrap();
    container.set_iommu(kind).unwrap();
    (container, group)
}

fn limited() -> Machine {
    Machine::builder()
        .memlock(64 * 4096)
        .mapping_limit(2)
        .device(bdf("0000:01:00.0"), GroupId(7), Copier::new())
        .build()
}

#[test]
fn version_2_unmaps_what_was_mapped() {
    let machine = limited();
    let (container, _group) = type1(uapi::VFIO_TYPE1v2_IOMMU, &machine);
    let memory = memory(64);
    let map = |pages: usize, iova| container.map_dma(&Lent::memory_to_fake(&memory), 0..pages * 4096, iova, BOTH);
    map(4, 0x10000).unwrap();
    assert_eq!(map(1, 0x13000), Err(Errno::EXIST));
    assert_eq!(map(1, 0xfee0_0000), Err(Errno::INVAL), "reserved");
    assert_eq!(map(1, 1 << 48), Err(Errno::INVAL));
    assert_eq!(map(2, u64::MAX - 0xfff), Err(Errno::OVERFLOW));
    assert_eq!(map(1, 0x800), Err(Errno::INVAL), "alignment");
    assert_eq!(map(61, 0x100000), Err(Errno::NOMEM), "locked memory");
    map(60, 0x100000).unwrap();
    assert_eq!(map(1, 0x200000), Err(Errno::NOSPC), "as many mappings as there may be");
    assert_eq!(container.unmap_dma(0x10000, 0x1000, None), Err(Errno::INVAL), "a part");
    assert_eq!(container.unmap_dma(0x11000, 0x4000, None), Err(Errno::INVAL));
    assert_eq!(container.unmap_dma(0x8000, 0x1000, None), Ok(0), "nothing there");
    assert_eq!(
        container.unmap_dma(u64::MAX - 0xfff, 0x2000, None),
        Err(Errno::OVERFLOW)
    );
    let mut bits = [0; 1];
    assert_eq!(
        container.dirty_get(0x10000, 0x4000, 4096, &mut bits),
        Err(Errno::INVAL),
        "not logged"
    );
    container.dirty_start().unwrap();
    container.dirty_get(0xf000, 0x6000, 4096, &mut bits).unwrap();
    assert_eq!(bits, [0b1_1110], "all that is pinned");
    assert_eq!(
        container.dirty_get(0x11000, 0x3000, 4096, &mut bits),
        Err(Errno::INVAL),
        "cuts"
    );
    bits = [0];
    assert_eq!(
        container.unmap_dma(0x10000, 0x4000, Some((4096, &mut bits))),
        Ok(0x4000)
    );
    assert_eq!(bits, [0b1111]);
    container.dirty_stop().unwrap();
    assert_eq!(container.unmap_all(), Ok(60 * 4096));
    assert_eq!(machine.pinned(), 0);
}

#[test]
fn version_1_unmaps_from_the_first_byte_of_a_mapping() {
    let machine = limited();
    let (container, group) = type1(uapi::VFIO_TYPE1_IOMMU, &machine);
    container
        .map_dma(&Lent::memory_to_fake(&memory(4)), 0..4 * 4096, 0x10000, BOTH)
        .unwrap();
    assert_eq!(
        container.unmap_dma(0x11000, 0x1000, None),
        Ok(0),
        "inside: nothing, and no error"
    );
    assert_eq!(container.dirty_start(), Err(Errno::ACCESS));
    assert_eq!(container.unmap_dma(0x10000, 0x1000, None), Ok(0x4000), "all of it");
    container
        .map_dma(&Lent::memory_to_fake(&memory(4)), 0..4 * 4096, 0x10000, BOTH)
        .unwrap();
    group.unset_container().unwrap();
    assert_eq!(machine.pinned(), 0, "the last group takes it all along");
    assert_eq!(machine.abandoned().len(), 1);
}

#[test]
fn an_iommufd_as_a_container() {
    let machine = limited();
    let container = container(&machine, "/dev/iommu");
    assert_eq!(container.set_iommu(uapi::VFIO_TYPE1v2_IOMMU), Err(Errno::NODEV));
    let group = group(&machine, 7).unwrap();
    group.set_container(&*container).unwrap();
    container.set_iommu(uapi::VFIO_TYPE1_IOMMU).unwrap();
    let device = group.device("0000:01:00.0").unwrap();
    container
        .map_dma(&Lent::memory_to_fake(&memory(4)), 0..4 * 4096, 0x10000, BOTH)
        .unwrap();
    assert_eq!(
        container.unmap_dma(0x11000, 0x1000, None),
        Ok(0x1000),
        "version 1 cuts here"
    );
    assert_eq!(machine.pinned(), 3 * 4096);
    assert_eq!(container.unmap_dma(0x20000, 0x1000, None), Ok(0));
    assert_eq!(container.dirty_start(), Err(Errno::NOTTY));
    assert_eq!(container.unmap_all(), Ok(3 * 4096));
    let info = container.info().unwrap();
    assert_eq!(word(&info, 0) as usize, info.len());
    drop((device, group, container));
    assert_eq!(machine.leaks(), Vec::<String>::new());
    assert_eq!(
        machine.abandoned(),
        Vec::<String>::new(),
        "what the kernel made, the kernel ends"
    );
}
