//! The rules of the kernel's iommufd, at the boundary.

use crate::fake::options::Iommu;
use crate::fake::{Copier, Description, Machine, Plain, Region};
use crate::sys::iommufd::{Calls, HwptAlloc, Id};
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
    iommufd.ioas_map(ioas, &memory(), 0..pages * 4096, Some(iova), BOTH)
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

#[test]
fn ids_are_the_lowest_that_are_free() {
    let machine = Machine::builder().build();
    let iommufd = open(&machine);
    let ids = [iommufd.ioas_alloc().unwrap(), iommufd.ioas_alloc().unwrap()];
    assert_eq!(ids, [1, 2]);
    iommufd.destroy(1).unwrap();
    assert_eq!(iommufd.ioas_alloc(), Ok(1));
    assert_eq!(iommufd.destroy(0), Err(Errno::NOENT));
    assert_eq!(iommufd.destroy(3), Err(Errno::NOENT));
    assert_eq!(machine.mistakes().len(), 2);
}

#[test]
fn areas_are_unmapped_as_wholes() {
    let machine = Machine::builder().build();
    let iommufd = open(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    assert_eq!(
        iommufd.ioas_unmap(ioas, 0x1000, PAGE),
        Err(Errno::NOENT),
        "nothing there"
    );
    map(&iommufd, ioas, 0x10000, 2).unwrap();
    map(&iommufd, ioas, 0x20000, 1).unwrap();
    assert_eq!(map(&iommufd, ioas, 0x11000, 1), Err(Errno::EXIST));
    assert_eq!(iommufd.ioas_unmap(ioas, 0x10000, PAGE), Err(Errno::NOENT), "a part");
    assert_eq!(iommufd.ioas_unmap(ioas, 0x0, 0x30000), Ok(3 * PAGE), "all inside");
    assert_eq!(
        iommufd.ioas_unmap(ioas, 0, u64::MAX),
        Ok(0),
        "everything, also of nothing"
    );
}

#[test]
fn arguments_that_make_no_sense() {
    let machine = Machine::builder().build();
    let iommufd = open(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let memory = memory();
    let try_map = |part, iova, access| iommufd.ioas_map(ioas, &memory, part, iova, access);
    assert_eq!(try_map(0..0, None, BOTH), Err(Errno::INVAL));
    assert_eq!(try_map(0..4096, Some(u64::MAX), BOTH), Err(Errno::OVERFLOW));
    assert_eq!(try_map(0..8192, Some(u64::MAX - 0xfff), BOTH), Err(Errno::OVERFLOW));
    assert_eq!(try_map(0..4096, None, Access::empty()), Err(Errno::INVAL));
    assert_eq!(try_map(0..SIZE + 1, None, BOTH), Err(Errno::FAULT));
    assert_eq!(iommufd.ioas_map(9, &memory, 0..4096, None, BOTH), Err(Errno::NOENT));
    assert_eq!(iommufd.ioas_unmap(ioas, 0x1000, u64::MAX), Err(Errno::OVERFLOW));
    assert_eq!(iommufd.ioas_unmap(ioas, 0x1000, 0), Err(Errno::INVAL));
}

#[test]
fn a_chosen_iova_keeps_the_alignment_of_the_memory() {
    let machine = Machine::builder().build();
    let iommufd = open(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let memory = Arc::new(Memory::new(8 << 20, MemoryOptions::default()).unwrap());
    let address = memory.address() as u64;
    let memory: Arc<dyn StableMemory> = memory;
    let iova = iommufd.ioas_map(ioas, &memory, 0..4096, None, BOTH).unwrap();
    assert_eq!(iova, PAGE, "never 0");
    // The first part that begins on a huge page.
    let start = usize::try_from(address.next_multiple_of(2 << 20) - address).unwrap();
    let iova = iommufd
        .ioas_map(ioas, &memory, start..start + (4 << 20), None, BOTH)
        .unwrap();
    assert_eq!(iova % (2 << 20), 0);
    let odd = iommufd.ioas_map(ioas, &memory, 0x3123..0x3456, None, BOTH).unwrap();
    assert_eq!(odd % PAGE, 0x123, "the offset in the page stays");
}

#[test]
fn allowed_and_reserved_ranges_exclude_each_other() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, _) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    iommufd.ioas_allow_iovas(ioas, &[(0x50000, 0x5ffff)]).unwrap();
    let chosen = iommufd.ioas_map(ioas, &memory(), 0..4096, None, BOTH).unwrap();
    assert!((0x50000..0x60000).contains(&chosen));
    iommufd.ioas_allow_iovas(ioas, &[(0xfee0_0000, 0xfee0_0fff)]).unwrap();
    assert_eq!(
        device.attach(ioas, None),
        Err(Errno::ADDRINUSE),
        "the MSI window is allowed"
    );
    iommufd.ioas_allow_iovas(ioas, &[]).unwrap();
    device.attach(ioas, None).unwrap();
    assert_eq!(
        iommufd.ioas_allow_iovas(ioas, &[(0xfee0_0000, 0xfee0_0fff)]),
        Err(Errno::ADDRINUSE)
    );
    assert_eq!(iommufd.ioas_allow_iovas(ioas, &[(5, 5)]), Err(Errno::INVAL));
    assert_eq!(map(&iommufd, ioas, 0xfee0_0000, 1), Err(Errno::INVAL), "reserved");
    assert_eq!(
        map(&iommufd, ioas, 1 << 48, 1),
        Err(Errno::INVAL),
        "outside the aperture"
    );
    let mut ranges = [(0, 0); 1];
    let (count, alignment) = iommufd.ioas_iova_ranges(ioas, &mut ranges).unwrap();
    assert_eq!(
        (count, alignment, ranges[0]),
        (2, PAGE, (0, 0xfedf_ffff)),
        "one of two fits"
    );
    device.detach(None).unwrap();
    assert_eq!(iommufd.ioas_iova_ranges(ioas, &mut []), Ok((1, 1)));
}

#[test]
fn an_attach_needs_what_is_mapped_to_fit() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, _) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    iommufd.ioas_map(ioas, &memory(), 0..100, Some(0x1001), BOTH).unwrap();
    assert_eq!(device.attach(ioas, None), Err(Errno::ADDRINUSE));
    iommufd.ioas_unmap(ioas, 0, u64::MAX).unwrap();
    device.attach(ioas, None).unwrap();
    let off = iommufd.ioas_map(ioas, &memory(), 0..100, Some(0x1000), BOTH);
    assert_eq!(off, Err(Errno::INVAL), "no whole page");
}

#[test]
fn copies_share_what_is_pinned() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, _) = bound(&machine);
    let (from, to) = (iommufd.ioas_alloc().unwrap(), iommufd.ioas_alloc().unwrap());
    iommufd
        .ioas_map(from, &memory(), 0..SIZE, Some(0x10000), Access::READ)
        .unwrap();
    assert_eq!(machine.pinned(), 0, "no device yet");
    let copied = iommufd
        .ioas_copy(to, (from, 0x12000), PAGE, None, Access::READ)
        .unwrap();
    assert_eq!(copied, PAGE);
    let beyond = iommufd.ioas_copy(to, (from, 0x10000), SIZE as u64 + PAGE, None, Access::READ);
    assert_eq!(beyond, Err(Errno::NOENT));
    let write = iommufd.ioas_copy(to, (from, 0x10000), PAGE, None, BOTH);
    assert_eq!(write, Err(Errno::PERM), "more than was mapped");
    device.attach(from, None).unwrap();
    assert_eq!(machine.pinned(), SIZE as u64);
    iommufd
        .ioas_copy(from, (from, 0x10000), SIZE as u64, Some(0x80000), Access::READ)
        .unwrap();
    assert_eq!(machine.pinned(), SIZE as u64, "pinned once");
    iommufd.ioas_unmap(from, 0x10000, SIZE as u64).unwrap();
    assert_eq!(machine.pinned(), SIZE as u64, "the copy holds it");
    device.detach(None).unwrap();
    assert_eq!(machine.pinned(), 0);
}

#[test]
fn locked_memory_has_a_limit() {
    let builder = Machine::builder().memlock(4 * PAGE);
    let machine = builder
        .device("0000:01:00.0".parse().unwrap(), GroupId(7), Copier::new())
        .build();
    let (iommufd, device, _) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    map(&iommufd, ioas, 0x10000, 5).unwrap();
    assert_eq!(
        device.attach(ioas, None),
        Err(Errno::NOMEM),
        "pinning is when a device comes"
    );
    iommufd.ioas_unmap(ioas, 0, u64::MAX).unwrap();
    device.attach(ioas, None).unwrap();
    map(&iommufd, ioas, 0x10000, 3).unwrap();
    assert_eq!(map(&iommufd, ioas, 0x20000, 2), Err(Errno::NOMEM));
    map(&iommufd, ioas, 0x20000, 1).unwrap();
    iommufd.ioas_unmap(ioas, 0x10000, 3 * PAGE).unwrap();
    assert_eq!(machine.pinned(), PAGE);
}

#[test]
fn files_must_be_shared_memory_and_long_enough() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, _) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    device.attach(ioas, None).unwrap();
    let memory = shared_memory();
    let file = memory.file().unwrap();
    let map = |file, start, len| iommufd.ioas_map_file(ioas, file, start, len, None, BOTH);
    map(file, 0, SIZE as u64).unwrap();
    assert_eq!(map(file, PAGE, SIZE as u64), Err(Errno::INVAL), "beyond the end");
    assert_eq!(map(file, u64::MAX, 2), Err(Errno::OVERFLOW));
    let regular = tempfile::tempfile().unwrap();
    regular.set_len(PAGE).unwrap();
    let on_disk = rustix::fs::fcntl_get_seals(regular.as_fd()).is_err();
    assert!(!on_disk || map(regular.as_fd(), 0, PAGE) == Err(Errno::INVAL));
    assert_eq!(iommufd.ioas_change_process(), Ok(()), "files may change hands");
    self::map(&iommufd, ioas, 0x100_0000, 1).unwrap();
    assert_eq!(iommufd.ioas_change_process(), Err(Errno::INVAL));
}

#[test]
fn what_is_used_is_not_destroyed() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    assert_eq!(iommufd.destroy(id), Err(Errno::BUSY), "a bound device");
    let automatic = device.attach(ioas, None).unwrap();
    assert_eq!(iommufd.destroy(ioas), Err(Errno::BUSY));
    assert_eq!(iommufd.destroy(automatic), Err(Errno::BUSY));
    device.detach(None).unwrap();
    assert_eq!(
        iommufd.destroy(automatic),
        Err(Errno::NOENT),
        "it went with the last device"
    );
    let table = iommufd.hwpt_alloc(&hwpt(id, ioas, 0)).unwrap();
    assert_eq!(iommufd.destroy(ioas), Err(Errno::BUSY));
    iommufd.destroy(table).unwrap();
    iommufd.destroy(ioas).unwrap();
    let (queue, file) = iommufd.fault_queue_alloc().unwrap();
    assert_eq!(iommufd.destroy(queue), Err(Errno::BUSY), "its file is open");
    drop(file);
    iommufd.destroy(queue).unwrap();
}

#[test]
fn page_tables_are_replaced_and_compared() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let plain = iommufd.hwpt_alloc(&hwpt(id, ioas, 0)).unwrap();
    let pasid = iommufd.hwpt_alloc(&hwpt(id, ioas, super::hwpt::PASID)).unwrap();
    assert_eq!(device.attach(99, None), Err(Errno::NOENT));
    assert_eq!(device.attach(id, None), Err(Errno::INVAL), "a device is no page table");
    assert_eq!(device.attach(plain, None), Ok(plain));
    assert_eq!(
        device.attach(pasid, Some(1)),
        Err(Errno::INVAL),
        "the other one knows no PASIDs"
    );
    assert_eq!(device.attach(pasid, None), Ok(pasid), "a second attach replaces");
    assert_eq!(device.attach(pasid, Some(1)), Ok(pasid));
    assert_eq!(device.attach(plain, None), Err(Errno::INVAL));
    assert_eq!(device.attach(plain, Some(1)), Err(Errno::INVAL));
    assert_eq!(
        device.attach(ioas, Some(2)),
        Err(Errno::INVAL),
        "what the kernel makes knows none"
    );
    assert_eq!(
        device.attach(pasid, Some(1 << 20)),
        Err(Errno::INVAL),
        "too large a PASID"
    );
    assert_eq!(iommufd.destroy(pasid), Err(Errno::BUSY));
    device.detach(Some(1)).unwrap();
    device.detach(Some(1)).unwrap();
    assert_eq!(device.attach(plain, None), Ok(plain));
}

#[test]
fn devices_of_a_group_use_one_page_table() {
    let builder = Machine::builder().device("0000:01:00.0".parse().unwrap(), GroupId(7), Copier::new());
    let machine = builder
        .device("0000:01:00.1".parse().unwrap(), GroupId(7), Copier::new())
        .build();
    let (iommufd, first, _) = bound(&machine);
    let second = cdev(&machine, 1);
    second.bind_iommufd(iommufd.number(), None).unwrap();
    let (a, b) = (iommufd.ioas_alloc().unwrap(), iommufd.ioas_alloc().unwrap());
    let table = first.attach(a, None).unwrap();
    assert_eq!(second.attach(b, None), Err(Errno::INVAL));
    assert_eq!(second.attach(a, None), Ok(table));
    let moved = first.attach(b, None).unwrap();
    assert_ne!(moved, table);
    assert_eq!(iommufd.destroy(a), Ok(()), "both moved");
    first.detach(None).unwrap();
    assert_eq!(iommufd.destroy(b), Err(Errno::BUSY), "the second is still there");
    second.detach(None).unwrap();
    iommufd.destroy(b).unwrap();
    // Somebody else's iommufd cannot have a part of the group.
    drop(second);
    let other = open(&machine);
    assert_eq!(cdev(&machine, 1).bind_iommufd(other.number(), None), Err(Errno::PERM));
}

#[test]
fn flags_need_an_iommu_that_has_them() {
    let iommu = Iommu {
        dirty_tracking: false,
        pasid_bits: 0,
        ..Iommu::default()
    };
    let machine = one_device(iommu);
    let (iommufd, device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    for flags in [
        super::hwpt::DIRTY_TRACKING,
        super::hwpt::PASID,
        super::hwpt::NEST_PARENT,
        1 << 9,
    ] {
        assert_eq!(
            iommufd.hwpt_alloc(&hwpt(id, ioas, flags)),
            Err(Errno::OPNOTSUPP),
            "{flags}"
        );
    }
    let bare = HwptAlloc {
        kind: 1,
        ..hwpt(id, ioas, 0)
    };
    assert_eq!(iommufd.hwpt_alloc(&bare), Err(Errno::INVAL), "a type without data");
    let table = iommufd.hwpt_alloc(&hwpt(id, ioas, 0)).unwrap();
    assert_eq!(iommufd.hwpt_set_dirty_tracking(table, true), Err(Errno::OPNOTSUPP));
    let info = iommufd.get_hw_info(id, None, &mut [0xff; 4]).unwrap();
    assert_eq!(
        (info.kind, info.len, info.capabilities, info.max_pasid_log2),
        (0, 0, 0, 0)
    );
    // Page requests of a device without them.
    let other = cdev(&machine, 1);
    other.bind_iommufd(iommufd.number(), None).unwrap();
    let (queue, _file) = iommufd.fault_queue_alloc().unwrap();
    let fault = HwptAlloc {
        fault: Some(queue),
        ..hwpt(id, ioas, 0)
    };
    let with_queue = iommufd.hwpt_alloc(&fault).unwrap();
    assert_eq!(other.attach(with_queue, None), Err(Errno::NODEV));
    device.attach(with_queue, None).unwrap();
}

#[test]
fn hardware_information_is_cut_or_filled_up() {
    let iommu = Iommu {
        hw_info: (1, (1..=24).collect()),
        ..Iommu::default()
    };
    let machine = one_device(iommu);
    let (iommufd, _device, id) = bound(&machine);
    let mut long = [0xff; 30];
    let info = iommufd.get_hw_info(id, None, &mut long).unwrap();
    assert_eq!((info.kind, info.len, info.max_pasid_log2), (1, 24, 20));
    assert_eq!(&long[22..], [23, 24, 0, 0, 0, 0, 0, 0]);
    let mut short = [0; 2];
    assert_eq!(iommufd.get_hw_info(id, None, &mut short).unwrap().len, 24);
    assert_eq!(short, [1, 2]);
    assert_eq!(iommufd.get_hw_info(id, Some(3), &mut short), Err(Errno::OPNOTSUPP));
}

#[test]
fn options() {
    use iommufd_bindings::iommufd::{
        iommufd_option_IOMMU_OPTION_HUGE_PAGES as HUGE, iommufd_option_IOMMU_OPTION_RLIMIT_MODE as RLIMIT,
    };
    let machine = one_device(Iommu::default());
    let iommufd = open(&machine);
    assert_eq!(iommufd.option_get(RLIMIT, 0), Ok(0));
    assert_eq!(iommufd.option_set(RLIMIT, 0, 2), Err(Errno::INVAL));
    iommufd.option_set(RLIMIT, 0, 1).unwrap();
    assert_eq!(iommufd.option_get(HUGE, 1), Err(Errno::NOENT));
    let ioas = iommufd.ioas_alloc().unwrap();
    assert_eq!(iommufd.option_set(RLIMIT, 0, 0), Err(Errno::BUSY), "an object exists");
    assert_eq!(iommufd.option_get(HUGE, ioas), Ok(1));
    iommufd.option_set(HUGE, ioas, 0).unwrap();
    assert_eq!(iommufd.option_set(HUGE, ioas, 2), Err(Errno::INVAL));
    assert_eq!(iommufd.option_get(7, 0), Err(Errno::OPNOTSUPP));
    assert_eq!(iommufd.vfio_ioas_get(), Err(Errno::NODEV));
    assert_eq!(iommufd.vfio_ioas_set(9), Err(Errno::NOENT));
    iommufd.vfio_ioas_set(ioas).unwrap();
    assert_eq!(iommufd.vfio_ioas_get(), Ok(ioas));
    iommufd.destroy(ioas).unwrap();
    assert_eq!(iommufd.vfio_ioas_get(), Err(Errno::NODEV));
}

#[test]
fn nested_tables_and_virtual_iommus() {
    let iommu = Iommu {
        nesting: Some(1),
        viommu: Some(1),
        hw_queue: Some(1),
        ..Iommu::default()
    };
    let machine = one_device(iommu);
    let (iommufd, device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let plain = iommufd.hwpt_alloc(&hwpt(id, ioas, 0)).unwrap();
    let parent = iommufd.hwpt_alloc(&hwpt(id, ioas, super::hwpt::NEST_PARENT)).unwrap();
    let data = [0; 24];
    let nested = |parent, kind| HwptAlloc {
        kind,
        data: &data,
        ..hwpt(id, parent, 0)
    };
    assert_eq!(
        iommufd.hwpt_alloc(&nested(plain, 1)),
        Err(Errno::INVAL),
        "not made to be a parent"
    );
    assert_eq!(
        iommufd.hwpt_alloc(&nested(parent, 2)),
        Err(Errno::OPNOTSUPP),
        "another kind"
    );
    let table = iommufd.hwpt_alloc(&nested(parent, 1)).unwrap();
    assert_eq!(
        iommufd.hwpt_alloc(&nested(table, 1)),
        Err(Errno::INVAL),
        "nested on nested"
    );
    assert_eq!(iommufd.destroy(parent), Err(Errno::BUSY));
    let mut entries = [0_u8; 48];
    assert_eq!(iommufd.hwpt_invalidate(table, 0, 24, &entries), (2, Ok(())));
    entries[24] = 1;
    assert_eq!(
        iommufd.hwpt_invalidate(table, 0, 24, &entries),
        (1, Err(Errno::INVAL)),
        "the second"
    );
    assert_eq!(iommufd.hwpt_invalidate(plain, 0, 24, &entries), (0, Err(Errno::INVAL)));
    let viommu = iommufd.viommu_alloc(id, parent, 1, &mut []).unwrap();
    assert_eq!(iommufd.viommu_alloc(id, plain, 1, &mut []), Err(Errno::INVAL));
    assert_eq!(iommufd.viommu_alloc(id, parent, 2, &mut []), Err(Errno::OPNOTSUPP));
    let vdevice = iommufd.vdevice_alloc(viommu, id, 5).unwrap();
    assert_eq!(iommufd.vdevice_alloc(viommu, id, 6), Err(Errno::EXIST));
    map(&iommufd, ioas, 0x10000, 2).unwrap();
    assert_eq!(
        iommufd.hw_queue_alloc(viommu, 1, 1, 0x10000, PAGE),
        Err(Errno::IO),
        "out of order"
    );
    let queue = iommufd.hw_queue_alloc(viommu, 1, 0, 0x10000, PAGE).unwrap();
    assert_eq!(
        iommufd.ioas_unmap(ioas, 0x10000, 2 * PAGE),
        Err(Errno::BUSY),
        "read by hardware"
    );
    iommufd.destroy(queue).unwrap();
    iommufd.ioas_unmap(ioas, 0x10000, 2 * PAGE).unwrap();
    assert_eq!(iommufd.destroy(viommu), Err(Errno::BUSY));
    drop(device);
    assert_eq!(iommufd.destroy(vdevice), Err(Errno::NOENT), "it went with its device");
    iommufd.destroy(viommu).unwrap();
}

#[test]
fn events_that_do_not_fit_leave_a_note() {
    let iommu = Iommu {
        nesting: Some(1),
        viommu: Some(1),
        ..Iommu::default()
    };
    let device = Plain::default().on_poke(|_, bus| bus.report_vevent(1, b"12345678").unwrap());
    let bdf = "0000:01:00.0".parse().unwrap();
    let machine = Machine::builder().iommu(iommu).device(bdf, GroupId(7), device).build();
    let (iommufd, _device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let parent = iommufd.hwpt_alloc(&hwpt(id, ioas, super::hwpt::NEST_PARENT)).unwrap();
    let viommu = iommufd.viommu_alloc(id, parent, 1, &mut []).unwrap();
    iommufd.vdevice_alloc(viommu, id, 5).unwrap();
    assert_eq!(iommufd.veventq_alloc(viommu, 1, 0).map(|_| ()), Err(Errno::INVAL));
    let (_, queue) = iommufd.veventq_alloc(viommu, 1, 2).unwrap();
    assert_eq!(iommufd.veventq_alloc(viommu, 1, 2).map(|_| ()), Err(Errno::EXIST));
    (0..4).for_each(|_| machine.poke(bdf));
    let mut bytes = [0; 64];
    assert_eq!(queue.read(&mut bytes[..7]), Err(Errno::INVAL));
    assert_eq!(
        queue.read(&mut bytes[..8]),
        Err(Errno::INVAL),
        "no room for the first event"
    );
    assert_eq!(queue.read(&mut bytes), Ok(16 + 16 + 8));
    let sequences = [&bytes[4..8], &bytes[20..24], &bytes[36..40]].map(|bytes| bytes[0]);
    assert_eq!(sequences, [0, 1, 3], "the note has the number of the last one lost");
    assert_eq!(bytes[32], 1, "lost events");
    assert_eq!(queue.read(&mut bytes), Ok(0));
    assert_eq!(queue.write(&bytes), Err(Errno::INVAL));
}

/// A device that asks for pages when it is poked, as its registers say.
fn asking() -> Plain {
    let description = Description::new(1, 2)
        .region(Region::bar(0, 4096))
        .page_requests()
        .pasid(8);
    Plain::new(description)
        .on_poke(|registers, bus| {
            let (group, count) = (registers.get(0, 0, 2), registers.get(0, 8, 8));
            for at in 0..count {
                let request = crate::fake::PageRequest {
                    pasid: None,
                    group: u16::try_from(group).unwrap(),
                    iova: Iova(0x10000 + at * PAGE),
                    read: true,
                    write: at % 2 == 1,
                    last: at + 1 == count,
                };
                let taken = bus.request_page(request).is_ok();
                registers.set(0, 16, 1, u64::from(taken));
            }
        })
        .on_page_response(|registers, response, _| {
            let count = registers.get(0, 32, 8);
            registers.set(0, 32, 8, count + 1);
            registers.set(0, 24, 1, u64::from(response.success));
            registers.set(0, 26, 2, response.group.into());
        })
}

#[test]
fn page_requests_come_in_groups() {
    let bdf = "0000:01:00.0".parse().unwrap();
    let iommu = Iommu {
        page_requests: 2,
        ..Iommu::default()
    };
    let machine = Machine::builder()
        .iommu(iommu)
        .device(bdf, GroupId(7), asking())
        .build();
    let (iommufd, device, id) = bound(&machine);
    device.write(7 << 40 | 4, &[6, 0]).unwrap();
    let ioas = iommufd.ioas_alloc().unwrap();
    let (queue_id, queue) = iommufd.fault_queue_alloc().unwrap();
    let fault = HwptAlloc {
        fault: Some(queue_id),
        ..hwpt(id, ioas, 0)
    };
    let table = iommufd.hwpt_alloc(&fault).unwrap();
    let ask = |group: u16, count: u8| {
        device.write(0, &group.to_le_bytes()).unwrap();
        device.write(8, &[count]).unwrap();
        machine.poke(bdf);
        let mut taken = [0];
        device.read(16, &mut taken).unwrap();
        taken[0] == 1
    };
    let answered = || {
        let mut bytes = [0; 16];
        device.read(24, &mut bytes).unwrap();
        (bytes[8], bytes[0] == 1, bytes[2])
    };
    assert!(!ask(3, 1), "nothing is attached");
    device.attach(table, None).unwrap();
    assert!(ask(3, 3));
    let mut bytes = [0; 400];
    assert_eq!(queue.read(&mut bytes[..39]), Err(Errno::SPIPE));
    assert_eq!(queue.read(&mut bytes[..80]), Err(Errno::INVAL), "the group is larger");
    assert_eq!(queue.read(&mut bytes), Ok(120));
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!([word(0), word(40), word(80)], [0, 0, 2], "only the last says so");
    assert_eq!([word(4), word(12), word(16), word(56)], [id, 3, 1, 3]);
    assert_eq!([word(24), word(64), word(104)], [0x10000, 0x11000, 0x12000]);
    let cookie = word(116);
    assert_eq!(queue.read(&mut bytes), Ok(0));
    let answer = |cookie: u32, code: u32| queue.write(&[cookie.to_ne_bytes(), code.to_ne_bytes()].concat());
    assert_eq!(answer(cookie, 2), Err(Errno::INVAL), "no such code");
    assert_eq!(answer(cookie + 1, 0), Err(Errno::INVAL), "no such group");
    assert_eq!(answer(cookie, 0), Ok(8));
    assert_eq!(answered(), (1, true, 3));
    assert_eq!(answer(cookie, 0), Err(Errno::INVAL), "answered already");
    assert!(ask(4, 1) && ask(5, 1));
    assert!(!ask(6, 1), "two wait already");
    assert_eq!(queue.read(&mut bytes[..40]), Ok(40));
    device.detach(None).unwrap();
    assert_eq!(answered(), (3, false, 4), "both were refused, the read one last");
    assert_eq!(queue.read(&mut bytes), Ok(0));
}

/// A mapping of the model: where, how long.
type Model = std::collections::BTreeMap<u64, u64>;

#[derive(Debug, Clone)]
enum Step {
    Map { iova: u64, pages: u64 },
    Choose { pages: u64 },
    Unmap { iova: u64, pages: u64 },
    Attach,
    Detach,
}

fn step() -> impl Strategy<Value = Step> {
    let (place, pages) = (0_u64..24, 1_u64..6);
    prop_oneof![
        4 => (place.clone(), pages.clone()).prop_map(|(place, pages)| Step::Map { iova: place * PAGE, pages }),
        2 => pages.clone().prop_map(|pages| Step::Choose { pages }),
        4 => (place, 1_u64..12).prop_map(|(place, pages)| Step::Unmap { iova: place * PAGE, pages }),
        1 => Just(Step::Attach),
        1 => Just(Step::Detach),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_address_space_is_a_set_of_ranges_that_do_not_overlap(steps in prop::collection::vec(step(), 1..60)) {
        let reserved = IovaRange::new(Iova(10 * PAGE), 2 * PAGE).unwrap();
        let iommu = Iommu { reserved: vec![reserved], ..Iommu::default() };
        let machine = one_device(iommu);
        let (iommufd, device, _) = bound(&machine);
        let ioas = iommufd.ioas_alloc().unwrap();
        let memory = memory();
        let mut model = Model::new();
        let mut attached = false;
        let hits = |model: &Model, start: u64, end: u64| model.iter().filter(|(at, len)| **at < end && start < *at + **len).map(|(at, len)| (*at, *len)).collect::<Vec<_>>();
        let is_reserved = |start: u64, end: u64| start < 12 * PAGE && 10 * PAGE < end;
        for step in steps {
            match step {
                Step::Map { iova, pages } => {
                    let len = pages * PAGE;
                    let part = 0..usize::try_from(len).unwrap();
                    let result = iommufd.ioas_map(ioas, &memory, part, Some(iova), BOTH);
                    let expected = if attached && is_reserved(iova, iova + len) {
                        Err(Errno::INVAL)
                    } else if !hits(&model, iova, iova + len).is_empty() {
                        Err(Errno::EXIST)
                    } else {
                        model.insert(iova, len);
                        Ok(iova)
                    };
                    prop_assert_eq!(result, expected);
                }
                Step::Choose { pages } => {
                    let len = pages * PAGE;
                    let iova = iommufd.ioas_map(ioas, &memory, 0..usize::try_from(len).unwrap(), None, BOTH).unwrap();
                    prop_assert!(hits(&model, iova, iova + len).is_empty() && iova >= PAGE);
                    prop_assert!(!attached || !is_reserved(iova, iova + len));
                    // Nothing lower would have done.
                    let alignment = len.next_power_of_two().min(1 << (memory.address() as u64).trailing_zeros());
                    for lower in (0..iova).step_by(usize::try_from(alignment).unwrap()).filter(|lower| *lower >= PAGE) {
                        let free = hits(&model, lower, lower + len).is_empty() && !(attached && is_reserved(lower, lower + len));
                        prop_assert!(!free, "{:#x} was free", lower);
                    }
                    model.insert(iova, len);
                }
                Step::Unmap { iova, pages } => {
                    let end = iova + pages * PAGE;
                    let result = iommufd.ioas_unmap(ioas, iova, pages * PAGE);
                    // Areas go one by one until one is cut.
                    let mut gone = 0;
                    let mut cut = false;
                    for (at, len) in hits(&model, iova, end) {
                        if at < iova || at + len > end {
                            cut = true;
                            break;
                        }
                        gone += len;
                        model.remove(&at);
                    }
                    let expected = if cut || gone == 0 { Err(Errno::NOENT) } else { Ok(gone) };
                    prop_assert_eq!(result, expected);
                }
                Step::Attach => {
                    let fits = attached || hits(&model, 10 * PAGE, 12 * PAGE).is_empty();
                    let result = device.attach(ioas, None).map(|_| ());
                    prop_assert_eq!(result, if fits { Ok(()) } else { Err(Errno::ADDRINUSE) });
                    attached |= fits;
                }
                Step::Detach => {
                    device.detach(None).unwrap();
                    attached = false;
                }
            }
            let mapped: u64 = model.values().sum();
            prop_assert_eq!(machine.pinned(), if attached { mapped } else { 0 });
        }
        drop((device, iommufd));
        prop_assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}
