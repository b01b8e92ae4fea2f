//! Vendor, device, subsystem and class identifiers (PCI Local Bus 3.0 §6.2.1, PCI Code and ID Assignment 1.15).

use crate::bar::hex;
use std::fmt;

/// A vendor id, assigned by PCI-SIG. Prints as four hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VendorId(pub u16);

/// A device id, assigned by the vendor. Prints as four hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);

/// Subsystem vendor and device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubsystemId {
    /// Who made the board.
    pub vendor: VendorId,
    /// Which board.
    pub device: DeviceId,
}

/// The 24-bit class code: base class, subclass, programming interface. Prints as six hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassCode(pub u32);

impl ClassCode {
    /// Base class (0x02 network, 0x01 mass storage, 0x03 display, 0x06 bridge).
    #[must_use]
    pub const fn base(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// Subclass within the base class.
    #[must_use]
    pub const fn sub(self) -> u8 {
        self.0.to_be_bytes()[2]
    }

    /// Programming interface within the subclass.
    #[must_use]
    pub const fn interface(self) -> u8 {
        self.0.to_be_bytes()[3]
    }

    /// Whether this is a PCI-to-PCI bridge (root port, switch port or PCI bridge).
    #[must_use]
    pub const fn is_pci_bridge(self) -> bool {
        self.0 >> 8 == 0x0604
    }
}

/// The ids that a `modalias` of the PCI bus carries, all in one file that needs no lock to read:
/// `pci:v00008086d000010C9sv00001AF4sd00001100bc02sc00i00` (`drivers/pci/pci-sysfs.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModAlias {
    pub(crate) vendor: VendorId,
    pub(crate) device: DeviceId,
    pub(crate) subsystem: SubsystemId,
    pub(crate) class: ClassCode,
}

impl ModAlias {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix("pci:")?;
        let mut field = |key: &str, digits: usize| {
            let (value, after) = rest.strip_prefix(key)?.split_at_checked(digits)?;
            rest = after;
            let plain = value.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u32::from_str_radix(value, 16).ok()).flatten()
        };
        let mut id = |key| u16::try_from(field(key, 8)?).ok();
        let (vendor, device) = (VendorId(id("v")?), DeviceId(id("d")?));
        let subsystem = SubsystemId {
            vendor: VendorId(id("sv")?),
            device: DeviceId(id("sd")?),
        };
        let class = field("bc", 2)? << 16 | field("sc", 2)? << 8 | field("i", 2)?;
        rest.is_empty().then_some(Self {
            vendor,
            device,
            subsystem,
            class: ClassCode(class),
        })
    }
}

/// An id as its own file has it: `0x8086`.
pub(crate) fn parse_u16(text: &str) -> Option<u16> {
    u16::try_from(hex(text)?).ok()
}

/// A class code as its own file has it: `0x020000`.
pub(crate) fn parse_class(text: &str) -> Option<ClassCode> {
    let code = u32::try_from(hex(text)?).ok()?;
    (code < 1 << 24).then_some(ClassCode(code))
}

impl SubsystemId {
    /// `None` for the values that mean "no subsystem": a vendor of 0 (bridges without the capability) or all ones.
    pub(crate) fn present(self) -> Option<Self> {
        (!matches!(self.vendor, VendorId(0 | 0xffff))).then_some(self)
    }
}

impl fmt::Display for VendorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Display for SubsystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vendor, self.device)
    }
}

impl fmt::Display for ClassCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_modalias_reads_back(v: u16, d: u16, sv: u16, sd: u16, class in 0u32..1 << 24) {
            let (bc, sc, i) = (class >> 16, class >> 8 & 0xff, class & 0xff);
            let text = format!("pci:v{v:08X}d{d:08X}sv{sv:08X}sd{sd:08X}bc{bc:02X}sc{sc:02X}i{i:02x}");
            let expected = ModAlias {
                vendor: VendorId(v),
                device: DeviceId(d),
                subsystem: SubsystemId { vendor: VendorId(sv), device: DeviceId(sd) },
                class: ClassCode(class),
            };
            prop_assert_eq!(ModAlias::parse(&text), Some(expected));
            for end in 0..text.len() {
                prop_assert_eq!(ModAlias::parse(&text[..end]), None);
            }
            prop_assert_eq!(ModAlias::parse(&(text + "0")), None);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text: String) {
            let _: (Option<ModAlias>, Option<u16>, Option<ClassCode>) =
                (ModAlias::parse(&text), parse_u16(&text), parse_class(&text));
        }
    }

    #[test]
    fn ids_and_classes_have_a_range() {
        assert_eq!(parse_u16("0x10c9"), Some(0x10c9));
        assert_eq!(parse_u16("0x10000"), None);
        assert_eq!(parse_u16("10c9"), None);
        assert_eq!(parse_class("0x020000"), Some(ClassCode(0x02_0000)));
        assert_eq!(parse_class("0x1000000"), None);
    }

    #[test]
    fn a_class_code_has_three_parts() {
        let class = ClassCode(0x06_04_01);
        assert_eq!((class.base(), class.sub(), class.interface()), (6, 4, 1));
        assert!(class.is_pci_bridge());
        assert!(!ClassCode(0x06_00_00).is_pci_bridge());
    }
}
