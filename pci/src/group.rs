//! IOMMU groups: the smallest set of functions that the IOMMU can keep apart from the rest.
//!
//! Follows `Documentation/ABI/testing/sysfs-kernel-iommu_groups` and, for what VFIO accepts, `drivers/iommu/iommu.c`
//! (`iommu_device_use_default_domain`).

use crate::bar::hex;
use crate::driver::is_vfio;
use crate::sysfs::{Buffer, Dir};
use crate::{Bdf, ClassCode, Function, Reading, Reason, Unknown};
use std::fmt;

/// The number of a group: `N` of `/sys/kernel/iommu_groups/N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// One IOMMU group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// Its functions, in order of address.
    pub functions: Vec<Bdf>,
    /// Names of its devices that are not PCI functions, in order. [`Topology::viability`](crate::Topology::viability) does not
    /// judge them.
    pub others: Vec<String>,
    /// The kind of default domain (`DMA-FQ`, `identity`, …).
    pub domain_type: Reading<String>,
    /// Ranges of I/O virtual addresses that nobody may map, in the kernel's order.
    pub reserved_regions: Reading<Vec<ReservedRegion>>,
}

/// A range of I/O virtual addresses that is not free for mappings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedRegion {
    /// First address.
    pub start: u64,
    /// Last address, which is part of it.
    pub end: u64,
    /// Why it is reserved.
    pub kind: ReservedKind,
}

/// Why a range is reserved, as `reserved_regions` spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReservedKind {
    /// `direct`: the firmware demands a 1:1 mapping (RMRR, IVMD). VFIO refuses the device.
    Direct,
    /// `direct-relaxable`: a 1:1 mapping that may go once the device is handed out.
    DirectRelaxable,
    /// `reserved`: never to be used.
    Reserved,
    /// `msi`: where the hardware takes interrupt messages.
    Msi,
    /// A kind this version does not know.
    Other(String),
}

/// Whether VFIO would hand out a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viability {
    /// Every endpoint is unbound or on a VFIO-capable driver.
    Viable,
    /// Some endpoint is on a host driver.
    Spoiled(Vec<Spoiler>),
}

/// A function that keeps its group from being handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoiler {
    /// The function.
    pub bdf: Bdf,
    /// Its driver, or why it is not known.
    pub driver: Reading<Option<String>>,
}

impl Group {
    /// A group of which only the number is known.
    pub(crate) fn new(id: GroupId, not_read: &Unknown) -> Self {
        Self {
            id,
            functions: Vec::new(),
            others: Vec::new(),
            domain_type: Err(not_read.clone()),
            reserved_regions: Err(not_read.clone()),
        }
    }

    /// Reads its directory: members, domain type, reserved regions.
    pub(crate) fn read(id: GroupId, groups: &Dir<'_>, buffer: &mut Buffer) -> Reading<Self> {
        let name = id.to_string();
        let dir = groups
            .subdir(&name)
            .map_err(|reason| reason.at(groups.path_of(&name)))?;
        let mut group = Self::new(id, &Unknown::not_read(""));
        let domain_type = dir.text("type", buffer).map(str::to_owned);
        group.domain_type = domain_type.map_err(|reason| reason.at(dir.path_of("type")));
        let regions = dir.text("reserved_regions", buffer).and_then(parse_regions);
        group.reserved_regions = regions.map_err(|reason| reason.at(dir.path_of("reserved_regions")));
        let members = dir.subdir("devices").and_then(|devices| {
            devices.each(|entry| match entry.name.parse() {
                Ok(bdf) => group.functions.push(bdf),
                Err(_) => group.others.push(entry.name.to_owned()),
            })
        });
        group.others.sort_unstable();
        members.map_err(|reason| reason.at(dir.path_of("devices")))?;
        Ok(group)
    }
}

impl GroupId {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let plain = name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
        plain.then(|| name.parse().ok().map(Self)).flatten()
    }
}

/// Whether a member keeps its group from being handed out. Bridges stay on `pcieport`, which leaves the DMA of the group
/// alone; an endpoint must be unbound or on a driver that is made for VFIO.
pub(crate) fn spoils(function: &Function) -> bool {
    if function
        .class
        .as_ref()
        .is_ok_and(|class: &ClassCode| class.is_pci_bridge())
    {
        return false;
    }
    let has_vfio_device = || {
        let devices = function.class_devices.as_deref().unwrap_or_default();
        devices.iter().any(|device| device.class == "vfio-dev")
    };
    match &function.driver {
        Ok(None) => false,
        Ok(Some(driver)) => !is_vfio(driver) && !has_vfio_device(),
        Err(_) => true,
    }
}

fn parse_regions(text: &str) -> Result<Vec<ReservedRegion>, Reason> {
    let region = |line| parse_region(line).ok_or_else(|| Reason::malformed(line));
    text.lines().map(region).collect()
}

fn parse_region(line: &str) -> Option<ReservedRegion> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = (hex(words.next()?)?, hex(words.next()?)?);
    let kind = words.next()?.into();
    (start <= end && words.next().is_none()).then_some(ReservedRegion { start, end, kind })
}

impl From<&str> for ReservedKind {
    fn from(word: &str) -> Self {
        match word {
            "direct" => Self::Direct,
            "direct-relaxable" => Self::DirectRelaxable,
            "reserved" => Self::Reserved,
            "msi" => Self::Msi,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for ReservedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::DirectRelaxable => "direct-relaxable",
            Self::Reserved => "reserved",
            Self::Msi => "msi",
            Self::Other(word) => word,
        })
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_regions_are_read_with_their_kinds() {
        let text = "0x000000000009f000 0x00000000000bffff direct-relaxable\n0x00000000fee00000 0x00000000feefffff msi";
        let regions = parse_regions(text).unwrap();
        assert_eq!(regions[0].kind, ReservedKind::DirectRelaxable);
        assert_eq!((regions[1].start, regions[1].end), (0xfee0_0000, 0xfeef_ffff));
        assert_eq!(parse_regions(""), Ok(Vec::new()));
    }

    #[test]
    fn a_malformed_region_is_an_error() {
        for bad in ["0x1 0x2", "0x2 0x1 msi", "1 2 msi", "0x1 0x2 msi extra", "msi"] {
            assert_eq!(parse_regions(bad), Err(Reason::malformed(bad)));
        }
    }

    #[test]
    fn a_group_number_is_plain() {
        assert_eq!(GroupId::parse("12"), Some(GroupId(12)));
        for bad in ["", "01", "+1", "4294967296", "a"] {
            assert_eq!(GroupId::parse(bad), None);
        }
    }

    #[test]
    fn variant_drivers_are_vfio_drivers() {
        for name in ["vfio-pci", "mlx5_vfio_pci", "hisi-acc-vfio-pci", "pci-stub"] {
            assert!(is_vfio(name));
        }
        for name in ["igb", "vfio", "vfio-pci-igb", "uio_pci_generic"] {
            assert!(!is_vfio(name));
        }
    }
}
