//! `vfio_dma_mapping_mmio_test`: the device's own BAR as the target of DMA. type1 maps it by its address; an iommufd refuses that.

use super::in_all_modes;
use crate::PASSED;
use crate::context::{Context, Mode};
use crate::harness::Case;
use crate::stage::Staged;
use anyhow::{Context as _, Result, ensure};
use lab::case::Outcome;
use std::sync::Arc;
use vfio_core::{Access, BoundDevice, Region, RegionIndex, RegionMapOptions};

pub(super) fn cases(modes: &[Mode]) -> Vec<Case> {
    in_all_modes(
        "dma_mapping_mmio_test",
        modes,
        &[
            ("map_full_bar", map_full_bar),
            ("map_partial_bar", map_partial_bar),
            ("map_bar_misaligned", map_bar_misaligned),
        ],
    )
}

const PAGE: u64 = 4096;

/// The largest BAR that can be mapped whole, for reading and writing.
fn largest_bar(device: &BoundDevice) -> Option<Region> {
    let usable = |region: &Region| {
        let whole = region
            .info()
            .mappable()
            .first()
            .is_some_and(|area| *area == (0..region.size()));
        whole && region.access().contains(Access::READ | Access::WRITE)
    };
    let bars = RegionIndex::BARS.into_iter().filter_map(|bar| device.region(bar).ok());
    bars.filter(usable).max_by_key(Region::size)
}

fn map_bar(
    staged: &Staged,
    mode: Mode,
    options: RegionMapOptions,
    shortest: u64,
    len: impl Fn(u64) -> u64,
) -> Result<Outcome> {
    let context = Context::open(mode)?;
    let opened = context.device(staged.pf()?)?;
    let Some(bar) = largest_bar(&opened.device).filter(|bar| bar.size() >= shortest) else {
        return Ok(Outcome::Skipped("the device has no such BAR".to_owned()));
    };
    let len = len(bar.size());
    let map = Arc::new(bar.map_with(0..len, options)?);
    let memory = map.to_memory().context("a BAR without an address")?;
    let iova = context.place(len.next_power_of_two(), 0)?;
    let mapped = context.map(memory, 0..usize::try_from(len)?, iova);
    if mode.is_type1() {
        mapped?.unmap()?;
    } else {
        ensure!(mapped.is_err(), "an iommufd took a BAR by its address");
    }
    PASSED
}

fn map_full_bar(staged: &Staged, mode: Mode) -> Result<Outcome> {
    map_bar(staged, mode, RegionMapOptions::default(), 0, |size| size)
}

fn map_partial_bar(staged: &Staged, mode: Mode) -> Result<Outcome> {
    map_bar(staged, mode, RegionMapOptions::default(), 2 * PAGE, |_| PAGE)
}

/// At the worst of addresses: a page behind a multiple of 1 GiB.
fn map_bar_misaligned(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let options = RegionMapOptions {
        alignment: Some((1 << 30, 1 << 12)),
        ..RegionMapOptions::default()
    };
    map_bar(staged, mode, options, 0, |size| size.min(1 << 30))
}
