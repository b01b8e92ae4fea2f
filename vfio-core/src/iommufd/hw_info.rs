//! What the IOMMU in front of a device offers.

use super::{IommuDevice, Iommufd, command};
use crate::Error;

/// The most bytes of data that are taken; the longest kind has 40.
const MAX_DATA: u32 = 1 << 16;

bitflags::bitflags! {
    /// What an IOMMU and a device can do together, whatever the vendor.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct HwCapabilities: u64 {
        /// Dirty pages can be tracked.
        const DIRTY_TRACKING = 1;
        /// The device's PASIDs can ask for execute permission.
        const PASID_EXEC = 2;
        /// The device's PASIDs can ask for privileged mode.
        const PASID_PRIV = 4;
        /// The device has no usable ATS.
        const ATS_NOT_SUPPORTED = 8;
        const _ = !0;
    }
}

/// Whose data it is (`enum iommu_hw_info_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HwInfoKind(pub u32);

impl HwInfoKind {
    /// Intel VT-d.
    pub const INTEL_VTD: Self = Self(1);
    /// Arm SMMUv3.
    pub const ARM_SMMUV3: Self = Self(2);
    /// NVIDIA's command queue extension of SMMUv3.
    pub const TEGRA241_CMDQV: Self = Self(3);
    /// AMD.
    pub const AMD: Self = Self(4);
}

/// What an IOMMU offers to one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HwInfo {
    /// What it can do.
    pub capabilities: HwCapabilities,
    /// Width of the device's PASIDs in bits; 0 without PASIDs, and from a kernel before Linux 6.15. The kernel lets a table be attached to a PASID even then, to no effect.
    pub max_pasid_log2: u8,
    /// The vendor's registers.
    pub data: HwInfoData,
}

/// An IOMMU's registers, as its vendor's specification describes them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HwInfoData {
    /// The driver reports none.
    None,
    /// Intel VT-d, chapter 11.4.
    IntelVtd {
        /// Bit 0: erratum 772415, no read-only mappings in a nesting parent.
        flags: u32,
        /// Capability register.
        capabilities: u64,
        /// Extended capability register.
        extended: u64,
    },
    /// Arm SMMUv3, chapter 6.3.
    ArmSmmuV3 {
        /// Bit 0: TLB and configuration invalidations must be sent twice.
        flags: u32,
        /// Feature registers 0 to 5.
        idr: [u32; 6],
        /// Implementer.
        iidr: u32,
        /// Architecture version.
        aidr: u32,
    },
    /// NVIDIA Tegra241 CMDQV.
    Tegra241Cmdqv {
        /// Version.
        version: u8,
        /// Number of virtual command queues, as a power of two.
        log2_vcmdqs: u8,
        /// Number of stream ids that can be replaced, as a power of two.
        log2_vsids: u8,
    },
    /// AMD, offsets 0x30 and 0x1a0.
    Amd {
        /// Extended feature register.
        efr: u64,
        /// Extended feature register 2.
        efr2: u64,
    },
    /// Another kind, or one of these that is shorter than it should be.
    Other {
        /// The kernel's number for it.
        kind: HwInfoKind,
        /// What it says.
        bytes: Vec<u8>,
    },
}

pub(super) fn query(iommufd: &Iommufd, device: &dyn IommuDevice, kind: Option<HwInfoKind>) -> Result<HwInfo, Error> {
    let command = command::GET_HW_INFO;
    iommufd.check_own(device.iommufd(), command)?;
    let (id, kind) = (device.device_id().0, kind.map(|kind| kind.0));
    let mut data = vec![0; 64];
    // Twice at most: an IOMMU's registers do not grow.
    for _ in 0..2 {
        let asked = iommufd.calls().get_hw_info(id, kind, &mut data);
        let info = asked.map_err(|errno| command.error(errno))?;
        if info.len > MAX_DATA {
            return Err(command.malformed("more data than there can be"));
        }
        let len = info.len as usize;
        if let Some(bytes) = data.get(..len) {
            return Ok(HwInfo {
                capabilities: HwCapabilities::from_bits_retain(info.capabilities),
                max_pasid_log2: info.max_pasid_log2,
                data: HwInfoData::decode(HwInfoKind(info.kind), bytes),
            });
        }
        data.resize(len, 0);
    }
    Err(command.malformed("data that grows while it is read"))
}

impl HwInfoData {
    fn decode(kind: HwInfoKind, bytes: &[u8]) -> Self {
        let decoded = match kind {
            HwInfoKind(0) if bytes.is_empty() => Some(Self::None),
            HwInfoKind::INTEL_VTD => Self::intel_vtd(bytes),
            HwInfoKind::ARM_SMMUV3 => Self::arm_smmuv3(bytes),
            HwInfoKind::TEGRA241_CMDQV => Self::tegra241_cmdqv(bytes),
            HwInfoKind::AMD => Self::amd(bytes),
            _ => None,
        };
        decoded.unwrap_or_else(|| Self::Other {
            kind,
            bytes: bytes.to_vec(),
        })
    }

    fn intel_vtd(bytes: &[u8]) -> Option<Self> {
        Some(Self::IntelVtd {
            flags: u32_at(bytes, 0)?,
            capabilities: u64_at(bytes, 8)?,
            extended: u64_at(bytes, 16)?,
        })
    }

    fn arm_smmuv3(bytes: &[u8]) -> Option<Self> {
        let mut idr = [0; 6];
        for (at, register) in (8..).step_by(4).zip(&mut idr) {
            *register = u32_at(bytes, at)?;
        }
        Some(Self::ArmSmmuV3 {
            flags: u32_at(bytes, 0)?,
            idr,
            iidr: u32_at(bytes, 32)?,
            aidr: u32_at(bytes, 36)?,
        })
    }

    fn tegra241_cmdqv(bytes: &[u8]) -> Option<Self> {
        let [version, log2_vcmdqs, log2_vsids, _] = u32_at(bytes, 4)?.to_ne_bytes();
        Some(Self::Tegra241Cmdqv {
            version,
            log2_vcmdqs,
            log2_vsids,
        })
    }

    fn amd(bytes: &[u8]) -> Option<Self> {
        Some(Self::Amd {
            efr: u64_at(bytes, 0)?,
            efr2: u64_at(bytes, 8)?,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn data_of_any_length_is_decoded_or_kept(kind in 0_u32..8, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let kind = HwInfoKind(kind);
            let wanted = match kind.0 { 1 => 24, 2 => 40, 3 => 8, 4 => 16, _ => usize::MAX };
            let kept = HwInfoData::Other { kind, bytes: bytes.clone() };
            let decoded = HwInfoData::decode(kind, &bytes);
            prop_assert_eq!(decoded == kept, bytes.len() < wanted && !(kind.0 == 0 && bytes.is_empty()));
        }
    }

    #[test]
    fn registers_are_where_the_header_has_them() {
        let bytes: Vec<u8> = (0..40).collect();
        let HwInfoData::IntelVtd {
            flags,
            capabilities,
            extended,
        } = HwInfoData::decode(HwInfoKind::INTEL_VTD, &bytes)
        else {
            panic!("24 bytes are enough");
        };
        assert_eq!(flags.to_ne_bytes(), [0, 1, 2, 3]);
        assert_eq!(capabilities.to_ne_bytes(), [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(extended.to_ne_bytes(), [16, 17, 18, 19, 20, 21, 22, 23]);
        let HwInfoData::ArmSmmuV3 { idr, aidr, .. } = HwInfoData::decode(HwInfoKind::ARM_SMMUV3, &bytes) else {
            panic!("40 bytes are enough");
        };
        assert_eq!(idr[5].to_ne_bytes(), [28, 29, 30, 31]);
        assert_eq!(aidr.to_ne_bytes(), [36, 37, 38, 39]);
        let tegra = HwInfoData::decode(HwInfoKind::TEGRA241_CMDQV, &bytes);
        assert_eq!(
            tegra,
            HwInfoData::Tegra241Cmdqv {
                version: 4,
                log2_vcmdqs: 5,
                log2_vsids: 6
            }
        );
    }
}
