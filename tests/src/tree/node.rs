//! What a generated function is: the values behind its files.

use pci::{Bdf, RoutingId};

/// One function of a generated machine. Every field may be changed before the node is added to a tree.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its address.
    pub bdf: Bdf,
    /// The bridge above it.
    pub parent: Option<Bdf>,
    /// Vendor, device.
    pub id: (u16, u16),
    /// Subsystem vendor, device.
    pub subsystem: (u16, u16),
    /// Class code, 24 bits.
    pub class: u32,
    /// Its driver.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// Its NUMA node; -1 for none.
    pub numa_node: i32,
    /// What it is on PCI Express.
    pub port: Port,
    /// Speed in 0.1 GT/s and lanes of its link, if it has one.
    pub link: Option<(u16, u8)>,
    /// Size in bytes of BAR 0, a 64-bit memory BAR.
    pub bar_bytes: u64,
    /// Its part in SR-IOV.
    pub sriov: Role,
    /// Devices of kernel classes below it: `net/eth0`, `nvme/nvme0/nvme0n1` for a block device below a controller.
    pub class_devices: Vec<ClassNode>,
    /// Whether configuration space has an ACS capability, with which control bits set.
    pub acs: Option<u16>,
    /// Whether configuration space has ATS, enabled, and unless it is a VF's PRI and PASID, enabled.
    pub has_translation: bool,
    /// Secondary and subordinate bus of a bridge.
    pub buses: Option<(u8, u8)>,
    /// Whether it is one of several functions of its device.
    pub is_multifunction: bool,
}

/// Device/Port type of the PCI Express capability (PCIe 6.0 §7.5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Conventional PCI: no such capability.
    Conventional,
    /// Endpoint.
    Endpoint,
    /// Root port.
    Root,
    /// Upstream port of a switch.
    Upstream,
    /// Downstream port of a switch.
    Downstream,
    /// PCI Express to PCI bridge.
    ToPci,
    /// Root complex integrated endpoint.
    Integrated,
}

/// The part of a function in SR-IOV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// None.
    Plain,
    /// A PF with room for VFs.
    Physical {
        /// `TotalVFs`.
        total: u16,
        /// First VF offset.
        offset: u16,
        /// VF stride.
        stride: u16,
        /// Device id of the VFs.
        vf_device: u16,
    },
    /// A VF of a PF that was added before.
    Virtual {
        /// The PF.
        pf: Bdf,
        /// N of `virtfnN`.
        index: u16,
    },
}

/// A device of a kernel class: its directory below the function, and the class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassNode {
    /// `net/eth0`.
    pub path: String,
    /// `net`.
    pub class: &'static str,
}

impl Node {
    /// A function without driver, group, link and class devices.
    #[must_use]
    pub fn new(bdf: Bdf, parent: Option<Bdf>, id: (u16, u16), class: u32) -> Self {
        Self {
            bdf,
            parent,
            id,
            subsystem: (0, 0),
            class,
            driver: None,
            group: None,
            numa_node: -1,
            port: Port::Endpoint,
            link: None,
            bar_bytes: 0,
            sriov: Role::Plain,
            class_devices: Vec::new(),
            acs: None,
            has_translation: false,
            buses: None,
            is_multifunction: false,
        }
    }

    /// A bridge on `pcieport` to the buses `first` to `last`: a root port without a `parent`, else a downstream port. All its
    /// ACS controls that matter for groups are on.
    #[must_use]
    pub fn port(bdf: Bdf, parent: Option<Bdf>, first: u8, last: u8) -> Self {
        Self {
            buses: Some((first, last)),
            driver: Some("pcieport".to_owned()),
            port: if parent.is_some() { Port::Downstream } else { Port::Root },
            link: Some((160, 16)),
            acs: Some(0x1d),
            ..Self::new(bdf, parent, (0x8086, 0x347a), 0x06_0400)
        }
    }

    /// A NIC on `ice` with one network interface.
    #[must_use]
    pub fn nic(bdf: Bdf, parent: Bdf, interface: &str) -> Self {
        Self {
            subsystem: (0x8086, 0x0002),
            driver: Some("ice".to_owned()),
            link: Some((160, 16)),
            bar_bytes: 32 << 20,
            class_devices: vec![ClassNode {
                path: format!("net/{interface}"),
                class: "net",
            }],
            ..Self::new(bdf, Some(parent), (0x8086, 0x1592), 0x02_0000)
        }
    }

    /// An NVMe controller on `nvme` with one namespace.
    #[must_use]
    pub fn nvme(bdf: Bdf, parent: Bdf, number: usize) -> Self {
        let controller = format!("nvme/nvme{number}");
        let namespace = format!("{controller}/nvme{number}n1");
        Self {
            subsystem: (0x144d, 0xa801),
            driver: Some("nvme".to_owned()),
            link: Some((160, 4)),
            bar_bytes: 16 << 10,
            class_devices: vec![
                ClassNode {
                    path: controller,
                    class: "nvme",
                },
                ClassNode {
                    path: namespace,
                    class: "block",
                },
            ],
            ..Self::new(bdf, Some(parent), (0x144d, 0xa824), 0x01_0802)
        }
    }

    /// The same function with room for VFs right behind it: the first follows it after `offset`, one after the other.
    #[must_use]
    pub fn with_room_for(self, total: u16, offset: u16, vf_device: u16) -> Self {
        let sriov = Role::Physical {
            total,
            offset,
            stride: 1,
            vf_device,
        };
        Self { sriov, ..self }
    }

    /// The VF of that index; `None` for a function without room for it.
    #[must_use]
    pub fn vf(&self, index: u16) -> Option<Self> {
        let Role::Physical {
            total,
            offset,
            stride,
            vf_device,
        } = self.sriov
        else {
            return None;
        };
        let distance = index.checked_mul(stride)?.checked_add(offset)?;
        let routing_id = RoutingId(self.bdf.routing_id.0.checked_add(distance)?);
        (index < total).then(|| Self {
            bdf: Bdf::new(self.bdf.segment, routing_id),
            id: (self.id.0, vf_device),
            driver: None,
            link: Some((0, 0)),
            sriov: Role::Virtual { pf: self.bdf, index },
            class_devices: Vec::new(),
            ..self.clone()
        })
    }
}
