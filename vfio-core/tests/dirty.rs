//! Dirty bits of a page table on the fake machine: whole entries, as an IOMMU marks them.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use pci::{Bdf, GroupId};
use std::sync::Arc;
use vfio_core::fake::{Machine, Plain};
use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, Iommufd, Placement};
use vfio_core::{Access, CdevFile, DirtyBitmap, Iova, IovaRange, Memory, MemoryOptions};

const PAGE: u64 = 4 << 10;
const HUGE: u64 = 2 << 20;
/// A page, two huge ones, a page.
const START: u64 = HUGE - PAGE;
const LEN: u64 = 2 * HUGE + 2 * PAGE;

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

/// What a table tells of part after part, read one after the other, of a device that wrote to the first page and across the boundary of the huge ones.
fn told(huge_pages: bool, parts: &[(IovaRange, bool)]) -> Vec<Vec<IovaRange>> {
    let bdf: Bdf = "0000:01:00.0".parse().unwrap();
    let device = Plain::default().on_poke(|_, bus| {
        bus.dma_write(Iova(START + 16), &[1]).unwrap();
        bus.dma_write(Iova(2 * HUGE - 8), &[2; 16]).unwrap();
    });
    let machine = Machine::builder().device(bdf, GroupId(7), device).build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let cdev = CdevFile::open(&machine.system(), "/dev/vfio/devices/vfio0").unwrap();
    let device = cdev.bind(&iommufd, None).unwrap();
    device.config().unwrap().set_bus_master(true).unwrap();
    let ioas = iommufd.alloc_ioas().unwrap();
    ioas.set_huge_pages(huge_pages).unwrap();
    let memory = Arc::new(Memory::new(usize::try_from(LEN).unwrap(), MemoryOptions::default()).unwrap());
    let (all, place) = (0..memory.len(), Placement::Fixed(Iova(START)));
    let _mapping = ioas.map(memory, all, place, Access::READ | Access::WRITE).unwrap();
    let own = device.iommufd_device().unwrap();
    let (parent, flags) = (HwptParent::Ioas(&ioas), HwptFlags::DIRTY_TRACKING);
    let table = Hwpt::alloc(&own, parent, flags, HwptData::None, None).unwrap();
    let _attached = device.attach(&table, None).unwrap();
    table.set_dirty_tracking(true).unwrap();
    machine.poke(bdf);
    let read = parts.iter().map(|(part, clear)| {
        let mut bitmap = DirtyBitmap::new(*part, PAGE).unwrap();
        table.dirty_bitmap(&mut bitmap, *clear).unwrap();
        bitmap.ranges().collect()
    });
    read.collect()
}

#[test]
fn the_whole_entry_is_dirty() {
    let whole = range(START, LEN);
    let written = vec![range(START, PAGE + 2 * HUGE)];
    let read = told(true, &[(whole, false), (whole, true), (whole, false)]);
    assert_eq!(read, [written.clone(), written, Vec::new()]);
}

#[test]
fn small_entries_are_dirty_one_by_one() {
    let read = told(false, &[(range(START, LEN), true)]);
    assert_eq!(read, [[range(START, PAGE), range(2 * HUGE - PAGE, 2 * PAGE)]]);
}

#[test]
fn an_entry_that_begins_before_the_range_is_not_told() {
    let inside = range(HUGE + PAGE, HUGE);
    let read = told(true, &[(inside, false), (range(HUGE, PAGE), false)]);
    assert_eq!(read, [[range(2 * HUGE, PAGE)], [range(HUGE, PAGE)]]);
}
