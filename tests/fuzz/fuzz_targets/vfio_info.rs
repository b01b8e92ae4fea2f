//! What VFIO tells about a device, a region or a container, from a hostile kernel.
//!
//! The first byte chooses the parser. Whatever comes out keeps its promises: areas lie inside their region, in order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_core::info::{Chain, ContainerInfo, DeviceInfo, RegionInfo};

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 4 {
        0 => {
            let first = bytes.first_chunk().map_or(0, |first| u32::from_ne_bytes(*first));
            assert!(Chain::new(bytes, first).count() <= bytes.len() / 8 + 1);
        }
        1 => {
            if let Ok(info) = DeviceInfo::parse(bytes) {
                assert!(!format!("{info:?}").is_empty());
            }
        }
        2 => {
            if let Ok(info) = RegionInfo::parse(bytes) {
                let areas = info.sparse.unwrap_or_default();
                assert!(areas.iter().all(|area| area.start < area.end && area.end <= info.size));
                assert!(areas.is_sorted_by_key(|area| area.start));
            }
        }
        _ => {
            if let Ok(info) = ContainerInfo::parse(bytes) {
                assert!(!format!("{info:?}").is_empty());
            }
        }
    }
});
