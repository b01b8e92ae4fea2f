//! One PCI function as sysfs describes it.

use crate::{
    Bar, Bdf, ClassCode, ConfigSpace, DeviceId, FindError, GroupId, Reading, Reason, SubsystemId, Sysfs, Unknown,
    VendorId,
};
use std::fmt;
use std::path::PathBuf;

/// One PCI function. Every field that is a [`Reading`] says why when it is not known.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Function {
    /// Its name.
    pub bdf: Bdf,
    /// Its directory, relative to the root of the tree (`sys/devices/pci0000:00/0000:00:01.0`).
    pub path: PathBuf,
    /// Vendor id.
    pub vendor: Reading<VendorId>,
    /// Device id.
    pub device: Reading<DeviceId>,
    /// Subsystem id; `None` where the function has none, as most bridges.
    pub subsystem: Reading<Option<SubsystemId>>,
    /// Class code.
    pub class: Reading<ClassCode>,
    /// Revision.
    pub revision: Reading<u8>,
    /// The driver it is bound to.
    pub driver: Reading<Option<String>>,
    /// Its IOMMU group; `None` without an IOMMU.
    pub iommu_group: Reading<Option<GroupId>>,
    /// Its NUMA node; `None` where the firmware names none.
    pub numa_node: Reading<Option<u32>>,
    /// Its PCI Express link; `None` for conventional PCI and integrated functions.
    pub link: Reading<Option<Link>>,
    /// Its address windows that have a size.
    pub bars: Reading<Vec<Bar>>,
    /// Its SR-IOV capability; `None` for anything but a PF.
    pub sriov: Reading<Option<Sriov>>,
    /// The PF it belongs to; `None` for anything but a VF.
    pub vf_of: Reading<Option<VfOf>>,
    /// Whether ARI forwarding is enabled on the port above (`ari_enabled`); `None` where the kernel has no such file.
    pub ari: Reading<Option<bool>>,
    /// The ways to reset it, in the order the kernel tries them; empty when it cannot be reset.
    pub reset_methods: Reading<Vec<ResetMethod>>,
    /// Its power state.
    pub power_state: Reading<PowerState>,
    /// The bridge above it; `None` on a root bus.
    pub parent: Option<Bdf>,
    /// Network, block and other class devices below it.
    pub class_devices: Reading<Vec<ClassDevice>>,
}

/// The PCI Express link of a function: what it runs at and what it could do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What was negotiated.
    pub current: LinkState,
    /// What both ends support.
    pub max: LinkState,
}

/// Speed and width of a link. `None` when the kernel knows none: speed `Unknown`, width 0 (as VFs have) or 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Transfer rate per lane.
    pub speed: Option<LinkSpeed>,
    /// Number of lanes.
    pub width: Option<u8>,
}

/// Transfer rate of a link in units of 0.1 GT/s per lane (25 is 2.5 GT/s).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkSpeed(pub u16);

/// The SR-IOV side of a PF (PCIe 6.0 §9.3.3, `Documentation/PCI/pci-iov-howto.rst`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sriov {
    /// How many VFs the PF can have (`sriov_totalvfs`, which the driver may lower).
    pub total: Reading<u16>,
    /// First VF offset.
    pub offset: Reading<u16>,
    /// VF stride.
    pub stride: Reading<u16>,
    /// Device id of the VFs.
    pub vf_device: Reading<DeviceId>,
    /// Whether the kernel probes drivers for new VFs.
    pub drivers_autoprobe: Reading<bool>,
    /// The enabled VFs by index. Counted from the `virtfnN` links: reading `sriov_numvfs` takes the device lock and can block.
    pub virtual_functions: Vec<VirtualFunctionRef>,
}

/// An enabled VF as its PF names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualFunctionRef {
    /// N of `virtfnN`.
    pub index: VfIndex,
    /// Where the link points.
    pub bdf: Bdf,
}

/// Number of a VF within its PF, from 0: the N of `virtfnN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VfIndex(pub u16);

/// Whose VF a function is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfOf {
    /// The PF.
    pub pf: Bdf,
    /// Which of its VFs; unknown when the PF's links do not name it.
    pub index: Reading<VfIndex>,
}

/// A way to reset a function, as `reset_method` spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetMethod {
    /// Function level reset.
    Flr,
    /// Advanced Features FLR of conventional PCI.
    AfFlr,
    /// Power management D3hot to D0.
    Pm,
    /// Secondary bus reset.
    Bus,
    /// CXL bus reset.
    CxlBus,
    /// ACPI `_RST`.
    Acpi,
    /// A device specific quirk.
    DeviceSpecific,
    /// A method this version does not know.
    Other(String),
}

/// Power state of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PowerState {
    /// Working.
    D0,
    /// Light sleep.
    D1,
    /// Deeper sleep.
    D2,
    /// Off, main power present.
    D3Hot,
    /// Off, no main power.
    D3Cold,
    /// The kernel prints `unknown`.
    Unknown,
}

/// A device of a kernel class below a function: `net/eth0`, `nvme/nvme0`, `block/nvme0n1`, `vfio-dev/vfio3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassDevice {
    /// The class (`net`, `nvme`, `block`, `drm`, `vfio-dev`).
    pub class: String,
    /// The device's name in the class (`eth0`).
    pub name: String,
}

impl Function {
    /// Its configuration space: 4096 or 256 bytes, for readers without privilege the first 64.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn config(&self, sysfs: &Sysfs) -> Reading<ConfigSpace> {
        let bytes = sysfs.read_bytes(self.path.join("config"), ConfigSpace::MAX_LEN_BYTES)?;
        Ok(ConfigSpace::new(bytes))
    }
}

impl Unknown {
    /// Why a capability is not known although the configuration space could be read: not all of it, as a rule.
    pub(crate) fn config(sysfs: &Sysfs, function: &Function, config: &ConfigSpace, error: &FindError) -> Self {
        const WITHOUT_PRIVILEGE: usize = 64;
        let reason = if config.bytes().len() == WITHOUT_PRIVILEGE {
            Reason::Denied
        } else {
            Reason::malformed(&error.to_string())
        };
        reason.at(sysfs.path(function.path.join("config")))
    }
}

impl LinkSpeed {
    /// From the kernel's `8.0 GT/s PCIe`, `8 GT/s` or `Unknown`.
    pub(crate) fn parse(text: &str) -> Option<Option<Self>> {
        if text.starts_with("Unknown") {
            return Some(None);
        }
        let (number, unit) = text.split_once(' ')?;
        let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
        if !unit.starts_with("GT/s") || tenth.len() != 1 {
            return None;
        }
        let tenths = decimal(whole)?.checked_mul(10)?.checked_add(decimal(tenth)?)?;
        Some(Some(Self(tenths)))
    }
}

impl LinkState {
    pub(crate) fn parse_width(text: &str) -> Option<Option<u8>> {
        match decimal(text)? {
            0 | 255 => Some(None),
            lanes => Some(Some(u8::try_from(lanes).ok()?)),
        }
    }
}

impl VfIndex {
    /// From the name of the link, `virtfnN`.
    pub(crate) fn parse(link: &str) -> Option<Self> {
        decimal(link.strip_prefix("virtfn")?).map(Self)
    }
}

/// A number of digits alone: no sign, no leading zero.
pub(crate) fn decimal(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

impl From<&str> for ResetMethod {
    fn from(word: &str) -> Self {
        match word {
            "flr" => Self::Flr,
            "af_flr" => Self::AfFlr,
            "pm" => Self::Pm,
            "bus" => Self::Bus,
            "cxl_bus" => Self::CxlBus,
            "acpi" => Self::Acpi,
            "device_specific" => Self::DeviceSpecific,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl PowerState {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "D0" => Self::D0,
            "D1" => Self::D1,
            "D2" => Self::D2,
            "D3hot" => Self::D3Hot,
            "D3cold" => Self::D3Cold,
            "unknown" => Self::Unknown,
            _ => return None,
        })
    }
}

impl fmt::Display for LinkSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} GT/s", self.0 / 10, self.0 % 10)
    }
}

impl fmt::Display for VfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ResetMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flr => "flr",
            Self::AfFlr => "af_flr",
            Self::Pm => "pm",
            Self::Bus => "bus",
            Self::CxlBus => "cxl_bus",
            Self::Acpi => "acpi",
            Self::DeviceSpecific => "device_specific",
            Self::Other(word) => word,
        })
    }
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::D0 => "D0",
            Self::D1 => "D1",
            Self::D2 => "D2",
            Self::D3Hot => "D3hot",
            Self::D3Cold => "D3cold",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for ClassDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.class, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_speeds_of_old_and_new_kernels_are_read() {
        let tenths = |text| LinkSpeed::parse(text).map(|speed| speed.map(|s| s.0));
        assert_eq!(tenths("2.5 GT/s PCIe"), Some(Some(25)));
        assert_eq!(tenths("8 GT/s"), Some(Some(80)));
        assert_eq!(tenths("64.0 GT/s PCIe"), Some(Some(640)));
        assert_eq!(tenths("Unknown"), Some(None));
        assert_eq!(tenths("Unknown speed"), Some(None));
        for bad in ["", "8.0", "8.0 Gb/s", "8.00 GT/s", "-8 GT/s", "9999.0 GT/s", ". GT/s"] {
            assert_eq!(tenths(bad), None, "{bad:?}");
        }
        assert_eq!(LinkSpeed(25).to_string(), "2.5 GT/s");
    }

    #[test]
    fn a_link_without_lanes_has_no_width() {
        assert_eq!(LinkState::parse_width("16"), Some(Some(16)));
        assert_eq!(LinkState::parse_width("0"), Some(None));
        assert_eq!(LinkState::parse_width("255"), Some(None));
        assert_eq!(LinkState::parse_width("256"), None);
        assert_eq!(LinkState::parse_width("x4"), None);
    }

    #[test]
    fn a_vf_link_ends_in_a_plain_number() {
        assert_eq!(VfIndex::parse("virtfn0"), Some(VfIndex(0)));
        assert_eq!(VfIndex::parse("virtfn127"), Some(VfIndex(127)));
        for other in ["virtfn", "virtfn01", "virtfn+1", "virtfn65536", "physfn"] {
            assert_eq!(VfIndex::parse(other), None, "{other}");
        }
    }

    #[test]
    fn reset_methods_and_power_states_are_spelled_as_the_kernel_does() {
        for word in [
            "flr",
            "af_flr",
            "pm",
            "bus",
            "cxl_bus",
            "acpi",
            "device_specific",
            "something_new",
        ] {
            assert_eq!(ResetMethod::from(word).to_string(), word);
        }
        for word in ["D0", "D1", "D2", "D3hot", "D3cold", "unknown"] {
            assert_eq!(PowerState::parse(word).unwrap().to_string(), word);
        }
        assert_eq!(PowerState::parse("D4"), None);
    }
}
