//! Fixture `iommufd_ioas`, part 1: an address space's life, options and ranges, and what devices do with it.

use super::bench::{
    APERTURE, APERTURE_LAST, Bench, MOCK_PAGE, PAGE, Variant, check_map, over, range, refused, stranger,
};
use crate::PASSED;
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use vfio_core::iommufd::selftest::{self, MockDevice, MockFlags};
use vfio_core::iommufd::{HwCapabilities, HwInfoData, HwInfoKind, HwptFlags, Placement};
use vfio_core::{Iova, IovaRange};

pub(super) fn ioas_auto_destroy(variant: &Variant) -> Result<Outcome> {
    drop(Bench::new(variant)?);
    PASSED
}

/// The kernel refuses to destroy what a device uses; here the last handle goes with the last user.
pub(super) fn ioas_destroy(variant: &Variant) -> Result<Outcome> {
    let Bench {
        iommufd,
        ioas,
        devices,
        memory,
        ..
    } = Bench::new(variant)?;
    let whole = ioas.clone();
    drop(ioas);
    if let Some(device) = devices.last() {
        // The address space is still the device's.
        let mapping = super::bench::map(&whole, &memory, 0, PAGE, Placement::Fixed(APERTURE))?;
        drop(whole);
        check_map(device, &mapping, &memory, 0)?;
    }
    drop((devices, iommufd));
    PASSED
}

pub(super) fn ioas_area_destroy(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let mapping = bench.map_at(PAGE, bench.base)?;
    let Bench {
        ioas, iommufd, devices, ..
    } = bench;
    drop((ioas, iommufd, devices));
    // The guard holds what it needs: it can be asked for, and is unmapped, after all else went.
    mapping.unmap()?;
    PASSED
}

pub(super) fn ioas_area_auto_destroy(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let mappings = (0..10)
        .map(|n| bench.map_at(PAGE, bench.at(n * PAGE)))
        .collect::<Result<Vec<_>, _>>()?;
    drop(bench);
    drop(mappings);
    PASSED
}

pub(super) fn hwpt_attach(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let Some(device) = bench.device() else {
        let stranger = stranger()?;
        refused(over(&stranger, &bench.ioas, HwptFlags::empty()), Errno::INVAL)?;
        refused(stranger.replace(&bench.ioas), Errno::INVAL)?;
        return PASSED;
    };
    let hwpt = over(device, &bench.ioas, HwptFlags::empty())?;
    drop(MockDevice::new(&hwpt, MockFlags::empty())?);
    PASSED
}

pub(super) fn get_hw_info(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let Some(device) = bench.device() else {
        refused(bench.iommufd.hw_info(&stranger()?), Errno::INVAL)?;
        return PASSED;
    };
    let info = bench.iommufd.hw_info(device)?;
    let HwInfoData::Other { kind, bytes } = &info.data else {
        anyhow::bail!("the mock's data is taken for {:?}", info.data)
    };
    ensure!(*kind == selftest::HW_INFO, "kind {kind:?}");
    ensure!(bytes.len() == 8, "{} bytes", bytes.len());
    ensure!(
        bytes.ends_with(&selftest::HW_INFO_REGISTER.to_ne_bytes()),
        "the register is {bytes:x?}"
    );
    ensure!(info.capabilities.contains(HwCapabilities::DIRTY_TRACKING));
    ensure!(info.max_pasid_log2 == 0, "PASIDs of {} bits", info.max_pasid_log2);

    refused(
        bench.iommufd.hw_info_of(device, HwInfoKind(selftest::HW_INFO.0 + 1)),
        Errno::OPNOTSUPP,
    )?;
    ensure!(bench.iommufd.hw_info_of(device, selftest::HW_INFO)? == info);
    if let Some(device) = &bench.pasid_device {
        let bits = bench.iommufd.hw_info(device)?.max_pasid_log2;
        ensure!(bits == selftest::PASID_WIDTH, "PASIDs of {bits} bits");
    }
    PASSED
}

pub(super) fn ioas_option_huge_pages(variant: &Variant) -> Result<Outcome> {
    let Bench { ioas, .. } = &Bench::new(variant)?;
    ensure!(ioas.huge_pages()?, "not on by default");
    ioas.set_huge_pages(false)?;
    ensure!(!ioas.huge_pages()?);
    ioas.set_huge_pages(true)?;
    ensure!(ioas.huge_pages()?);
    PASSED
}

pub(super) fn ioas_iova_alloc(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    for len in 1..2 * PAGE {
        let mapped = bench.map(len);
        if variant.devices > 0 && !len.is_multiple_of(MOCK_PAGE) {
            refused(mapped, Errno::INVAL)?;
        } else {
            mapped.with_context(|| format!("{len} bytes"))?.unmap()?;
        }
    }
    PASSED
}

pub(super) fn ioas_align_change(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    if variant.devices > 0 {
        // Alignment cannot grow under a device.
        return PASSED;
    }
    let aligned = bench.map_at(PAGE, APERTURE)?;
    bench.ioas.set_huge_pages(false)?;
    let next = Placement::Fixed(Iova(APERTURE.0 + PAGE));
    let odd = || super::bench::map(&bench.ioas, &bench.memory, MOCK_PAGE, PAGE, next);
    refused(odd(), Errno::INVAL)?;
    bench.ioas.set_huge_pages(false)?;
    bench.ioas.set_huge_pages(true)?;
    let odd = odd()?;
    refused(bench.ioas.set_huge_pages(false), Errno::ADDRINUSE)?;
    odd.unmap()?;
    aligned.unmap()?;
    PASSED
}

/// The kernel's case asks with buffers that are too short; here the buffer grows until the answer fits, so there are more ranges than the first
/// one holds.
pub(super) fn iova_ranges(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let has_device = variant.devices > 0;
    let whole = IovaRange::from_bounds(APERTURE, APERTURE_LAST).context("the aperture")?;
    let found = bench.ioas.iova_ranges()?;
    let expected = if has_device { whole } else { IovaRange::ALL };
    ensure!(found.ranges == [expected], "{:?}", found.ranges);
    ensure!(
        found.alignment == if has_device { MOCK_PAGE } else { 1 },
        "alignment {}",
        found.alignment
    );

    selftest::add_reserved(&bench.ioas, range(Iova(PAGE), PAGE)?)?;
    let found = bench.ioas.iova_ranges()?.ranges;
    if has_device {
        ensure!(found == [whole], "{found:?}");
        return PASSED;
    }
    let last = IovaRange::from_bounds(Iova(2 * PAGE), Iova(u64::MAX)).context("the rest")?;
    ensure!(found == [range(Iova(0), PAGE)?, last], "{found:?}");

    for n in 1..40 {
        selftest::add_reserved(&bench.ioas, range(Iova((2 * n + 1) * PAGE), PAGE)?)?;
    }
    let found = bench.ioas.iova_ranges()?.ranges;
    ensure!(found.len() == 41, "{} ranges", found.len());
    for (range, n) in found.iter().take(40).zip(0..) {
        ensure!(
            *range == super::bench::range(Iova(2 * n * PAGE), PAGE)?,
            "range {n} is {range}"
        );
    }
    PASSED
}
