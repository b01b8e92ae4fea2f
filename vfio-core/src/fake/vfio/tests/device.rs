//! One device: its regions, interrupts, DMA, log and migration.

use super::*;

#[test]
fn a_device_file_is_of_no_use_before_it_is_bound() {
    let machine = Machine::builder()
        .device(bdf("0000:01:00.0"), GroupId(7), Plain::default())
        .build();
    let device = cdev(&machine, 0);
    assert_eq!(device.info(), Err(Errno::INVAL));
    assert_eq!(device.read(0, &mut [0; 4]), Err(Errno::INVAL));
    assert_eq!(device.bind_iommufd(-1, None), Err(Errno::INVAL));
    assert_eq!(device.bind_iommufd(5, None), Err(Errno::BADF));
    let iommufd = iommufd(&machine);
    assert_eq!(
        device.bind_iommufd(iommufd.number(), Some([1; 16])),
        Err(Errno::INVAL),
        "no token is wanted"
    );
    device.bind_iommufd(iommufd.number(), None).unwrap();
    assert_eq!(
        device.bind_iommufd(iommufd.number(), None),
        Err(Errno::INVAL),
        "bound already"
    );
    assert_eq!(
        cdev(&machine, 0).bind_iommufd(iommufd.number(), None),
        Err(Errno::INVAL),
        "in use"
    );
    assert_eq!(group(&machine, 7).map(|_| ()), Err(Errno::BUSY));
    let none = |path| machine.system().files().cdev(Path::new(path)).map(|_| ());
    assert_eq!(none("/dev/vfio/devices/vfio1"), Err(Errno::NOENT));
    assert_eq!(none("/dev/vfio/devices/noiommu-vfio0"), Err(Errno::NOENT));
}

#[test]
fn regions_and_their_capabilities() {
    let description = Description::new(0x8086, 0x10ca)
        .region(Region::bar(0, 64 << 10).sparse(vec![0..0x1000, 0x8000..0xa000]))
        .region(Region::bar(2, 0x100))
        .region(Region::rom(0x800))
        .region(Region::special(0, 0x2000, 0x8000_8086, 3))
        .msix(3, 0, 0x4000);
    let (_machine, _iommufd, device) = with(Plain::new(description));
    let info = device.info().unwrap();
    let flags = uapi::VFIO_DEVICE_FLAGS_PCI | uapi::VFIO_DEVICE_FLAGS_RESET;
    assert_eq!([word(&info, 4), word(&info, 8), word(&info, 12)], [flags, 10, 5]);
    let bar = device.region_info(0).unwrap();
    assert_eq!(word(&bar, 0) as usize, bar.len());
    assert_eq!(word(&bar, 4), 0xf, "read, write, mmap, capabilities");
    assert_eq!((long(&bar, 16), long(&bar, 24)), (64 << 10, 0));
    let first = word(&bar, 12) as usize;
    assert_eq!(word(&bar, first) & 0xffff, uapi::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE);
    let second = word(&bar, first + 4) as usize;
    assert_eq!(word(&bar, second) & 0xffff, uapi::VFIO_REGION_INFO_CAP_SPARSE_MMAP);
    let areas = [8, 16, 24, 32, 40].map(|at| long(&bar, second + at));
    assert_eq!(areas, [2, 0, 0x1000, 0x8000, 0x2000]);
    assert_eq!(word(&bar, second + 4), 0, "the last one");
    assert_eq!(word(&device.region_info(2).unwrap(), 4), 3, "too small to map");
    assert_eq!(word(&device.region_info(6).unwrap(), 4), 1, "a ROM is read");
    assert_eq!(long(&device.region_info(7).unwrap(), 16), 4096);
    let special = device.region_info(9).unwrap();
    let at = word(&special, 12) as usize;
    assert_eq!([word(&special, at + 8), word(&special, at + 12)], [0x8000_8086, 3]);
    assert_eq!(long(&device.region_info(1).unwrap(), 16), 0);
    assert_eq!(device.region_info(8), Err(Errno::INVAL));
    assert_eq!(device.region_info(10), Err(Errno::INVAL));
    let map = |offset: u64, len| device.map(offset, len, BOTH, 4096, 0).map(|_| ());
    assert_eq!(map(0, 0x1000), Ok(()));
    assert_eq!(map(0x4000, 0x1000), Err(Errno::INVAL), "not in the sparse parts");
    assert_eq!(map(0x8000, 0x4000), Err(Errno::INVAL));
    assert_eq!(map(2 << 40, 0x1000), Err(Errno::INVAL));
    assert_eq!(device.write(6 << 40, &[0]), Err(Errno::INVAL), "a ROM is not written");
    assert_eq!(device.read(0xfffe, &mut [0; 8]), Ok(2), "up to the end");
    assert_eq!(device.read(64 << 10, &mut [0; 8]), Err(Errno::INVAL));
}

#[test]
fn configuration_space() {
    let device = Plain::new(
        Description::new(0x8086, 0x10ca)
            .class(0x02_0000)
            .region(Region::bar(0, 64 << 10))
            .intx(),
    );
    let (machine, _iommufd, device) = with(device);
    assert_eq!(read_u32(&device, CONFIG), 0x10ca_8086);
    assert_eq!(read_u32(&device, CONFIG + 4) & 7, 3, "enabled, but no bus master");
    device.write(CONFIG, &[0; 4]).unwrap();
    assert_eq!(read_u32(&device, CONFIG), 0x10ca_8086);
    device.write(CONFIG + 0x10, &[0xff; 4]).unwrap();
    assert_eq!(read_u32(&device, CONFIG + 0x10), 0xffff_0000, "sizing");
    device.write(0x20, &0x1234_u32.to_le_bytes()).unwrap();
    assert_eq!(read_u32(&device, 0x20), 0x1234);
    let registers = device.map(0, 4096, BOTH, 4096, 0).unwrap();
    assert_eq!(registers.read_u32(0x20), 0x1234);
    device.write(CONFIG + 4, &[0, 0]).unwrap();
    assert_eq!(device.read(0x20, &mut [0; 4]), Err(Errno::IO), "memory is off");
    assert_eq!(registers.read_u16(0x20), 0xffff);
    device.write(CONFIG + 4, &MASTER).unwrap();
    registers.write_u8(0x21, 0x56);
    assert_eq!(registers.read_u64(0x20), 0x5634);
    device.reset().unwrap();
    assert_eq!(registers.read_u32(0x20), 0, "registers are reset, the mapping stays");
    assert_eq!(read_u32(&device, CONFIG + 4) & 7, 6, "configuration space stays");
    drop(device);
    assert_eq!(
        machine.leaks().len(),
        4,
        "the mapping holds the file: {:?}",
        machine.leaks()
    );
    drop(registers);
    assert_eq!(machine.leaks().len(), 1);
}

#[test]
fn interrupts_reach_their_eventfds() {
    let device = Plain::default().on_write(|_, write, bus| match write.offset {
        0x10 => bus.msix(u32::try_from(write.value).unwrap()),
        0x14 => bus.msi(u32::try_from(write.value).unwrap()),
        _ => {}
    });
    let (_machine, _iommufd, device) = with(device);
    device.write(CONFIG + 4, &MASTER).unwrap();
    assert_eq!(device.irq_info(MSIX), Ok((uapi::VFIO_IRQ_INFO_EVENTFD, 8)));
    assert_eq!(device.irq_info(5), Err(Errno::INVAL));
    let (first, second) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    let set = |index, start, data: IrqData<'_>| device.set_irqs(index, start, TRIGGER, data);
    assert_eq!(set(MSIX, 0, IrqData::None(1)), Err(Errno::INVAL), "not enabled");
    let events = [Some(first.as_fd()), None, Some(second.as_fd())];
    set(MSIX, 0, IrqData::Event(&events)).unwrap();
    let ring = |offset, vector: u32| device.write(offset, &vector.to_le_bytes()).unwrap();
    ring(0x10, 0);
    ring(0x10, 1);
    ring(0x10, 2);
    ring(0x10, 2);
    ring(0x14, 0);
    assert_eq!(
        [first.try_read().unwrap(), second.try_read().unwrap()],
        [Some(1), Some(2)]
    );
    set(MSIX, 0, IrqData::Bool(&[0, 1, 1])).unwrap();
    assert_eq!([first.try_read().unwrap(), second.try_read().unwrap()], [None, Some(1)]);
    set(MSIX, 7, IrqData::Event(&events[..1])).unwrap();
    assert_eq!(
        set(MSIX, 8, IrqData::Event(&events[..1])),
        Err(Errno::INVAL),
        "no such vector"
    );
    assert_eq!(
        set(MSI, 0, IrqData::Event(&events[..1])),
        Err(Errno::INVAL),
        "MSI-X is on"
    );
    assert_eq!(device.set_irqs(MSIX, 0, MASK, IrqData::None(1)), Err(Errno::NOTTY));
    device.write(CONFIG + 4, &[2, 0]).unwrap();
    ring(0x10, 0);
    assert_eq!(first.try_read().unwrap(), None, "a message needs bus mastering");
    set(MSIX, 0, IrqData::None(0)).unwrap();
    let file = tempfile::tempfile().unwrap();
    assert_eq!(
        set(MSI, 0, IrqData::Event(&[Some(file.as_fd())])),
        Err(Errno::INVAL),
        "no eventfd"
    );
    set(MSI, 0, IrqData::Event(&events[..1])).unwrap();
    assert_eq!(
        set(MSI, 1, IrqData::Event(&events[..1])),
        Err(Errno::INVAL),
        "MSI does not grow"
    );
}

#[test]
fn a_line_is_masked_by_each_interrupt() {
    let device = Plain::default().on_write(|_, write, bus| {
        if write.offset == 0 {
            bus.intx(write.value == 1);
        }
    });
    let (machine, _iommufd, device) = with(device);
    let (event, resample) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    let set = |action, data: IrqData<'_>| device.set_irqs(INTX, 0, action, data);
    let level = |on: u32| device.write(0, &on.to_le_bytes()).unwrap();
    assert_eq!(set(MASK, IrqData::None(1)), Err(Errno::INVAL), "not enabled");
    set(TRIGGER, IrqData::Event(&[Some(event.as_fd())])).unwrap();
    level(1);
    level(1);
    assert_eq!(event.try_read().unwrap(), Some(1), "masked after the first");
    set(UNMASK, IrqData::None(1)).unwrap();
    assert_eq!(event.try_read().unwrap(), Some(1), "still asserted");
    level(0);
    set(UNMASK, IrqData::Bool(&[1])).unwrap();
    assert_eq!(event.try_read().unwrap(), None);
    set(UNMASK, IrqData::Event(&[Some(resample.as_fd())])).unwrap();
    level(1);
    assert_eq!(event.try_read().unwrap(), Some(1));
    level(0);
    resample.signal().unwrap();
    machine.settle();
    level(1);
    assert_eq!(event.try_read().unwrap(), Some(1), "the eventfd unmasked it");
    device.write(CONFIG + 4, &[2, 4]).unwrap();
    set(UNMASK, IrqData::None(1)).unwrap();
    assert_eq!(event.try_read().unwrap(), None, "INTx Disable holds");
    device.write(CONFIG + 4, &[2, 0]).unwrap();
    assert_eq!(event.try_read().unwrap(), Some(1));
    assert_eq!(set(MASK, IrqData::Event(&[None])), Err(Errno::NOTTY));
}

#[test]
fn an_ioeventfd_writes_a_register() {
    let (machine, _iommufd, device) = with(Plain::default());
    let event = EventFd::new().unwrap();
    device.ioeventfd(0x40, 4, 0xbeef, Some(event.as_fd())).unwrap();
    assert_eq!(
        device.ioeventfd(0x40, 4, 0xbeef, Some(event.as_fd())),
        Err(Errno::EXIST)
    );
    assert_eq!(
        device.ioeventfd(0x8000, 4, 0, Some(event.as_fd())),
        Err(Errno::INVAL),
        "the MSI-X table"
    );
    assert_eq!(device.ioeventfd(0x41, 4, 0, Some(event.as_fd())), Err(Errno::INVAL));
    assert_eq!(device.ioeventfd(CONFIG, 4, 0, Some(event.as_fd())), Err(Errno::INVAL));
    assert_eq!(read_u32(&device, 0x40), 0);
    event.signal().unwrap();
    machine.settle();
    assert_eq!(read_u32(&device, 0x40), 0xbeef);
    device.ioeventfd(0x40, 4, 0xbeef, None).unwrap();
    assert_eq!(device.ioeventfd(0x40, 4, 0xbeef, None), Err(Errno::NODEV));
}

#[test]
fn dma_goes_where_it_is_mapped() {
    let (machine, iommufd, device) = with(Copier::new());
    let ioas = iommufd.ioas_alloc().unwrap();
    let memory = Arc::new(Memory::new(8 * 4096, MemoryOptions::default()).unwrap());
    memory.write(0, b"hello, device").unwrap();
    let stable: Arc<dyn StableMemory> = memory.clone();
    iommufd
        .ioas_map(
            ioas,
            &Lent::memory_to_fake(&stable),
            0..4096,
            Some(0x10000),
            Access::READ,
        )
        .unwrap();
    iommufd
        .ioas_map(
            ioas,
            &Lent::memory_to_fake(&stable),
            4096..3 * 4096,
            Some(0x20000),
            BOTH,
        )
        .unwrap();
    let copy = |from: u64, to: u64, len: u64| {
        device
            .write(8, &[from, to, len].map(u64::to_le_bytes).concat())
            .unwrap();
        device.write(0x28, &1_u32.to_le_bytes()).unwrap();
        let reason = machine
            .faults()
            .last()
            .map(|fault| (fault.iova.0, fault.write, fault.reason.to_string()));
        machine.forget();
        (read_u32(&device, 0x2c), reason)
    };
    let fault = |iova, write, reason: &str| (2, Some((iova, write, reason.to_owned())));
    assert_eq!(
        copy(0x10000, 0x20000, 13),
        fault(0x10000, false, "the device is no bus master")
    );
    device.write(CONFIG + 4, &MASTER).unwrap();
    assert_eq!(copy(0x10000, 0x20000, 13), fault(0x10000, false, "nothing is attached"));
    device.attach(ioas, None).unwrap();
    assert_eq!(copy(0x10000, 0x20fff, 13), (1, None), "over the end of a page");
    let mut bytes = [0; 13];
    memory.read(4096 + 0xfff, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello, device");
    assert_eq!(copy(0x10000, 0x21ffc, 13), fault(0x22000, true, "not mapped"));
    memory.read(3 * 4096 - 4, &mut bytes[..4]).unwrap();
    assert_eq!(&bytes[..4], b"hell", "up to the fault");
    assert_eq!(copy(0x20000, 0x10000, 1), fault(0x10000, true, "not permitted"));
    iommufd.ioas_unmap(ioas, 0x20000, 0x2000).unwrap();
    assert_eq!(copy(0x10000, 0x20000, 1), fault(0x20000, true, "not mapped"));
}

#[test]
fn written_pages_are_logged() {
    let (_machine, iommufd, device) = with(Copier::new());
    device.write(CONFIG + 4, &MASTER).unwrap();
    let ioas = iommufd.ioas_alloc().unwrap();
    iommufd
        .ioas_map(
            ioas,
            &Lent::memory_to_fake(&memory(64)),
            0..64 * 4096,
            Some(0x100000),
            BOTH,
        )
        .unwrap();
    device.attach(ioas, None).unwrap();
    let fill = |to: u64, len: u64| {
        device.write(0x10, &[to, len].map(u64::to_le_bytes).concat()).unwrap();
        device.write(0x28, &2_u32.to_le_bytes()).unwrap();
    };
    fill(0x100000, 4096);
    assert_eq!(device.dma_logging_start(4096, &[]), Err(Errno::INVAL));
    assert_eq!(
        device.dma_logging_start(4096, &[(0, 8192), (4096, 4096)]),
        Err(Errno::INVAL),
        "they overlap"
    );
    assert_eq!(device.dma_logging_start(4096, &[(0x100000, 0x20000)]), Ok(4096));
    assert_eq!(
        device.dma_logging_start(4096, &[(0, 4096)]),
        Err(Errno::INVAL),
        "begun already"
    );
    fill(0x103ff0, 0x20);
    fill(0x130000, 0x1000);
    let mut bits = [0];
    device.dma_logging_report(0x100000, 0x40000, 4096, &mut bits).unwrap();
    assert_eq!(
        bits,
        [0b11000],
        "before the start and outside the range nothing is logged"
    );
    bits = [0];
    device.dma_logging_report(0x100000, 0x40000, 4096, &mut bits).unwrap();
    assert_eq!(bits, [0], "a report clears");
    assert_eq!(device.dma_logging_report(0, 4096, 512, &mut bits), Err(Errno::INVAL));
}

#[test]
fn migration_states() {
    use crate::fake::Device as _;
    let (_machine, _iommufd, device) = with(Copier::new());
    let [stop, running, stop_copy, resuming, pre_copy] = [1, 2, 3, 4, 6];
    let state = |device: &Arc<dyn DeviceCalls>| {
        let mut data = [0; 8];
        let get = uapi::VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | uapi::VFIO_DEVICE_FEATURE_GET;
        device.feature(get, &mut data).unwrap();
        word(&data, 0)
    };
    assert_eq!(state(&device), running);
    device.write(0x10, &0x1234_u64.to_le_bytes()).unwrap();
    let (now, stream) = device.set_migration_state(pre_copy).unwrap();
    let stream = stream.unwrap();
    assert_eq!(now, pre_copy);
    assert_eq!(device.precopy_info(stream.as_fd()), Ok((0, 48, 0)));
    let mut first = [0; 48];
    assert_eq!(rustix::io::read(&stream, &mut first), Ok(48));
    device.write(0x10, &0x5678_u64.to_le_bytes()).unwrap();
    assert_eq!(device.set_migration_state(stop_copy).unwrap().0, stop_copy);
    assert_eq!(device.precopy_info(stream.as_fd()), Err(Errno::INVAL));
    let mut second = [0; 100];
    assert_eq!(rustix::io::read(&stream, &mut second), Ok(48), "what changed since");
    assert_eq!(rustix::io::read(&stream, &mut second[48..]), Ok(0));
    assert_eq!(
        device.set_migration_state(pre_copy).map(|_| ()),
        Err(Errno::INVAL),
        "not back"
    );
    assert_eq!(state(&device), stop_copy, "and nothing changed");
    assert_eq!(device.set_migration_state(9).map(|_| ()), Err(Errno::INVAL));
    let (_, stream) = device.set_migration_state(resuming).unwrap();
    let stream = stream.unwrap();
    rustix::io::write(&stream, &[&first[..], &second[..48]].concat()).unwrap();
    assert_eq!(device.set_migration_state(running).unwrap().0, running);
    assert_eq!(read_u32(&device, 0x10), 0x5678);
    // A state that makes no sense is an error, and a reset leads out of it.
    let (_, stream) = device.set_migration_state(resuming).unwrap();
    rustix::io::write(stream.unwrap(), &[1, 2, 3]).unwrap();
    assert_eq!(device.set_migration_state(stop).map(|_| ()), Err(Errno::IO));
    assert_eq!(state(&device), 0);
    assert_eq!(device.set_migration_state(running).map(|_| ()), Err(Errno::INVAL));
    device.reset().unwrap();
    assert_eq!(state(&device), running);
    assert!(!Copier::new().restore(&[0; 47]));
}

#[test]
fn every_way_of_migration_is_of_legal_steps() {
    let support = |p2p, pre_copy| MigrationSupport { p2p, pre_copy };
    let way = |support, from, to| super::super::migration::way(support, from, to);
    // Without P2P and pre-copy, and with both, as the kernel's table has it.
    assert_eq!(way(support(false, false), 2, 3), Ok(vec![1, 3]));
    assert_eq!(way(support(false, false), 2, 6), Err(Errno::INVAL));
    assert_eq!(way(support(true, true), 2, 3), Ok(vec![5, 1, 3]));
    assert_eq!(way(support(true, true), 6, 5), Ok(vec![2, 5]));
    assert_eq!(way(support(true, true), 6, 3), Ok(vec![7, 3]));
    assert_eq!(way(support(false, true), 6, 3), Ok(vec![3]));
    assert_eq!(way(support(true, true), 7, 2), Ok(vec![5, 2]));
    assert_eq!(way(support(true, true), 4, 6), Ok(vec![1, 5, 2, 6]));
    assert_eq!(way(support(true, true), 1, 7), Ok(vec![5, 7]));
    assert_eq!(way(support(true, true), 3, 7), Err(Errno::INVAL));
    assert_eq!(
        way(support(true, true), 0, 2),
        Err(Errno::INVAL),
        "nothing leads out of an error"
    );
}
