//! PCI Express capability (PCIe 6.0 §7.5.3).
//!
//! One structure for all kinds of function; registers that a kind does not have are `None`. So are registers of version 2 that the
//! next capability leaves no room for, as in some devices.

mod device;
mod link;
mod slot;

pub use device::{
    CompletionTimeout, DeviceCapabilities, DeviceCapabilities2, DeviceControl, DeviceControl2, DeviceStatus,
    EmergencyPower, LatencyL0s, LatencyL1, ObffControl, ObffSupport, PayloadSize, PowerLimit, PrefixCount,
    TimeoutRanges, TphCompleter,
};
pub use link::{
    AspmSupport, Crosslink, DownstreamComponent, DrsSignaling, ExitLatencyL0s, ExitLatencyL1, LinkCapabilities,
    LinkCapabilities2, LinkControl, LinkControl2, LinkSpeeds, LinkStatus, LinkStatus2, SpeedCode,
};
pub use slot::{
    IndicatorControl, RootCapabilities, RootControl, RootStatus, SlotCapabilities, SlotCapabilities2, SlotControl,
    SlotStatus,
};

use super::{Capability, CapabilityId, Decode};
use crate::Truncated;
use crate::register::{code, register, structure};

structure! {
    /// The PCI Express side of a function.
    #[doc(alias = "PCI_CAP_ID_EXP")]
    pub struct Express {
        /// Version and kind of function.
        flags: ExpressFlags,
        /// Device Capabilities.
        device_capabilities: DeviceCapabilities,
        /// Device Control.
        device_control: DeviceControl,
        /// Device Status.
        device_status: DeviceStatus,
        /// Link Capabilities; functions integrated in the root complex have no link.
        link_capabilities: Option<LinkCapabilities>,
        /// Link Control.
        link_control: Option<LinkControl>,
        /// Link Status.
        link_status: Option<LinkStatus>,
        /// Slot Capabilities; only ports with a slot have them.
        slot_capabilities: Option<SlotCapabilities>,
        /// Slot Control.
        slot_control: Option<SlotControl>,
        /// Slot Status.
        slot_status: Option<SlotStatus>,
        /// Root Control; only root ports and event collectors have it.
        root_control: Option<RootControl>,
        /// Root Capabilities.
        root_capabilities: Option<RootCapabilities>,
        /// Root Status.
        root_status: Option<RootStatus>,
        /// Device Capabilities 2; from version 2 on.
        device_capabilities_2: Option<DeviceCapabilities2>,
        /// Device Control 2.
        device_control_2: Option<DeviceControl2>,
        /// Link Capabilities 2.
        link_capabilities_2: Option<LinkCapabilities2>,
        /// Link Control 2.
        link_control_2: Option<LinkControl2>,
        /// Link Status 2.
        link_status_2: Option<LinkStatus2>,
        /// Slot Capabilities 2. Slot Control 2 and the second status registers of device and slot have no bits.
        slot_capabilities_2: Option<SlotCapabilities2>,
    }
}

register! {
    /// PCI Express Capabilities register.
    pub struct ExpressFlags: u16 {
        /// Version of the structure: 1, or 2 since PCIe 2.0.
        version: u8 = 4,
        /// Kind of function.
        port_type: PortType = 4,
        /// The port leads to a slot.
        slot_implemented: bool = 1,
        /// Which interrupt message the port sends for its own events.
        interrupt_message: u8 = 5,
        __: u8 = 1,
        /// Flit mode is supported.
        flit_mode: bool = 1,
    }
}

code! {
    /// Kind of function or port (PCIe 6.0 Table 7-18).
    pub struct PortType: u8 {
        /// PCI Express endpoint.
        ENDPOINT = 0x0 "endpoint",
        /// Legacy PCI Express endpoint.
        LEGACY_ENDPOINT = 0x1 "legacy-endpoint",
        /// Root port.
        ROOT_PORT = 0x4 "root-port",
        /// Upstream port of a switch.
        UPSTREAM_PORT = 0x5 "upstream-port",
        /// Downstream port of a switch.
        DOWNSTREAM_PORT = 0x6 "downstream-port",
        /// Bridge to conventional PCI or PCI-X.
        TO_PCI_BRIDGE = 0x7 "express-to-pci-bridge",
        /// Bridge from conventional PCI or PCI-X.
        FROM_PCI_BRIDGE = 0x8 "pci-to-express-bridge",
        /// Endpoint integrated in the root complex.
        ROOT_COMPLEX_ENDPOINT = 0x9 "root-complex-endpoint",
        /// Event collector of the root complex.
        EVENT_COLLECTOR = 0xa "root-complex-event-collector",
    }
}

impl PortType {
    /// Whether functions of this kind have a link.
    #[must_use]
    pub const fn has_link(self) -> bool {
        !matches!(self, Self::ROOT_COMPLEX_ENDPOINT | Self::EVENT_COLLECTOR)
    }

    /// Whether functions of this kind can lead to a slot.
    #[must_use]
    pub const fn can_have_slot(self) -> bool {
        matches!(self, Self::ROOT_PORT | Self::DOWNSTREAM_PORT | Self::FROM_PCI_BRIDGE)
    }

    /// Whether functions of this kind collect the errors and power management events of others.
    #[must_use]
    pub const fn is_root(self) -> bool {
        matches!(self, Self::ROOT_PORT | Self::EVENT_COLLECTOR)
    }
}

impl Decode for Express {
    const ID: CapabilityId = CapabilityId::EXPRESS;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let flags: ExpressFlags = window.read(0x02)?;
        let port = flags.port_type();
        let is_v2 = flags.version() >= 2;
        let has_link = port.has_link();
        let has_slot = port.can_have_slot() && flags.slot_implemented();
        Ok(Self {
            flags,
            device_capabilities: window.read(0x04)?,
            device_control: window.read(0x08)?,
            device_status: window.read(0x0a)?,
            link_capabilities: window.read_if(has_link, 0x0c)?,
            link_control: window.read_if(has_link, 0x10)?,
            link_status: window.read_if(has_link, 0x12)?,
            slot_capabilities: window.read_if(has_slot, 0x14)?,
            slot_control: window.read_if(has_slot, 0x18)?,
            slot_status: window.read_if(has_slot, 0x1a)?,
            root_control: window.read_if(port.is_root(), 0x1c)?,
            root_capabilities: window.read_if(port.is_root(), 0x1e)?,
            root_status: window.read_if(port.is_root(), 0x20)?,
            device_capabilities_2: window.read_if(is_v2, 0x24).unwrap_or(None),
            device_control_2: window.read_if(is_v2, 0x28).unwrap_or(None),
            link_capabilities_2: window.read_if(is_v2 && has_link, 0x2c).unwrap_or(None),
            link_control_2: window.read_if(is_v2 && has_link, 0x30).unwrap_or(None),
            link_status_2: window.read_if(is_v2 && has_link, 0x32).unwrap_or(None),
            slot_capabilities_2: window.read_if(is_v2 && has_slot, 0x34).unwrap_or(None),
        })
    }
}
