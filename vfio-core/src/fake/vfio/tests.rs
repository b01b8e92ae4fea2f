//! The rules of the kernel's VFIO, at the boundary.

use super::irq::{ERR, INTX, MSI, MSIX, REQ};
use crate::fake::{Copier, Description, Iommu, Machine, MigrationSupport, Plain, Region};
use crate::sys::iommufd::Calls;
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

#[test]
fn a_device_file_is_of_no_use_before_it_is_bound() {
    let machine = Machine::builder()
        .device(bdf("0000:01:00.0"), GroupId(7), Plain::default())
        .build();
    let device = cdev(&machine, 0);
    assert_eq!(device.info(), Err(Errno::INVAL));
    assert_eq!(device.read(0, &mut [0; 4]), Err(Errno::INVAL));
    assert_eq!(device.bind_iommufd(-2, None), Err(Errno::INVAL));
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
        .ioas_map(ioas, &stable, 0..4096, Some(0x10000), Access::READ)
        .unwrap();
    iommufd
        .ioas_map(ioas, &stable, 4096..3 * 4096, Some(0x20000), BOTH)
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
        .ioas_map(ioas, &memory(64), 0..64 * 4096, Some(0x100000), BOTH)
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
    let way = |support, from, to| super::migration::way(support, from, to);
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
        container.map_dma(&memory(1), 0..4096, 0, BOTH),
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
    let map = |pages: usize, iova| container.map_dma(&memory, 0..pages * 4096, iova, BOTH);
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
    container.map_dma(&memory(4), 0..4 * 4096, 0x10000, BOTH).unwrap();
    assert_eq!(
        container.unmap_dma(0x11000, 0x1000, None),
        Ok(0),
        "inside: nothing, and no error"
    );
    assert_eq!(container.dirty_start(), Err(Errno::ACCESS));
    assert_eq!(container.unmap_dma(0x10000, 0x1000, None), Ok(0x4000), "all of it");
    container.map_dma(&memory(4), 0..4 * 4096, 0x10000, BOTH).unwrap();
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
    container.map_dma(&memory(4), 0..4 * 4096, 0x10000, BOTH).unwrap();
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
    iommufd.ioas_map(ioas, &stable, 0..8192, Some(0x10000), BOTH).unwrap();
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
    iommufd.ioas_map(ioas, &memory, 0..4096, None, BOTH).unwrap();
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
