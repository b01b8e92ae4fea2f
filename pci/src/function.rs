//! One PCI function as sysfs describes it.

use crate::{Bar, Bdf, ClassCode, DeviceId, GroupId, Reading, SubsystemId, VendorId};
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
    /// Subsystem id; `None` for bridges, which have none.
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
    /// Whether ARI forwarding is enabled on the port above a function (`ari_enabled`); `None` where the kernel has no such file.
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

/// Speed and width of a link. `None` when the kernel prints `Unknown`.
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
