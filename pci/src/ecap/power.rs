//! Power and latency: Latency Tolerance Reporting (PCIe 6.0 §7.8.2) and L1 PM Substates (§7.8.3).

use crate::cap::{Capability, CapabilityId, Decode};
use crate::register::{Register, Window, bits, register, structure};
use crate::{Describe, Truncated, Value};

structure! {
    /// How much latency the platform can impose.
    #[doc(alias = "PCI_EXT_CAP_ID_LTR")]
    pub struct Ltr = LTR {
        /// Most that a function may ask for, of accesses that are snooped.
        0x04 max_snoop_latency_ns: Latency,
        /// The same, of accesses that are not snooped.
        0x06 max_no_snoop_latency_ns: Latency,
    }
}

/// A latency: value in bits 9:0, scale in bits 12:10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency(pub u16);

impl Latency {
    /// In nanoseconds; `None` for a reserved scale.
    #[must_use]
    pub fn nanoseconds(self) -> Option<u64> {
        scaled(u64::from(self.0 & 0x3ff), self.0 >> 10 & 7)
    }
}

/// Every step of the scale is a factor of 32; 6 and 7 are reserved.
fn scaled(value: u64, scale: u16) -> Option<u64> {
    (scale <= 5).then(|| value << (5 * scale))
}

impl Register for Latency {
    const LEN_BYTES: u16 = 2;

    fn read(window: Window<'_>, offset: u16) -> Result<Self, Truncated> {
        window.read(offset).map(Self)
    }
}

impl Describe for Latency {
    fn describe(&self) -> Value {
        self.nanoseconds().map_or(Value::Absent, Value::Int)
    }
}

structure! {
    /// Deeper states of an idle link.
    #[doc(alias = "PCI_EXT_CAP_ID_L1SS")]
    pub struct L1Substates {
        /// What the port can do.
        capability: L1SubstatesCapability,
        /// What it does.
        control_1: L1SubstatesControl1,
        /// Timing.
        control_2: L1SubstatesControl2,
        /// Status; from version 2 on.
        status: Option<L1SubstatesStatus>,
    }
}

register! {
    /// L1 PM Substates capabilities register.
    pub struct L1SubstatesCapability: u32 {
        /// L1.2 when the function is in a low power state.
        pci_pm_l1_2: bool = 1,
        /// L1.1 when the function is in a low power state.
        pci_pm_l1_1: bool = 1,
        /// L1.2 by active state power management.
        aspm_l1_2: bool = 1,
        /// L1.1 by active state power management.
        aspm_l1_1: bool = 1,
        /// L1 PM Substates.
        l1_pm_substates: bool = 1,
        /// Link activation.
        link_activation: bool = 1,
        __: u8 = 2,
        /// Time to restore the common mode, in microseconds.
        common_mode_restore_time "common_mode_restore_time_us": u8 = 8,
        /// Time to power on.
        power_on_time "power_on_time_us": PowerOnTime = 8,
        .. u8 = 8,
    }
}

register! {
    /// L1 PM Substates control 1 register.
    pub struct L1SubstatesControl1: u32 {
        /// L1.2 when the function is in a low power state.
        pci_pm_l1_2: bool = 1,
        /// L1.1 when the function is in a low power state.
        pci_pm_l1_1: bool = 1,
        /// L1.2 by active state power management.
        aspm_l1_2: bool = 1,
        /// L1.1 by active state power management.
        aspm_l1_1: bool = 1,
        /// Interrupt on link activation.
        link_activation_interrupt: bool = 1,
        /// Link activation.
        link_activation: bool = 1,
        __: u8 = 2,
        /// Time to restore the common mode, in microseconds.
        common_mode_restore_time "common_mode_restore_time_us": u8 = 8,
        /// Latency tolerance from which on L1.2 is entered.
        ltr_l1_2_threshold "ltr_l1_2_threshold_ns": ThresholdTime = 16,
    }
}

register! {
    /// L1 PM Substates control 2 register.
    pub struct L1SubstatesControl2: u32 {
        /// Time to power on.
        power_on_time "power_on_time_us": PowerOnTime = 8,
        .. u32 = 24,
    }
}

register! {
    /// L1 PM Substates status register.
    pub struct L1SubstatesStatus: u32 {
        /// The link was activated.
        link_activation: bool = 1,
        .. u32 = 31,
    }
}

impl Decode for L1Substates {
    const ID: CapabilityId = CapabilityId::L1_SUBSTATES;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let has_status = capability.version().is_some_and(|version| version >= 2);
        Ok(Self {
            capability: window.read(0x04)?,
            control_1: window.read(0x08)?,
            control_2: window.read(0x0c)?,
            status: window.read_if(has_status, 0x10)?,
        })
    }
}

/// Time to power on: scale in bits 1:0, value in bits 7:3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PowerOnTime(pub u8);

bits!(PowerOnTime: u8);

impl PowerOnTime {
    /// In microseconds; `None` for the reserved scale.
    #[must_use]
    pub fn microseconds(self) -> Option<u16> {
        let value = u16::from(self.0 >> 3);
        match self.0 & 3 {
            0 => Some(value * 2),
            1 => Some(value * 10),
            2 => Some(value * 100),
            _ => None,
        }
    }
}

impl Describe for PowerOnTime {
    fn describe(&self) -> Value {
        self.microseconds().describe()
    }
}

/// Threshold of L1.2: value in bits 9:0, scale in bits 15:13.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThresholdTime(pub u16);

bits!(ThresholdTime: u16);

impl ThresholdTime {
    /// In nanoseconds; `None` for a reserved scale.
    #[must_use]
    pub fn nanoseconds(self) -> Option<u64> {
        scaled(u64::from(self.0 & 0x3ff), self.0 >> 13)
    }
}

impl Describe for ThresholdTime {
    fn describe(&self) -> Value {
        self.nanoseconds().map_or(Value::Absent, Value::Int)
    }
}
