//! Demand-paged DMA on the kernel's mock device (`CONFIG_IOMMUFD_TEST`): pages are mapped when the device asks for them, within a budget.

#![expect(clippy::print_stdout, reason = "this is a program")]

use iommu::bounce::Crossover;
use iommu::demand::{DemandOptions, DemandSpace, Eviction, Prefetch};
use iommu::dirty::{DirtyTracker, Written};
use iommu::nested::Nesting;
use iommu::space::{AddressSpace, MapOptions};
use iommu::{Error, Iova, IovaRange, Result};
use std::sync::Arc;
use vfio_core::iommufd::selftest::{self, MockDevice, MockFlags};
use vfio_core::iommufd::{HwptData, HwptParent, IommuDevice, Iommufd, PageAccess};
use vfio_core::{Access, DirtyBitmap, Memory, MemoryOptions, System};

const PAGE: u64 = 4096;
const PAGES: u64 = 1024;
const BUDGET: u64 = 64;
const BOTH: MapOptions = MapOptions::new(Access::READ.union(Access::WRITE));

fn main() -> Result<()> {
    let iommufd = Iommufd::open(&System::host())?;
    // The mock is attached to something from the beginning.
    let nowhere = iommufd.alloc_ioas()?;
    let device = MockDevice::new(&nowhere, MockFlags::PASID)?;
    for (eviction, prefetch) in [
        (Eviction::Lru, Prefetch::None),
        (Eviction::Clock, Prefetch::Adaptive(16)),
    ] {
        page_by_page(&device, eviction, prefetch)?;
        device.replace(&nowhere)?;
    }
    detached_with_faults(&device, &nowhere)?;
    dirty(&iommufd)?;
    nested(&iommufd, &device)?;
    let space = AddressSpace::iommufd(&iommufd)?;
    println!("allowed without a device: {:?}", space.allowed());
    device.replace(space.ioas().ok_or(Error::Invalid("an iommufd has an IOAS"))?)?;
    space.refresh()?;
    println!(
        "allowed with the mock:    {:?}, units of {}",
        space.allowed(),
        space.granule()
    );
    println!("copying pays up to {} bytes", Crossover::measure(&space)?.bytes());
    device.replace(&nowhere)?;
    Ok(())
}

/// Touches every page, one after the other.
fn page_by_page(device: &MockDevice, eviction: Eviction, prefetch: Prefetch) -> Result<()> {
    let options = DemandOptions {
        budget: BUDGET * PAGE,
        eviction,
        prefetch,
        ..DemandOptions::default()
    };
    let mut space = DemandSpace::new(device, options)?;
    let table = space.table().ok_or(Error::Invalid("the space has a table"))?;
    device.replace(table)?;
    space.space().refresh()?;
    let memory = Arc::new(Memory::new(usize_of(PAGES * PAGE), MemoryOptions::default())?);
    let range = space.add(&memory, 0..memory.len(), BOTH)?;
    let before = pinned();
    let mut most = 0;
    for page in 0..PAGES {
        let iova = Iova(range.start().0 + page * PAGE);
        let byte = IovaRange::new(iova, 1).ok_or(Error::Invalid("inside the range"))?;
        if space.is_resident(byte) {
            continue;
        }
        device.request_page(None, 1, PageAccess::WRITE, iova)?;
        assert_eq!(space.serve()?, 1, "one group was sent");
        let at = usize_of(page * PAGE);
        selftest::check_refs(device.iommufd(), &*memory, at..at + usize_of(PAGE), 1)?;
        most = most.max(pinned());
    }
    let statistics = space.statistics();
    println!(
        "{eviction:?} {prefetch:?}: pinned {before} KiB before, at most {most} KiB, budget {} KiB",
        BUDGET * PAGE / 1024
    );
    println!("  {statistics:?}");
    assert!(statistics.peak_bytes <= BUDGET * PAGE, "the budget is respected");
    assert_eq!((statistics.refused, statistics.failed), (0, 0));
    assert!(most <= before + BUDGET * PAGE / 1024);

    // What was not added, and what may not be.
    device.request_page(None, 2, PageAccess::READ, Iova(range.last().0 + 1))?;
    device.request_page(None, 3, PageAccess::READ | PageAccess::PRIV, range.start())?;
    space.serve()?;
    assert_eq!(space.statistics().refused, 2);
    Ok(())
}

/// The kernel answers what waits when a device is detached; the space goes on.
fn detached_with_faults(device: &MockDevice, elsewhere: &vfio_core::iommufd::Ioas) -> Result<()> {
    let mut space = DemandSpace::new(device, DemandOptions::default())?;
    let memory = Arc::new(Memory::new(1 << 20, MemoryOptions::default())?);
    let range = space.add(&memory, 0..memory.len(), BOTH)?;
    device.replace(space.table().ok_or(Error::Invalid("the space has a table"))?)?;
    for group in 0..8 {
        device.request_page(None, group, PageAccess::READ, range.start())?;
    }
    device.replace(elsewhere)?;
    let served = space.serve()?;
    device.replace(space.table().ok_or(Error::Invalid("the space has a table"))?)?;
    device.request_page(None, 9, PageAccess::READ, range.start())?;
    let again = space.serve()?;
    println!(
        "detached with 8 groups pending: {served} read afterwards; attached again: {again} served; {:?}",
        space.statistics()
    );
    assert_eq!((again, space.statistics().mapped), (1, 1));
    device.replace(elsewhere)?;
    Ok(())
}

fn dirty(iommufd: &Iommufd) -> Result<()> {
    let space = AddressSpace::iommufd(iommufd)?;
    let device = MockDevice::new(
        space.ioas().ok_or(Error::Invalid("an iommufd has an IOAS"))?,
        MockFlags::empty(),
    )?;
    space.refresh()?;
    let memory = Arc::new(Memory::new(64 << 12, MemoryOptions::default())?);
    let mapping = space.map(&memory, 0..memory.len(), BOTH)?;
    let mut tracker = DirtyTracker::new(&space, PAGE)?;
    let table = tracker.table_for(&device)?;
    tracker.track_table(&table)?;
    let mut written = DirtyBitmap::new(mapping.range(), 2048)?;
    for page in [3, 4, 40] {
        let byte = IovaRange::new(Iova(mapping.iova().0 + page * PAGE), 1).ok_or(Error::Invalid("inside"))?;
        written.mark(byte);
    }
    selftest::set_dirty(&table, &written)?;
    let found: Vec<Written> = tracker.dirty().collect::<Result<_>>()?;
    println!("dirty: {found:?}");
    // What was written, and as much around it as one entry of the page table covers.
    for page in [3, 4, 40] {
        let byte = IovaRange::new(Iova(mapping.iova().0 + page * PAGE), 1).ok_or(Error::Invalid("inside"))?;
        let is_of = |written: &Written| matches!(written, Written::Mapped(range) if range.contains(&byte));
        assert!(found.iter().any(is_of));
    }
    assert_eq!(tracker.dirty().count(), 0);
    Ok(())
}

fn nested(iommufd: &Iommufd, device: &MockDevice) -> Result<()> {
    let space = AddressSpace::iommufd(iommufd)?;
    let nesting = Nesting::new(&space, device)?;
    let bytes = selftest::nested_data(0x1234, false);
    let data = HwptData::Raw {
        kind: selftest::HWPT_DATA,
        bytes: &bytes,
    };
    let table = nesting.table(device, HwptParent::Hwpt(nesting.parent()), data)?;
    selftest::check_iotlb(table.hwpt(), 0, 0x1234)?;
    println!("nested: {:?} under {:?}", table.hwpt().id(), nesting.parent().id());
    Ok(())
}

/// What the process has pinned, in KiB.
fn pinned() -> u64 {
    let status = std::fs::read("/proc/self/status").unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmPin:"))
        .unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
