//! Device Serial Number (PCIe 6.0 §7.9.3), TPH Requester (§7.9.13) and Precision Time Measurement (§7.9.15).

use crate::cap::{Capability, CapabilityId, Decode};
use crate::register::{bits, code, register, structure};
use crate::{Describe, Hex, Truncated, Value};

/// Device Serial Number: an IEEE EUI-64. Prints with dashes, most significant byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "PCI_EXT_CAP_ID_DSN")]
pub struct SerialNumber(pub u64);

impl Decode for SerialNumber {
    const ID: CapabilityId = CapabilityId::SERIAL_NUMBER;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        capability.window().read(0x04).map(Self)
    }
}

impl std::fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, rest @ ..] = self.0.to_be_bytes();
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, "-{byte:02x}"))
    }
}

impl Describe for SerialNumber {
    fn describe(&self) -> Value {
        Value::Fields(vec![crate::Field {
            name: "serial_number",
            value: Value::text(self.to_string()),
        }])
    }
}

structure! {
    /// Precision Time Measurement.
    #[doc(alias = "PCI_EXT_CAP_ID_PTM")]
    pub struct Ptm = PTM {
        /// What it can do.
        0x04 capability: PtmCapability,
        /// What it does.
        0x08 control: PtmControl,
    }
}

register! {
    /// PTM capability register.
    pub struct PtmCapability: u32 {
        /// Can ask for the time.
        requester: bool = 1,
        /// Can answer.
        responder: bool = 1,
        /// Can be the source of time.
        root: bool = 1,
        /// Enhanced PTM.
        enhanced: bool = 1,
        /// Times can be adapted to interpretation A or B of the propagation delay.
        delay_adaptation: bool = 1,
        __: u8 = 3,
        /// Granularity of the local clock.
        granularity: PtmGranularity = 8,
        .. u16 = 16,
    }
}

register! {
    /// PTM control register.
    pub struct PtmControl: u32 {
        /// PTM is enabled.
        enable: bool = 1,
        /// The function is the source of time.
        root_select: bool = 1,
        __: u8 = 6,
        /// Granularity of the time the function gets.
        effective_granularity: PtmGranularity = 8,
        .. u16 = 16,
    }
}

/// Granularity of a clock in nanoseconds; 0 and 255 have special meanings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PtmGranularity(pub u8);

bits!(PtmGranularity: u8);

impl Describe for PtmGranularity {
    fn describe(&self) -> Value {
        match self.0 {
            0 => Value::text("none"),
            255 => Value::text(">254ns"),
            nanoseconds => Value::text(format!("{nanoseconds}ns")),
        }
    }
}

structure! {
    /// Processing hints that a function can send with its requests.
    #[doc(alias = "PCI_EXT_CAP_ID_TPH")]
    pub struct Tph {
        /// What it can do.
        capability: TphCapability,
        /// What it does.
        control: TphControl,
        /// The steering tags, where the table is in the capability.
        steering_tags: Option<Vec<Hex<u16>>>,
    }
}

register! {
    /// TPH requester capability register.
    pub struct TphCapability: u32 {
        /// Can send hints without steering tags.
        no_steering_tag_mode: bool = 1,
        /// Can choose steering tags by interrupt vector.
        interrupt_vector_mode: bool = 1,
        /// Can choose steering tags in its own way.
        device_specific_mode: bool = 1,
        __: u8 = 5,
        /// Can send 16-bit steering tags.
        extended: bool = 1,
        /// Where the steering tags are.
        table_location: TphTableLocation = 2,
        __: u8 = 5,
        /// Number of steering tags less one.
        table_last_entry: u16 = 11,
        .. u8 = 5,
    }
}

register! {
    /// TPH requester control register.
    pub struct TphControl: u32 {
        /// How steering tags are chosen.
        mode: TphMode = 3,
        __: u8 = 5,
        /// Which hints may be sent.
        requester: TphRequester = 2,
        .. u32 = 22,
    }
}

code! {
    /// Where the steering tags are.
    pub struct TphTableLocation: u8 {
        /// Nowhere.
        NONE = 0 "none",
        /// In the capability.
        CAPABILITY = 1 "capability",
        /// In the MSI-X table.
        MSI_X = 2 "msi-x-table",
    }
}

code! {
    /// How steering tags are chosen.
    pub struct TphMode: u8 {
        /// Not at all.
        NO_STEERING_TAG = 0 "no-steering-tag",
        /// By interrupt vector.
        INTERRUPT_VECTOR = 1 "interrupt-vector",
        /// In the function's own way.
        DEVICE_SPECIFIC = 2 "device-specific",
    }
}

code! {
    /// Which hints may be sent.
    pub struct TphRequester: u8 {
        /// None.
        DISABLED = 0 "disabled",
        /// With 8-bit steering tags.
        TPH = 1 "tph",
        /// Also with 16-bit steering tags.
        EXTENDED = 3 "tph+extended",
    }
}

impl Decode for Tph {
    const ID: CapabilityId = CapabilityId::TPH;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let register: TphCapability = window.read(0x04)?;
        let table = || {
            (0..=register.table_last_entry())
                .map(|entry| window.read(0x0c + 2 * entry))
                .collect()
        };
        let is_here = register.table_location() == TphTableLocation::CAPABILITY;
        Ok(Self {
            capability: register,
            control: window.read(0x08)?,
            steering_tags: is_here.then(table).transpose()?,
        })
    }
}
