//! Peer-to-peer DMA: functions of one guest reach one another's BARs where the guest's processors do.

use iommu::Iova;
use iommu::space::{AddressSpace, MapOptions, PeerMapping};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use vfio_core::{Access, BoundDevice, RegionIndex};

/// Where the functions of a guest do DMA.
#[derive(Debug)]
pub(super) struct Peers {
    space: AddressSpace,
    /// Whether it was said that it does not work.
    was_told: AtomicBool,
}

impl Peers {
    pub(super) fn new(space: &AddressSpace) -> Self {
        Self {
            space: space.clone(),
            was_told: AtomicBool::new(false),
        }
    }

    /// Maps parts of a BAR that the guest has at `address`, as far as that works: a guest that does no such DMA lacks nothing.
    pub(super) fn map(
        &self,
        device: &BoundDevice,
        region: RegionIndex,
        address: u64,
        parts: impl Iterator<Item = Range<u64>>,
    ) -> Vec<PeerMapping> {
        let map = |part: Range<u64>| {
            let iova = Iova(address.checked_add(part.start)?);
            let options = MapOptions::new(Access::READ | Access::WRITE).at(iova);
            let mapped = self.space.map_bar(device, region, part, options);
            let told = |error: &iommu::Error| {
                if !self.was_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, device = ?device.bdf(), %region, "other functions of the guest do not reach this BAR");
                }
            };
            mapped.inspect_err(told).ok()
        };
        parts.filter_map(map).collect()
    }
}
