//! IOMMU units: what the hardware can do for device address translation.
//!
//! A unit is a device of `/sys/class/iommu`; the `iommu` link of a function names the unit that serves it. Registers are those
//! of Intel VT-d 4.1 §11.4.2 and §11.4.3, and of AMD I/O Virtualization 3.08: capability header and MMIO offset 0030h.

use crate::{Function, Reading, Reason, Sysfs};
use std::path::Path;

/// One IOMMU unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iommu {
    /// Its name in `/sys/class/iommu` (`dmar0`, `ivhd0`, `smmu3.0x…`).
    pub name: String,
    /// Its registers, where sysfs shows any.
    pub kind: Reading<IommuKind>,
}

/// What kind of unit it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IommuKind {
    /// Intel VT-d.
    Intel(IntelIommu),
    /// AMD-Vi.
    Amd(AmdIommu),
    /// Any other (SMMU, virtio-iommu): sysfs shows none of its registers.
    Other,
}

/// An Intel unit, `intel-iommu/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntelIommu {
    /// Physical address of its registers (`address`).
    pub address: Reading<u64>,
    /// Architecture version, `1:0` and so on (`version`).
    pub version: Reading<String>,
    /// Capability register (`cap`).
    pub cap: Reading<u64>,
    /// Extended capability register (`ecap`).
    pub ecap: Reading<IntelEcap>,
}

/// An AMD unit, `amd-iommu/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmdIommu {
    /// First dword of its PCI capability (`cap`).
    pub cap: Reading<AmdCap>,
    /// Extended feature register (`features`).
    pub features: Reading<AmdFeatures>,
}

/// VT-d extended capability register. Fields that concern device address translation have a name; the raw value has all.
#[bitfield_struct::bitfield(u64, new = false, default = false)]
#[derive(PartialEq, Eq)]
pub struct IntelEcap {
    #[bits(2)]
    __: u8,
    /// DT: device TLBs are supported, and so ATS.
    #[bits(1, access = RO)]
    pub device_tlb: bool,
    #[bits(23)]
    __: u32,
    /// NEST: nested translation.
    #[bits(1, access = RO)]
    pub nested: bool,
    #[bits(2)]
    __: u8,
    /// PRS: page requests.
    #[bits(1, access = RO)]
    pub page_requests: bool,
    #[bits(5)]
    __: u8,
    /// PSS: bits of a PASID, less one.
    #[bits(5, access = RO)]
    pub pasid_width_less_one: u8,
    /// PASID: requests with a PASID.
    #[bits(1, access = RO)]
    pub pasid: bool,
    #[bits(2)]
    __: u8,
    /// SMTS: scalable mode.
    #[bits(1, access = RO)]
    pub scalable_mode: bool,
    #[bits(1)]
    __: u8,
    /// SSADS: accessed and dirty bits in second-stage tables, and so dirty tracking.
    #[bits(1, access = RO)]
    pub second_stage_dirty: bool,
    /// SSTS: second-stage translation in scalable mode.
    #[bits(1, access = RO)]
    pub second_stage: bool,
    /// FSTS: first-stage translation in scalable mode.
    #[bits(1, access = RO)]
    pub first_stage: bool,
    #[bits(16)]
    __: u16,
}

/// First dword of the PCI capability of an AMD unit.
#[bitfield_struct::bitfield(u32, new = false, default = false)]
#[derive(PartialEq, Eq)]
pub struct AmdCap {
    #[bits(24)]
    __: u32,
    /// IotlbSup: IOTLBs in devices are supported, and so ATS.
    #[bits(1, access = RO)]
    pub device_tlb: bool,
    #[bits(7)]
    __: u8,
}

/// Extended feature register of an AMD unit.
#[bitfield_struct::bitfield(u64, new = false, default = false)]
#[derive(PartialEq, Eq)]
pub struct AmdFeatures {
    #[bits(1)]
    __: u8,
    /// PPRSup: peripheral page requests.
    #[bits(1, access = RO)]
    pub page_requests: bool,
    #[bits(2)]
    __: u8,
    /// GTSup: guest translation, and so PASIDs.
    #[bits(1, access = RO)]
    pub guest_translation: bool,
    #[bits(27)]
    __: u32,
    /// PASmax: bits of a PASID, less one.
    #[bits(5, access = RO)]
    pub pasid_width_less_one: u8,
    #[bits(15)]
    __: u16,
    /// HDSup: dirty bits in host tables, and so dirty tracking.
    #[bits(1, access = RO)]
    pub host_dirty: bool,
    #[bits(11)]
    __: u16,
}

/// Which services of device address translation a unit can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IommuSupport {
    /// Address Translation Services.
    pub ats: bool,
    /// Page requests.
    pub pri: bool,
    /// Widest PASID in bits; `None` where it takes none.
    pub pasid_width_bits: Option<u8>,
}

const UNITS: &str = "sys/class/iommu";

impl Iommu {
    /// All units in order of name; none without an IOMMU.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn read_all(sysfs: &Sysfs) -> Reading<Vec<Self>> {
        match sysfs.names(UNITS) {
            Ok(names) => Ok(names.into_iter().map(|name| Self::read(sysfs, name)).collect()),
            Err(unknown) if unknown.is_missing() => Ok(Vec::new()),
            Err(unknown) => Err(unknown),
        }
    }

    /// The unit that serves a function; `None` where none does.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn serving(sysfs: &Sysfs, function: &Function) -> Reading<Option<Self>> {
        match sysfs.link_name(function.path.join("iommu")) {
            Ok(name) => Ok(Some(Self::read(sysfs, name))),
            Err(unknown) if unknown.is_missing() => Ok(None),
            Err(unknown) => Err(unknown),
        }
    }

    /// Which services it can give; unknown where sysfs does not show its registers.
    ///
    /// # Errors
    /// The registers cannot be read, or sysfs shows none for this kind of unit.
    pub fn support(&self, sysfs: &Sysfs) -> Reading<IommuSupport> {
        match self.kind.as_ref().map_err(Clone::clone)? {
            IommuKind::Intel(unit) => unit.ecap.clone().map(IntelEcap::support),
            IommuKind::Amd(unit) => Ok(unit.features.clone()?.support(unit.cap.clone()?)),
            IommuKind::Other => Err(Reason::Missing.at(sysfs.path(Path::new(UNITS).join(&self.name)))),
        }
    }

    fn read(sysfs: &Sysfs, name: String) -> Self {
        let unit = Path::new(UNITS).join(&name);
        let number = |file: &str| -> Reading<u64> {
            let path = unit.join(file);
            let text = sysfs.read(&path)?;
            // AMD's features are two registers, `efr:efr2`, since Linux 6.6.
            let first = text.split(':').next().unwrap_or_default();
            let plain = first.bytes().all(|digit| digit.is_ascii_hexdigit());
            let number = plain.then(|| u64::from_str_radix(first, 16).ok()).flatten();
            number.ok_or_else(|| Reason::malformed(&text).at(sysfs.path(path)))
        };
        let low = |value: u64| AmdCap::from_bits(u32::try_from(value & 0xffff_ffff).unwrap_or_default());
        let kind = sysfs.names(&unit).map(|attributes| {
            let has = |directory: &str| attributes.iter().any(|attribute| attribute == directory);
            if has("intel-iommu") {
                IommuKind::Intel(IntelIommu {
                    address: number("intel-iommu/address"),
                    version: sysfs.read(unit.join("intel-iommu/version")),
                    cap: number("intel-iommu/cap"),
                    ecap: number("intel-iommu/ecap").map(IntelEcap::from_bits),
                })
            } else if has("amd-iommu") {
                IommuKind::Amd(AmdIommu {
                    cap: number("amd-iommu/cap").map(low),
                    features: number("amd-iommu/features").map(AmdFeatures::from_bits),
                })
            } else {
                IommuKind::Other
            }
        });
        Self { name, kind }
    }
}

impl IntelEcap {
    /// What the kernel makes of it (`drivers/iommu/intel/iommu.c`): PASIDs and page requests need scalable mode, page requests
    /// device TLBs.
    fn support(self) -> IommuSupport {
        let pasid = self.scalable_mode() && self.pasid();
        IommuSupport {
            ats: self.device_tlb(),
            pri: self.scalable_mode() && self.device_tlb() && self.page_requests(),
            pasid_width_bits: pasid.then(|| self.pasid_width_less_one() + 1),
        }
    }
}

impl AmdFeatures {
    fn support(self, cap: AmdCap) -> IommuSupport {
        IommuSupport {
            ats: cap.device_tlb(),
            pri: cap.device_tlb() && self.page_requests(),
            pasid_width_bits: self.guest_translation().then(|| self.pasid_width_less_one() + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intel_unit_in_scalable_mode_gives_all_three() {
        let bits = 1 << 2 | 1 << 29 | 19 << 35 | 1 << 40 | 1 << 43;
        let ecap = IntelEcap::from_bits(bits);
        let all = IommuSupport {
            ats: true,
            pri: true,
            pasid_width_bits: Some(20),
        };
        assert_eq!(ecap.support(), all);
        assert!(!ecap.nested() && !ecap.second_stage_dirty() && !ecap.first_stage());
    }

    #[test]
    fn an_intel_unit_in_legacy_mode_gives_ats_alone() {
        let ecap = IntelEcap::from_bits(1 << 2 | 1 << 29 | 1 << 40);
        let ats = IommuSupport {
            ats: true,
            pri: false,
            pasid_width_bits: None,
        };
        assert_eq!(ecap.support(), ats);
    }

    #[test]
    fn bits_of_the_intel_register_are_where_vt_d_puts_them() {
        assert!(IntelEcap::from_bits(1 << 26).nested());
        assert!(IntelEcap::from_bits(1 << 45).second_stage_dirty());
        assert!(IntelEcap::from_bits(1 << 46).second_stage());
        assert!(IntelEcap::from_bits(1 << 47).first_stage());
        assert_eq!(IntelEcap::from_bits(0x1f << 35).pasid_width_less_one(), 31);
    }

    #[test]
    fn an_amd_unit_gives_what_its_two_registers_say() {
        let features = AmdFeatures::from_bits(1 << 1 | 1 << 4 | 15 << 32);
        let support = features.support(AmdCap::from_bits(1 << 24));
        let all = IommuSupport {
            ats: true,
            pri: true,
            pasid_width_bits: Some(16),
        };
        assert_eq!(support, all);
        let none = AmdFeatures::from_bits(1 << 1).support(AmdCap::from_bits(0));
        assert_eq!((none.ats, none.pri, none.pasid_width_bits), (false, false, None));
        assert!(AmdFeatures::from_bits(1 << 52).host_dirty());
    }
}
