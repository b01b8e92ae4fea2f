//! What VFIO tells about a device, a region or a container: a structure, and a chain of capabilities behind it.
//!
//! The parsers take bytes as the kernel wrote them and never fail other than by an error: every offset and count is checked, and a
//! chain that runs in a circle ends. They are public so that they can be fuzzed.
//!
//! Follows `struct vfio_info_cap_header` of `include/uapi/linux/vfio.h`.

mod chain;
mod container;
mod device;
mod region;

pub use chain::{Capability, Chain};
pub use container::{ContainerInfo, DirtyLogging};
pub use device::{AtomicCompleter, DeviceFlags, DeviceInfo};
pub use region::{RegionFlags, RegionIndex, RegionInfo, RegionKind};

use crate::ErrorKind;

/// Reads a number of the machine's byte order.
fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, ErrorKind> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.copied().map(u32::from_ne_bytes).ok_or(SHORT)
}

/// Reads a number of the machine's byte order.
fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, ErrorKind> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.copied().map(u64::from_ne_bytes).ok_or(SHORT)
}

const SHORT: ErrorKind = ErrorKind::Malformed("the structure is cut short");
