//! Devices among others: tokens, hot reset, peer to peer, low power, removal; and the machine as a whole.

use super::*;

#[test]
fn virtual_functions_need_the_token_of_their_physical_function() {
    let (pf, vf) = (bdf("0000:01:00.0"), bdf("0000:01:10.0"));
    let machine = Machine::builder()
        .device(pf, GroupId(7), Plain::default())
        .virtual_function(vf, GroupId(8), pf, Plain::default())
        .build();
    let iommufd = iommufd(&machine);
    let (physical, virtual_function) = (cdev(&machine, 0), cdev(&machine, 1));
    let number = iommufd.number();
    let (right, wrong) = (Some([7; 16]), Some([8; 16]));
    physical.bind_iommufd(number, right).unwrap();
    assert_eq!(virtual_function.bind_iommufd(number, None), Err(Errno::ACCESS));
    assert_eq!(virtual_function.bind_iommufd(number, wrong), Err(Errno::ACCESS));
    virtual_function.bind_iommufd(number, right).unwrap();
    drop(physical);
    let physical = cdev(&machine, 0);
    assert_eq!(
        physical.bind_iommufd(number, None),
        Err(Errno::ACCESS),
        "a VF is in use"
    );
    physical.bind_iommufd(number, right).unwrap();
    let set = uapi::VFIO_DEVICE_FEATURE_PCI_VF_TOKEN | uapi::VFIO_DEVICE_FEATURE_SET;
    physical.feature(set, &mut [9; 16]).unwrap();
    assert_eq!(virtual_function.feature(set, &mut [9; 16]), Err(Errno::NOTTY));
    drop(virtual_function);
    let group = group(&machine, 8).unwrap();
    let container = container(&machine, "/dev/vfio/vfio");
    group.set_container(&*container).unwrap();
    container.set_iommu(uapi::VFIO_TYPE1v2_IOMMU).unwrap();
    let token = |digit: &str| format!("{vf} vf_token={}", ["09"; 16].concat().replace("09", digit));
    assert_eq!(
        group.device(&token("09")).map(|_| ()),
        Err(Errno::INVAL),
        "a UUID has dashes"
    );
    let uuid = "09090909-0909-0909-0909-090909090909";
    assert!(group.device(&format!("{vf} vf_token={uuid}")).is_ok());
    assert_eq!(group.device(&vf.to_string()).map(|_| ()), Err(Errno::ACCESS));
}

#[test]
fn a_hot_reset_takes_all_of_the_bus() {
    let machine = Machine::builder()
        .device(bdf("0000:01:00.0"), GroupId(7), Plain::default())
        .device(bdf("0000:01:00.1"), GroupId(8), Plain::default())
        .device(bdf("0000:02:00.0"), GroupId(9), Plain::default())
        .build();
    let iommufd = iommufd(&machine);
    let (first, second) = (cdev(&machine, 0), cdev(&machine, 1));
    let id = first.bind_iommufd(iommufd.number(), None).unwrap();
    let (flags, devices) = first.hot_reset_info().unwrap();
    assert_eq!(flags, uapi::VFIO_PCI_HOT_RESET_FLAG_DEV_ID, "not all of it is ours");
    assert_eq!(
        devices
            .iter()
            .map(|device| (device.id, device.devfn))
            .collect::<Vec<_>>(),
        [(id, 0), (u32::MAX, 1)]
    );
    assert_eq!(first.hot_reset(&[]), Err(Errno::INVAL));
    second.bind_iommufd(iommufd.number(), None).unwrap();
    assert_eq!(first.hot_reset_info().unwrap().0, 3);
    second.write(0x20, &[1]).unwrap();
    first.hot_reset(&[]).unwrap();
    assert_eq!(read_u32(&second, 0x20), 0);
    drop((first, second));
    let groups = [7, 8].map(|number| group(&machine, number).unwrap());
    let container = container(&machine, "/dev/vfio/vfio");
    groups
        .iter()
        .for_each(|group| group.set_container(&*container).unwrap());
    container.set_iommu(uapi::VFIO_TYPE1v2_IOMMU).unwrap();
    let device = groups[0].device("0000:01:00.0").unwrap();
    assert_eq!(device.hot_reset(&[]), Err(Errno::INVAL), "groups are wanted");
    assert_eq!(device.hot_reset(&[&*groups[0]]), Err(Errno::INVAL), "one is missing");
    device.hot_reset(&[&*groups[0], &*groups[1]]).unwrap();
}

#[test]
fn a_dma_buf_reaches_registers_of_another_device() {
    let machine = Machine::builder()
        .device(bdf("0000:01:00.0"), GroupId(7), Copier::new())
        .device(bdf("0000:02:00.0"), GroupId(8), Plain::default())
        .build();
    let iommufd = iommufd(&machine);
    let (engine, peer) = (cdev(&machine, 0), cdev(&machine, 1));
    engine.bind_iommufd(iommufd.number(), None).unwrap();
    peer.bind_iommufd(iommufd.number(), None).unwrap();
    engine.write(CONFIG + 4, &MASTER).unwrap();
    let get = uapi::VFIO_DEVICE_FEATURE_DMA_BUF | uapi::VFIO_DEVICE_FEATURE_GET;
    let request = |index: u32, offset: u64, len: u64| {
        let mut data: Vec<u8> = [index, 0, 0, 1].into_iter().flat_map(u32::to_ne_bytes).collect();
        data.extend([offset, len].into_iter().flat_map(u64::to_ne_bytes));
        peer.feature_descriptor(get, &mut data)
    };
    assert_eq!(request(0, 0x800, 0x1000).map(|_| ()), Err(Errno::INVAL), "off a page");
    assert_eq!(
        request(0, 0xf000, 0x2000).map(|_| ()),
        Err(Errno::INVAL),
        "beyond the BAR"
    );
    assert_eq!(request(1, 0, 0x1000).map(|_| ()), Err(Errno::NODEV), "no such BAR");
    let file = request(0, 0x1000, 0x2000).unwrap();
    let ioas = iommufd.ioas_alloc().unwrap();
    let map = |start, len, iova| iommufd.ioas_map_file(ioas, file.as_fd(), start, len, Some(iova), BOTH);
    assert_eq!(map(0x1000, 0x2000, 0), Err(Errno::INVAL), "beyond the end");
    map(0x1000, 0x1000, 0x50000).unwrap();
    engine.attach(ioas, None).unwrap();
    assert_eq!(machine.pinned(), 0, "registers are not memory");
    let fill = |byte: u64| {
        engine
            .write(8, &[byte, 0x50010, 8].map(u64::to_le_bytes).concat())
            .unwrap();
        engine.write(0x28, &2_u32.to_le_bytes()).unwrap();
        read_u32(&engine, 0x2c)
    };
    assert_eq!(fill(0xab), 1);
    assert_eq!(read_u32(&peer, 0x2014), 0xabab_abab);
    peer.write(CONFIG + 4, &[0, 0]).unwrap();
    assert_eq!(fill(0xab), 2, "memory of the other one is off");
    drop(peer);
    assert_eq!(map(0, 0x1000, 0x60000), Err(Errno::NODEV), "taken back");
}

#[test]
fn low_power_ends_with_a_wake_up() {
    let (machine, _iommufd, device) = with(Plain::default());
    let event = EventFd::new().unwrap();
    let set = |feature, data: &mut [u8]| device.feature(feature | uapi::VFIO_DEVICE_FEATURE_SET, data);
    let registers = device.map(0, 4096, BOTH, 4096, 0).unwrap();
    set(uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, &mut []).unwrap();
    assert_eq!(
        set(uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, &mut []),
        Err(Errno::INVAL),
        "asleep already"
    );
    assert_eq!(registers.read_u32(0), u32::MAX);
    set(uapi::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, &mut []).unwrap();
    assert_eq!(registers.read_u32(0), 0);
    let number = std::os::fd::AsRawFd::as_raw_fd(&event.as_fd());
    let mut entry = [number.to_ne_bytes(), [0; 4]].concat();
    set(uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, &mut entry).unwrap();
    assert_eq!(event.try_read().unwrap(), None);
    machine.poke(bdf("0000:01:00.0"));
    assert_eq!(event.try_read().unwrap(), Some(1));
    set(uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, &mut entry).unwrap();
    assert_eq!(read_u32(&device, 0), 0, "a call wakes it");
    assert_eq!(event.try_read().unwrap(), Some(1));
    set(uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, &mut []).unwrap();
    assert_eq!(read_u32(&device, 0), 0, "a call wakes it for as long as it takes");
    assert_eq!(registers.read_u32(0), u32::MAX);
    set(uapi::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, &mut []).unwrap();
    let probe = |feature| device.feature(feature | uapi::VFIO_DEVICE_FEATURE_PROBE, &mut []);
    assert_eq!(probe(uapi::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT), Ok(()));
    assert_eq!(probe(uapi::VFIO_DEVICE_FEATURE_MIGRATION), Err(Errno::NOTTY));
    assert_eq!(probe(uapi::VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2), Err(Errno::INVAL));
    assert_eq!(probe(uapi::VFIO_DEVICE_FEATURE_BUS_MASTER), Err(Errno::NOTTY));
    let get = uapi::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | uapi::VFIO_DEVICE_FEATURE_GET;
    assert_eq!(device.feature(get, &mut []), Err(Errno::INVAL), "it is set, not got");
}

#[test]
fn a_removed_device_is_gone() {
    let (machine, iommufd, device) = with(Copier::new());
    let (error, request) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    device
        .set_irqs(ERR, 0, TRIGGER, IrqData::Event(&[Some(error.as_fd())]))
        .unwrap();
    device
        .set_irqs(REQ, 0, TRIGGER, IrqData::Event(&[Some(request.as_fd())]))
        .unwrap();
    let ioas = iommufd.ioas_alloc().unwrap();
    device.attach(ioas, None).unwrap();
    let registers = device.map(0, 4096, BOTH, 4096, 0).unwrap();
    machine.remove(bdf("0000:01:00.0"));
    assert_eq!(
        [error.try_read().unwrap(), request.try_read().unwrap()],
        [Some(1), Some(1)]
    );
    assert_eq!(device.info(), Err(Errno::NODEV));
    assert_eq!(device.read(0, &mut [0; 4]), Err(Errno::NODEV));
    assert_eq!(device.attach(ioas, None), Err(Errno::NODEV));
    assert_eq!(registers.read_u32(0), u32::MAX);
    device.detach(None).unwrap();
    iommufd.destroy(ioas).unwrap();
    drop((registers, device));
    let files = machine.system();
    assert_eq!(
        files.files().cdev(Path::new("/dev/vfio/devices/vfio0")).map(|_| ()),
        Err(Errno::NODEV)
    );
    assert_eq!(group(&machine, 7).map(|_| ()), Err(Errno::NODEV));
    drop(iommufd);
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn without_an_iommu_addresses_are_physical() {
    let machine = Machine::builder()
        .device_without_iommu(bdf("0000:01:00.0"), GroupId(0), Copier::new())
        .build();
    let path = machine.cdev_path(bdf("0000:01:00.0")).unwrap();
    let device = machine.system().files().cdev(&path).unwrap();
    let iommufd = iommufd(&machine);
    device.bind_iommufd(iommufd.number(), None).unwrap();
    device.write(CONFIG + 4, &MASTER).unwrap();
    let ioas = iommufd.ioas_alloc().unwrap();
    let memory = Arc::new(Memory::new(8192, MemoryOptions::default()).unwrap());
    let stable: Arc<dyn StableMemory> = memory.clone();
    iommufd
        .ioas_map(ioas, &Lent::memory_to_fake(&stable), 0..8192, Some(0x10000), BOTH)
        .unwrap();
    assert_eq!(
        iommufd.ioas_noiommu_get_pa(ioas, 0x10000),
        Err(Errno::OPNOTSUPP),
        "nothing is attached"
    );
    device.attach(ioas, None).unwrap();
    let (physical, len) = iommufd.ioas_noiommu_get_pa(ioas, 0x10100).unwrap();
    assert_eq!(len, 0x1f00);
    assert_ne!(physical, 0x10100);
    assert_eq!(iommufd.ioas_noiommu_get_pa(ioas, 0x20000), Err(Errno::NOENT));
    memory.write(0x100, b"abc").unwrap();
    let copy = |from: u64, to: u64| {
        device.write(8, &[from, to, 3].map(u64::to_le_bytes).concat()).unwrap();
        device.write(0x28, &1_u32.to_le_bytes()).unwrap();
        read_u32(&device, 0x2c)
    };
    assert_eq!(copy(physical, physical + 0x1000), 1);
    let mut bytes = [0; 3];
    memory.read(0x1100, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abc");
    assert_eq!(copy(0x10100, physical), 2, "an IOVA is no address here");
    let container = container(&machine, "/dev/vfio/vfio");
    let group = machine.system().files().group(Path::new("/dev/vfio/noiommu-0"));
    assert_eq!(group.map(|_| ()), Err(Errno::BUSY));
    assert_eq!(container.check_extension(uapi::VFIO_NOIOMMU_IOMMU), Ok(1));
}

#[test]
fn memory_is_held_as_long_as_it_is_mapped() {
    let (_machine, iommufd, _device) = with(Plain::default());
    let ioas = iommufd.ioas_alloc().unwrap();
    let memory = memory(1);
    iommufd
        .ioas_map(ioas, &Lent::memory_to_fake(&memory), 0..4096, None, BOTH)
        .unwrap();
    let held = Arc::downgrade(&memory);
    drop(memory);
    assert!(held.upgrade().is_some());
    iommufd.ioas_unmap(ioas, 0, u64::MAX).unwrap();
    assert!(held.upgrade().is_none());
}

#[test]
fn calls_are_counted_and_named() {
    let (machine, iommufd, device) = with(Plain::default());
    machine.forget_calls();
    machine.fail_next("IOMMU_IOAS_ALLOC", Errno::NOMEM);
    assert!(device.info().is_ok());
    assert_eq!(iommufd.ioas_alloc(), Err(Errno::NOMEM));
    assert_eq!(iommufd.ioas_alloc(), Ok(2), "the device is 1");
    machine.fail_nth(1, Errno::IO);
    assert!(device.info().is_ok());
    assert_eq!(device.info(), Err(Errno::IO));
    assert_eq!(machine.failed().unwrap().as_str(), "VFIO_DEVICE_GET_INFO");
    let calls: Vec<String> = machine.calls().iter().map(ToString::to_string).collect();
    let info = "VFIO_DEVICE_GET_INFO";
    assert_eq!(calls, [info, "IOMMU_IOAS_ALLOC", "IOMMU_IOAS_ALLOC", info, info]);
    assert!(machine.leaks().contains(&"IOAS 2".to_owned()));
    drop((iommufd, device));
    assert_eq!(machine.abandoned(), ["IOAS 2"]);
    let none = Machine::builder()
        .iommu(Iommu::default())
        .iommufd(false)
        .type1(false)
        .build();
    let system: System = none.system();
    assert_eq!(
        system.files().iommufd(Path::new("/dev/iommu")).map(|_| ()),
        Err(Errno::NOENT)
    );
    assert_eq!(
        system.files().container(Path::new("/dev/vfio/vfio")).map(|_| ()),
        Err(Errno::NOENT)
    );
}
