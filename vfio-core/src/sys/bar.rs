//! A mapped region as the target of another device's DMA.

use crate::{Access, RegionMap, StableMemory};
use rustix::param::page_size;
use std::sync::Arc;

/// A map of a region that has an address and goes both ways.
#[derive(Debug)]
pub(crate) struct BarMemory(Arc<RegionMap>);

impl BarMemory {
    pub(crate) fn new(map: Arc<RegionMap>) -> Option<Self> {
        let fits = map.address().is_some() && map.access() == Access::READ | Access::WRITE;
        fits.then_some(Self(map))
    }
}

// SAFETY: the map is made once, readable and writable, never moved or resized, and unmapped when the last `Arc` of it goes; the kernel
// maps whole pages. Its bytes are accessed by volatile loads and stores only; no reference to them exists.
unsafe impl StableMemory for BarMemory {
    fn address(&self) -> *mut u8 {
        self.0.address().unwrap_or_default()
    }

    fn len(&self) -> usize {
        // A BAR that is smaller than a page is mapped with the rest of the page.
        self.0.len().next_multiple_of(page_size())
    }
}
