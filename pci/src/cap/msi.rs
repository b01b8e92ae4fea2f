//! Message signalled interrupts: MSI and MSI-X (PCIe 6.0 §7.7.1 and §7.7.2).

use super::{Capability, CapabilityId, Decode};
use crate::register::{bits, register, structure};
use crate::{Describe, Field, Hex, Truncated, Value};

structure! {
    /// MSI-X: up to 2048 vectors in a table in a BAR.
    #[doc(alias = "PCI_CAP_ID_MSIX")]
    pub struct MsiX = MSI_X {
        /// Message control.
        0x02 control: MsiXControl,
        /// Where the table is.
        0x04 table: BarOffset,
        /// Where the pending bits are.
        0x08 pending: BarOffset,
    }
}

register! {
    /// MSI-X message control.
    pub struct MsiXControl: u16 {
        /// How many vectors the table has.
        vectors: TableSize = 11,
        __: u8 = 3,
        /// All vectors are masked.
        function_mask: bool = 1,
        /// MSI-X is enabled.
        enable: bool = 1,
    }
}

/// Size of the MSI-X table, stored in 11 bits as one less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableSize(pub u16);

bits!(TableSize: u16);

impl TableSize {
    /// Number of vectors, 1 to 2048.
    #[must_use]
    pub const fn vectors(self) -> u16 {
        (self.0 & 0x7ff) + 1
    }
}

impl Describe for TableSize {
    fn describe(&self) -> Value {
        self.vectors().describe()
    }
}

/// A place in a BAR, a multiple of 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BarOffset(pub u32);

impl BarOffset {
    /// Which BAR, 0 to 5 (6 and 7 are reserved).
    #[must_use]
    pub const fn bar(self) -> u8 {
        self.0.to_le_bytes()[0] & 7
    }

    /// Offset in bytes.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.0 & !7
    }
}

impl crate::register::Register for BarOffset {
    const LEN_BYTES: u16 = 4;

    fn read(window: crate::register::Window<'_>, offset: u16) -> Result<Self, Truncated> {
        window.read(offset).map(Self)
    }
}

impl Describe for BarOffset {
    fn describe(&self) -> Value {
        let field = |name, value| Field { name, value };
        Value::Fields(vec![
            field("bar", self.bar().describe()),
            field("offset", Value::hex(self.offset(), 8)),
        ])
    }
}

structure! {
    /// MSI: up to 32 vectors. Four layouts: with 32 or 64 address bits, with or without masks.
    #[doc(alias = "PCI_CAP_ID_MSI")]
    pub struct Msi {
        /// Message control.
        control: MsiControl,
        /// Where messages are written.
        address: Hex<u64>,
        /// What is written; the low bits give way to the vector.
        data: Hex<u16>,
        /// Upper 16 bits of what is written, where the function supports them.
        extended_data: Option<Hex<u16>>,
        /// Masked vectors, one bit each, where the function supports it.
        mask: Option<Hex<u32>>,
        /// Pending vectors, likewise.
        pending: Option<Hex<u32>>,
    }
}

register! {
    /// MSI message control.
    pub struct MsiControl: u16 {
        /// MSI is enabled.
        enable: bool = 1,
        /// How many vectors the function could use.
        vectors_capable: VectorCount = 3,
        /// How many it may use.
        vectors_enabled: VectorCount = 3,
        /// Addresses have 64 bits.
        address_64: bool = 1,
        /// Vectors can be masked one by one.
        per_vector_masking: bool = 1,
        /// Data can have 32 bits.
        extended_data_capable: bool = 1,
        /// Data have 32 bits.
        extended_data_enable: bool = 1,
        .. u8 = 5,
    }
}

/// A number of MSI vectors, stored as its logarithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VectorCount(pub u8);

bits!(VectorCount: u8);

impl VectorCount {
    /// Number of vectors, 1 to 32; `None` for a reserved code.
    #[must_use]
    pub const fn vectors(self) -> Option<u8> {
        if self.0 <= 5 { Some(1 << self.0) } else { None }
    }
}

impl Describe for VectorCount {
    fn describe(&self) -> Value {
        self.vectors().describe()
    }
}

impl Decode for Msi {
    const ID: CapabilityId = CapabilityId::MSI;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let control: MsiControl = window.read(0x02)?;
        let (address, data) = if control.address_64() {
            (window.read::<u64>(0x04)?, 0x0c)
        } else {
            (u64::from(window.read::<u32>(0x04)?), 0x08)
        };
        let masks = control.per_vector_masking();
        Ok(Self {
            control,
            address: Hex(address),
            data: window.read(data)?,
            extended_data: control
                .extended_data_capable()
                .then(|| window.read(data + 2))
                .transpose()?,
            mask: window.read_if(masks, data + 4)?,
            pending: window.read_if(masks, data + 8)?,
        })
    }
}
