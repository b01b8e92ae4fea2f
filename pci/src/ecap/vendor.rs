//! Vendor-specific extended capabilities: VSEC (PCIe 6.0 §7.9.5) and DVSEC (§7.9.6). CXL is made of the latter.

use crate::cap::{Capability, CapabilityId, Decode};
use crate::register::{Window, structure};
use crate::{Bytes, Hex, Truncated, VendorId};

structure! {
    /// Vendor-specific extended capability: the vendor is the one in the header.
    #[doc(alias = "PCI_EXT_CAP_ID_VNDR")]
    pub struct Vsec {
        /// Which structure, by the vendor's count.
        id: Hex<u16>,
        /// Its revision.
        revision: u8,
        /// Length of the whole capability as it states it, in bytes.
        len_bytes: u16,
        /// What follows the two headers, as far as the capability can extend.
        data: Bytes,
    }
}

structure! {
    /// Designated vendor-specific extended capability: names its vendor, who need not be the one in the header.
    #[doc(alias = "PCI_EXT_CAP_ID_DVSEC")]
    pub struct Dvsec {
        /// Who defined the structure (0x1e98 is CXL).
        vendor: VendorId,
        /// Which structure, by the vendor's count.
        id: Hex<u16>,
        /// Its revision.
        revision: u8,
        /// Length of the whole capability as it states it, in bytes.
        len_bytes: u16,
        /// What follows the three headers, as far as the capability can extend.
        data: Bytes,
    }
}

impl Decode for Vsec {
    const ID: CapabilityId = CapabilityId::VSEC;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let (id, revision, len_bytes) = first_header(window)?;
        Ok(Self {
            id: Hex(id),
            revision,
            len_bytes,
            data: Bytes(window.bytes(0x08, len_bytes).to_vec()),
        })
    }
}

impl Decode for Dvsec {
    const ID: CapabilityId = CapabilityId::DVSEC;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let (vendor, revision, len_bytes) = first_header(window)?;
        Ok(Self {
            vendor: VendorId(vendor),
            id: window.read(0x08)?,
            revision,
            len_bytes,
            data: Bytes(window.bytes(0x0a, len_bytes).to_vec()),
        })
    }
}

/// The header that both have in common: identifier or vendor in 16 bits, revision in 4, length in 12.
fn first_header(window: Window<'_>) -> Result<(u16, u8, u16), Truncated> {
    let id = window.read(0x04)?;
    let rest: u16 = window.read(0x06)?;
    Ok((id, rest.to_le_bytes()[0] & 0xf, rest >> 4))
}
