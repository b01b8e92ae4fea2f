//! Vendor-specific capability of the standard list (PCIe 6.0 §7.9.4). virtio describes its BARs with it.

use super::{Capability, CapabilityId, Decode};
use crate::register::structure;
use crate::{Bytes, Truncated};

structure! {
    /// Bytes that only the vendor can explain.
    #[doc(alias = "PCI_CAP_ID_VNDR")]
    pub struct VendorSpecific {
        /// Length of the whole capability as it states it, in bytes.
        len_bytes: u8,
        /// What follows the length byte, as far as the capability can extend.
        data: Bytes,
    }
}

impl Decode for VendorSpecific {
    const ID: CapabilityId = CapabilityId::VENDOR_SPECIFIC;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let len_bytes = window.read(2)?;
        Ok(Self {
            len_bytes,
            data: Bytes(window.bytes(3, u16::from(len_bytes)).to_vec()),
        })
    }
}
