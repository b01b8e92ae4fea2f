//! The state of a device, saved to a file and loaded from one, and what devices write of the guest's memory meanwhile.
//!
//! A device is saved by [`Saving`]: copied while it runs as far as it can be (pre-copy), kept from DMA to other devices, stopped, and copied to the end.
//! Several devices of one guest go through these steps together ([`save`]), so that none is stopped while another may still reach it. [`Loading`] is the way
//! back. Nothing is loaded of a file that is not whole ([`format`](mod@format)).
//!
//! Follows `enum vfio_device_mig_state` of `include/uapi/linux/vfio.h`.

mod dirty;
pub mod format;
mod load;
mod save;

pub use dirty::DirtyRam;
pub use load::Loading;
pub use save::{Limits, Saved, Saving, save};

use crate::{Error, ErrorKind, Result};
use format::Kind;
use vfio_core::migration::Migration;
use vfio_core::{BoundDevice, RegionIndex};

/// The device's migration, and what it is.
fn migration_of(device: &BoundDevice) -> Result<(Migration, Kind)> {
    let migration = device.migration()?;
    let none = ErrorKind::Unsupported(
        "a device that can be migrated, with a driver that does it (mlx5-vfio-pci and others, mtty)",
    );
    let migration = migration.ok_or_else(|| failed(device, none))?;
    let mut ids = [0xFF; 4];
    if device.region_info(RegionIndex::CONFIG).is_ok_and(|info| info.exists()) {
        device.config()?.read(0, &mut ids)?;
    }
    let [a, b, c, d] = ids;
    let kind = Kind {
        vendor: u16::from_le_bytes([a, b]),
        device: u16::from_le_bytes([c, d]),
    };
    Ok((migration, kind))
}

fn failed(device: &BoundDevice, kind: ErrorKind) -> Error {
    let error = Error::new("migrate", kind);
    match device.bdf() {
        Some(bdf) => error.on(bdf),
        None => error,
    }
}

#[cfg(test)]
mod tests;
