//! Resizable BAR (PCIe 6.0 §7.8.6) and VF Resizable BAR (§7.8.7), which have the same layout.

use crate::cap::{Capability, CapabilityId, Decode};
use crate::register::{Window, bits, register, structure};
use crate::{Describe, Truncated, Value};

structure! {
    /// BARs whose size can be chosen.
    #[doc(alias = "PCI_EXT_CAP_ID_REBAR")]
    pub struct ResizableBar {
        /// One for each such BAR.
        bars: Vec<ResizableBarEntry>,
    }
}

structure! {
    /// VF BARs whose size can be chosen.
    #[doc(alias = "PCI_EXT_CAP_ID_VF_REBAR")]
    pub struct VfResizableBar {
        /// One for each such VF BAR; sizes are those of one VF.
        bars: Vec<ResizableBarEntry>,
    }
}

structure! {
    /// A BAR whose size can be chosen.
    pub struct ResizableBarEntry {
        /// Number of the BAR.
        bar: u8,
        /// Its size.
        size_bytes: SizeCode,
        /// The sizes to choose from.
        supported_sizes_bytes: BarSizes,
    }
}

register! {
    /// Resizable BAR control register.
    pub struct ResizableBarControl: u32 {
        /// Number of the BAR.
        bar: u8 = 3,
        __: u8 = 2,
        /// How many entries there are; in the first entry only.
        count: u8 = 3,
        /// The size.
        size "size_bytes": SizeCode = 6,
        __: u8 = 2,
        /// Sizes from 2^48 bytes on, one bit each.
        upper_sizes: u16 = 16,
    }
}

/// Size of a BAR, stored as its logarithm less 20.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SizeCode(pub u8);

bits!(SizeCode: u8);

impl SizeCode {
    /// From 1 MiB on, a power of two; `None` for a code above 2^63.
    #[must_use]
    pub const fn bytes(self) -> Option<u64> {
        if self.0 <= 43 { Some(1 << (self.0 + 20)) } else { None }
    }
}

impl Describe for SizeCode {
    fn describe(&self) -> Value {
        self.bytes().map_or(Value::Absent, Value::Size)
    }
}

/// A set of BAR sizes: bit N is 2^(N+20) bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BarSizes(pub u64);

impl BarSizes {
    /// The sizes in bytes, smallest first.
    pub fn bytes(self) -> impl Iterator<Item = u64> {
        (0..64)
            .filter(move |bit| self.0 >> bit & 1 != 0)
            .filter_map(|bit| SizeCode(bit).bytes())
    }
}

impl Describe for BarSizes {
    fn describe(&self) -> Value {
        Value::List(self.bytes().map(Value::Size).collect())
    }
}

impl Decode for ResizableBar {
    const ID: CapabilityId = CapabilityId::RESIZABLE_BAR;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            bars: entries(capability.window())?,
        })
    }
}

impl Decode for VfResizableBar {
    const ID: CapabilityId = CapabilityId::VF_RESIZABLE_BAR;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            bars: entries(capability.window())?,
        })
    }
}

/// Pairs of a capability and a control register. Sizes below 2^48 have bits 4 to 31 of the first, the rest bits 16 to 31 of the
/// second.
fn entries(window: Window<'_>) -> Result<Vec<ResizableBarEntry>, Truncated> {
    let count = window.read::<ResizableBarControl>(0x08)?.count();
    (0..u16::from(count))
        .map(|entry| {
            let sizes: u32 = window.read(0x04 + 8 * entry)?;
            let control: ResizableBarControl = window.read(0x08 + 8 * entry)?;
            Ok(ResizableBarEntry {
                bar: control.bar(),
                size_bytes: control.size(),
                supported_sizes_bytes: BarSizes(u64::from(sizes >> 4) | u64::from(control.upper_sizes()) << 28),
            })
        })
        .collect()
}
