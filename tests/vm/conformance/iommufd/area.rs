//! Fixture `iommufd_ioas`, part 2: areas of an address space: mapped, unmapped, placed, reserved, copied.

use super::bench::{APERTURE, BUFFER, Bench, MOCK_PAGE, PAGE, READ_WRITE, Variant, huge_memory, map, range, refused};
use crate::PASSED;
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use vfio_core::iommufd::selftest;
use vfio_core::iommufd::{Ioas, Mapping, Placement};
use vfio_core::{Access, Iova, IovaRange};

pub(super) fn area(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let page = |n: u64| range(bench.at(n * PAGE), PAGE);
    for n in 0..10 {
        refused(bench.ioas.unmap(range(Iova(n * PAGE), PAGE)?), Errno::NOENT)?;
    }
    let mappings = (0..10)
        .map(|n| bench.map_at(PAGE, bench.at(n * PAGE)))
        .collect::<Result<Vec<_>, _>>()?;
    for (mapping, n) in mappings.into_iter().zip(0..) {
        if n % 2 == 0 {
            mapping.unmap()?;
        } else {
            ensure!(bench.ioas.unmap(page(n)?)? == PAGE);
            // The guard sees that somebody was faster.
            mapping.unmap()?;
        }
        refused(bench.ioas.unmap(page(n)?), Errno::NOENT)?;
    }

    let two = bench.map_at(2 * PAGE, bench.at(16 * PAGE))?;
    refused(bench.ioas.unmap(page(16)?), Errno::NOENT)?;
    refused(bench.ioas.unmap(page(17)?), Errno::NOENT)?;
    for (start, pages) in [(16, 2), (16, 1), (17, 1), (15, 2), (15, 3)] {
        refused(bench.map_at(pages * PAGE, bench.at(start * PAGE)), Errno::EXIST)?;
    }

    ensure!(bench.ioas.unmap(IovaRange::ALL)? == 2 * PAGE);
    ensure!(
        bench.ioas.unmap(IovaRange::ALL)? == 0,
        "an empty address space has nothing to unmap"
    );
    two.unmap()?;
    PASSED
}

pub(super) fn unmap_fully_contained_areas(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let base = bench.at(4 * PAGE);
    let at = |pages: u64| Iova(base.0 + pages * PAGE);
    let mappings = (0..4)
        .map(|n| bench.map_at(8 * PAGE, at(n * 16)))
        .collect::<Result<Vec<_>, _>>()?;
    let before = bench.at(0);
    refused(bench.ioas.unmap(range(before, 8 * PAGE)?), Errno::NOENT)?;
    refused(bench.ioas.unmap(range(at(3 * 16 + 4), 8 * PAGE)?), Errno::NOENT)?;
    let unmapped = bench.ioas.unmap(range(before, (3 * 16 + 8 + 4) * PAGE)?)?;
    ensure!(unmapped == 32 * PAGE, "{unmapped} bytes");
    drop(mappings);
    PASSED
}

/// Maps 1 to 10 pages wherever the kernel likes; all at multiples of the largest power of two in their lengths, as the memory is.
fn placed(bench: &Bench) -> Result<Vec<Mapping>> {
    let memory = huge_memory(2 << 20)?;
    (1..=10)
        .map(|pages| {
            let len = pages * PAGE;
            let mapping = map(&bench.ioas, &memory, 0, len, Placement::Any)?;
            let alignment = 1 << len.trailing_zeros();
            ensure!(
                mapping.iova().is_aligned_to(alignment),
                "{len} bytes at {}",
                mapping.iova()
            );
            Ok(mapping)
        })
        .collect()
}

pub(super) fn area_auto_iova(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let pages = (0..10).map(|_| bench.map(PAGE)).collect::<Result<Vec<_>, _>>()?;
    drop(pages);
    drop(placed(&bench)?);

    let reserved = range(Iova(4 * PAGE), 100 * PAGE)?;
    selftest::add_reserved(&bench.ioas, reserved)?;
    for mapping in placed(&bench)? {
        ensure!(!mapping.range().overlaps(&reserved), "{} is reserved", mapping.range());
    }

    let both = range(Iova(PAGE), 600 * PAGE)?;
    refused(bench.ioas.allow_iovas(&[both]), Errno::ADDRINUSE)?;
    let allowed = if variant.devices > 0 {
        range(Iova(APERTURE.0 + PAGE), 599 * PAGE)?
    } else {
        range(Iova(200 * PAGE), 400 * PAGE)?
    };
    bench.ioas.allow_iovas(&[allowed])?;
    for mapping in placed(&bench)? {
        ensure!(allowed.contains(&mapping.range()), "{} is not allowed", mapping.range());
    }
    PASSED
}

pub(super) fn reserved_overflow(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    selftest::add_reserved(&bench.ioas, range(Iova(6), 0xffff_ffff_ffff_8001)?)?;
    // 0x5000 bytes would fit; not at a multiple of 0x8000, which is where memory that is so aligned goes.
    let memory = huge_memory(2 << 20)?;
    refused(map(&bench.ioas, &memory, 0, 0x5000, Placement::Any), Errno::NOSPC)?;
    PASSED
}

pub(super) fn area_allowed(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let allowed = range(bench.base, 600 * PAGE + 1)?;
    let reserved = range(bench.at(PAGE), PAGE)?;
    bench.ioas.allow_iovas(&[allowed])?;
    refused(selftest::add_reserved(&bench.ioas, reserved), Errno::ADDRINUSE)?;
    bench.ioas.allow_iovas(&[])?;
    selftest::add_reserved(&bench.ioas, reserved)?;
    refused(bench.ioas.allow_iovas(&[allowed]), Errno::ADDRINUSE)?;
    PASSED
}

pub(super) fn copy_area(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let mapping = bench.map_at(PAGE, bench.base)?;
    let inside = bench
        .ioas
        .copy(&mapping, Placement::Fixed(bench.at(PAGE)), Access::WRITE)?;
    ensure!(inside.iova() == bench.at(PAGE));
    let other = bench.iommufd.alloc_ioas()?;
    let across = other.copy(&mapping, Placement::Fixed(Iova(0)), Access::WRITE)?;
    ensure!(across.iova() == Iova(0));
    // A copy does not depend on what it was copied from.
    mapping.unmap()?;
    inside.unmap()?;
    across.unmap()?;
    PASSED
}

/// The kernel copies any part of an area; here a mapping is copied whole, so that the sweep is one of mappings.
pub(super) fn copy_sweep(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let other = bench.iommufd.alloc_ioas()?;
    for n in 0..BUFFER / MOCK_PAGE {
        let place = Iova(APERTURE.0 + n * MOCK_PAGE);
        let mapping = map(
            &bench.ioas,
            &bench.memory,
            n * MOCK_PAGE,
            MOCK_PAGE,
            Placement::Fixed(place),
        )?;
        let copied = other.copy(&mapping, Placement::Fixed(APERTURE), Access::WRITE)?;
        ensure!(copied.range() == range(APERTURE, MOCK_PAGE)?);
        copied.unmap()?;
        bench.ioas.unmap(mapping.range())?;
        refused(
            other.copy(&mapping, Placement::Fixed(APERTURE), READ_WRITE),
            Errno::NOENT,
        )?;
        refused(other.unmap(range(APERTURE, MOCK_PAGE)?), Errno::NOENT)?;
    }
    PASSED
}

/// Maps part of a dma-buf somewhere.
fn map_dmabuf(ioas: &Ioas, dmabuf: &OwnedFd, start: u64, len: u64) -> Result<Mapping, vfio_core::Error> {
    ioas.map_file(dmabuf, start, len, Placement::Any, READ_WRITE)
}

pub(super) fn dmabuf_simple(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let len = 4 * PAGE;
    let dmabuf = selftest::dma_buf(&bench.iommufd, u32::try_from(len)?)?;
    for (start, part) in [(0, 0), (len, len), (0, len + 1)] {
        refused(map_dmabuf(&bench.ioas, &dmabuf, start, part), Errno::INVAL)
            .with_context(|| format!("{part} bytes from {start}"))?;
    }
    map_dmabuf(&bench.ioas, &dmabuf, 0, len)?.unmap()?;
    PASSED
}

pub(super) fn dmabuf_revoke(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let len = 4 * PAGE;
    let dmabuf = selftest::dma_buf(&bench.iommufd, u32::try_from(len)?)?;
    let first = map_dmabuf(&bench.ioas, &dmabuf, 0, len)?;
    selftest::revoke_dma_buf(&bench.iommufd, dmabuf.as_fd(), true)?;
    refused(map_dmabuf(&bench.ioas, &dmabuf, 0, len), Errno::NODEV)?;
    selftest::revoke_dma_buf(&bench.iommufd, dmabuf.as_fd(), false)?;
    let second = map_dmabuf(&bench.ioas, &dmabuf, 0, len)?;
    let place = first.iova();
    first.unmap()?;
    let again = bench
        .ioas
        .map_file(&dmabuf, 0, len, Placement::Fixed(place), READ_WRITE)?;
    ensure!(again.iova() == place);
    drop((second, again));
    PASSED
}
