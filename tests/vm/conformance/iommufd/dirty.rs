//! Fixture `iommufd_dirty_tracking`: what the mock's page tables say was written.

use super::bench::{APERTURE, MOCK_PAGE, PAGE, map, range, refused, selftest_data};
use crate::PASSED;
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use std::sync::Arc;
use vfio_core::iommufd::selftest::{HUGE_PAGE_SIZE, IOTLB_DEFAULT, MockDevice, MockFlags, nested_data, set_dirty};
use vfio_core::iommufd::{HwCapabilities, Hwpt, HwptData, HwptFlags, HwptParent, Ioas, Iommufd, Placement};
use vfio_core::{DirtyBitmap, Iova, Memory, MemoryOptions, PageSize, System};

/// Length of the memory, and whether it is of huge pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    len: u64,
    huge: bool,
}

const fn variant(name: &'static str, len: u64, huge: bool) -> Variant {
    Variant { name, len, huge }
}

pub(super) const VARIANTS: [Variant; 9] = [
    variant("domain_dirty8k", 8 << 10, false),
    variant("domain_dirty16k", 16 << 10, false),
    variant("domain_dirty64k", 64 << 10, false),
    variant("domain_dirty128k", 128 << 10, false),
    variant("domain_dirty320k", 320 << 10, false),
    variant("domain_dirty64M", 64 << 20, false),
    variant("domain_dirty64M_huge", 64 << 20, true),
    variant("domain_dirty128M", 128 << 20, false),
    variant("domain_dirty128M_huge", 128 << 20, true),
];

struct Bench {
    device: MockDevice,
    ioas: Ioas,
    iommufd: Iommufd,
}

impl Bench {
    fn new(variant: &Variant) -> Result<Self> {
        let iommufd = Iommufd::open(&System::host())?;
        let ioas = iommufd.alloc_ioas()?;
        if !variant.huge {
            // Entries of base pages, of which each spans two of the mock's.
            ioas.set_huge_pages(false)?;
        }
        Ok(Self {
            device: MockDevice::new(&ioas, MockFlags::empty())?,
            ioas,
            iommufd,
        })
    }

    fn table(&self, flags: HwptFlags) -> Result<Hwpt> {
        Ok(Hwpt::alloc(
            &self.device,
            HwptParent::Ioas(&self.ioas),
            flags,
            HwptData::None,
            None,
        )?)
    }
}

pub(super) fn enforce_dirty(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let table = bench.table(HwptFlags::DIRTY_TRACKING)?;
    let device = MockDevice::new(&table, MockFlags::empty())?;
    refused(MockDevice::new(&table, MockFlags::NO_DIRTY), Errno::INVAL)?;
    drop((device, table));

    let other = bench.iommufd.alloc_ioas()?;
    let without = MockDevice::new(&other, MockFlags::NO_DIRTY)?;
    let made = Hwpt::alloc(
        &without,
        HwptParent::Ioas(&other),
        HwptFlags::DIRTY_TRACKING,
        HwptData::None,
        None,
    );
    refused(made, Errno::OPNOTSUPP)?;
    PASSED
}

pub(super) fn set_dirty_tracking(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let table = bench.table(HwptFlags::DIRTY_TRACKING)?;
    let device = MockDevice::new(&table, MockFlags::empty())?;
    table.set_dirty_tracking(true)?;
    table.set_dirty_tracking(false)?;
    drop(device);
    PASSED
}

pub(super) fn pasid_set_dirty_tracking(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let pasid = 100;
    let table = bench.table(HwptFlags::PASID | HwptFlags::DIRTY_TRACKING)?;
    let device = MockDevice::new(&table, MockFlags::PASID)?;
    device.attach_pasid(pasid, &table)?;
    table.set_dirty_tracking(true)?;
    table.set_dirty_tracking(false)?;
    device.detach_pasid(pasid)?;
    drop(device);

    let other = bench.iommufd.alloc_ioas()?;
    let without = MockDevice::new(&other, MockFlags::PASID | MockFlags::NO_DIRTY)?;
    refused(without.attach_pasid(pasid, &table), Errno::INVAL)?;
    PASSED
}

pub(super) fn device_dirty_capability(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let table = bench.table(HwptFlags::empty())?;
    let device = MockDevice::new(&table, MockFlags::empty())?;
    for device in [&bench.device, &device] {
        let info = bench.iommufd.hw_info(device)?;
        ensure!(
            info.capabilities.contains(HwCapabilities::DIRTY_TRACKING),
            "{:?}",
            info.capabilities
        );
    }
    PASSED
}

pub(super) fn get_dirty_bitmap(variant: &Variant) -> Result<Outcome> {
    bitmaps(variant, true)
}

pub(super) fn get_dirty_bitmap_no_clear(variant: &Variant) -> Result<Outcome> {
    bitmaps(variant, false)
}

/// Every other page of the mock's is written by the "device"; all that the table's entry covers is dirty. Read with `clear` once, it is clean
/// afterwards, and without it is as dirty as before.
fn bitmaps(variant: &Variant, clear: bool) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let options = MemoryOptions {
        pages: if variant.huge { PageSize::Huge2M } else { PageSize::Base },
        ..MemoryOptions::default()
    };
    let memory = Arc::new(Memory::new(usize::try_from(variant.len)?, options)?);
    let _mapping = map(&bench.ioas, &memory, 0, variant.len, Placement::Fixed(APERTURE))?;
    let data = nested_data(IOTLB_DEFAULT, variant.huge);
    let table = Hwpt::alloc(
        &bench.device,
        HwptParent::Ioas(&bench.ioas),
        HwptFlags::DIRTY_TRACKING,
        selftest_data(&data),
        None,
    )?;
    table.set_dirty_tracking(true)?;
    let whole = range(APERTURE, variant.len)?;
    let entry = if variant.huge { HUGE_PAGE_SIZE } else { PAGE };
    let per_entry = entry / MOCK_PAGE;
    let pages = variant.len / MOCK_PAGE;

    // Every odd page of the mock's in every other entry.
    let expected = |page: u64| (page / per_entry).is_multiple_of(2);
    let written: Vec<u64> = (0..pages).filter(|page| expected(*page) && page % 2 == 1).collect();
    for _ in 0..3 {
        let mut marks = DirtyBitmap::new(whole, MOCK_PAGE)?;
        for page in &written {
            marks.mark(range(at(*page), MOCK_PAGE)?);
        }
        let marked = set_dirty(&table, &marks)?;
        ensure!(
            marked == written.len() as u64,
            "{marked} pages were marked, not {}",
            written.len()
        );
        let mut found = DirtyBitmap::new(whole, MOCK_PAGE)?;
        table.dirty_bitmap(&mut found, clear)?;
        same(&found, pages, expected)?;
        let mut again = DirtyBitmap::new(whole, MOCK_PAGE)?;
        table.dirty_bitmap(&mut again, true)?;
        same(&again, pages, |page| !clear && expected(page)).context("read once more")?;
    }
    PASSED
}

/// Where a page of the mock's begins.
fn at(page: u64) -> Iova {
    Iova(APERTURE.0 + page * MOCK_PAGE)
}

fn same(found: &DirtyBitmap, pages: u64, expected: impl Fn(u64) -> bool) -> Result<()> {
    let wrong = (0..pages).find(|page| found.is_dirty(at(*page)) != expected(*page));
    ensure!(
        wrong.is_none(),
        "page {} of {pages} is {}",
        wrong.unwrap_or_default(),
        if wrong.is_some_and(&expected) { "clean" } else { "dirty" }
    );
    Ok(())
}
