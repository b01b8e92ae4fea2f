//! Answers in the kernel's own format: a fixed structure, and a chain of capabilities behind it.

use super::config::Config;
use super::file::OFFSET_SHIFT;
use crate::fake::device::Abilities;
use crate::fake::state::Slot;
use crate::sys::Result;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio as uapi;

/// `struct vfio_device_info`.
pub(crate) fn device(slot: &Slot) -> Vec<u8> {
    let reset = if slot.description.has(Abilities::RESET) {
        uapi::VFIO_DEVICE_FLAGS_RESET
    } else {
        0
    };
    let special = slot
        .description
        .regions
        .iter()
        .filter(|region| region.kind.is_some())
        .count();
    let special = u32::try_from(special).unwrap_or_default();
    let words = [
        24,
        uapi::VFIO_DEVICE_FLAGS_PCI | reset,
        uapi::VFIO_PCI_NUM_REGIONS + special,
        uapi::VFIO_PCI_NUM_IRQS,
        0,
        0,
    ];
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// `struct vfio_region_info`.
pub(crate) fn region(slot: &Slot, config: &Config, index: u32) -> Result<Vec<u8>> {
    let mut chain = Chain::new(32);
    let (flags, size) = match slot.region(index) {
        _ if index == uapi::VFIO_PCI_CONFIG_REGION_INDEX => (
            uapi::VFIO_REGION_INFO_FLAG_READ | uapi::VFIO_REGION_INFO_FLAG_WRITE,
            config.len(),
        ),
        Some(region) => {
            let write = if region.write {
                uapi::VFIO_REGION_INFO_FLAG_WRITE
            } else {
                0
            };
            let mmap = if region.mmap {
                uapi::VFIO_REGION_INFO_FLAG_MMAP
            } else {
                0
            };
            if region.mmap && slot.description.msix.is_some_and(|msix| u32::from(msix.bar) == index) {
                chain.add(uapi::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, &[]);
            }
            if !region.sparse.is_empty() {
                let count = u64::try_from(region.sparse.len()).unwrap_or_default();
                let areas = region
                    .sparse
                    .iter()
                    .flat_map(|part| [part.start, part.end - part.start]);
                let body: Vec<u8> = std::iter::once(count).chain(areas).flat_map(u64::to_ne_bytes).collect();
                chain.add(uapi::VFIO_REGION_INFO_CAP_SPARSE_MMAP, &body);
            }
            if let Some((kind, subtype)) = region.kind {
                let body: Vec<u8> = [kind, subtype].into_iter().flat_map(u32::to_ne_bytes).collect();
                chain.add(uapi::VFIO_REGION_INFO_CAP_TYPE, &body);
            }
            (uapi::VFIO_REGION_INFO_FLAG_READ | write | mmap, region.size)
        }
        // The legacy VGA region is of VGA devices only.
        None if index == uapi::VFIO_PCI_VGA_REGION_INDEX || index > uapi::VFIO_PCI_NUM_REGIONS => {
            return Err(Errno::INVAL);
        }
        None => (0, 0),
    };
    let caps = if chain.is_empty() {
        0
    } else {
        uapi::VFIO_REGION_INFO_FLAG_CAPS
    };
    let head = [chain.len(), flags | caps, index, chain.first()];
    let mut bytes: Vec<u8> = head.into_iter().flat_map(u32::to_ne_bytes).collect();
    bytes.extend(
        [size, u64::from(index) << OFFSET_SHIFT]
            .into_iter()
            .flat_map(u64::to_ne_bytes),
    );
    bytes.extend(chain.bytes);
    Ok(bytes)
}

/// A chain of capabilities (`struct vfio_info_cap_header`) behind a structure.
pub(crate) struct Chain {
    start: u32,
    bytes: Vec<u8>,
    last: Option<usize>,
}

impl Chain {
    /// Behind a structure of `start` bytes.
    pub(crate) fn new(start: u32) -> Self {
        Self {
            start,
            bytes: Vec::new(),
            last: None,
        }
    }

    pub(crate) fn add(&mut self, id: u32, body: &[u8]) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = self.bytes.len();
        let place = self.start + u32::try_from(at).unwrap_or_default();
        if let Some(next) = self.last.and_then(|last| self.bytes.get_mut(last + 4..last + 8)) {
            next.copy_from_slice(&place.to_ne_bytes());
        }
        self.last = Some(at);
        // Every capability of VFIO has a 16-bit id, and version 1.
        self.bytes.extend(u16::try_from(id).unwrap_or_default().to_ne_bytes());
        self.bytes.extend(1_u16.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(body);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Length with the structure.
    pub(crate) fn len(&self) -> u32 {
        self.start + u32::try_from(self.bytes.len()).unwrap_or_default()
    }

    /// Where the first capability is, 0 without.
    pub(crate) fn first(&self) -> u32 {
        if self.is_empty() { 0 } else { self.start }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
