//! Small standard capabilities: bridge subsystem identity (PCI-to-PCI Bridge 1.2 §3.2.5.13), Advanced Features (PCI ECN
//! Conventional PCI Advanced Features), Enhanced Allocation (PCIe 6.0 §7.8.5).

use super::{Capability, CapabilityId, Decode};
use crate::register::{Window, code, register, structure};
use crate::{DeviceId, Hex, Truncated, VendorId};

structure! {
    /// Subsystem identity of a bridge, which has no place for it in its header.
    #[doc(alias = "PCI_CAP_ID_SSVID")]
    pub struct BridgeSubsystem = BRIDGE_SUBSYSTEM {
        /// Who made the board.
        0x04 vendor: VendorId,
        /// Which board.
        0x06 device: DeviceId,
    }
}

structure! {
    /// Function level reset of conventional PCI functions.
    #[doc(alias = "PCI_CAP_ID_AF")]
    pub struct AdvancedFeatures = ADVANCED_FEATURES {
        /// Length of the capability in bytes.
        0x02 len_bytes: u8,
        /// What it can do.
        0x03 capabilities: AdvancedFeaturesCapabilities,
        /// Control.
        0x04 control: AdvancedFeaturesControl,
        /// Status.
        0x05 status: AdvancedFeaturesStatus,
    }
}

register! {
    /// Advanced Features capabilities.
    pub struct AdvancedFeaturesCapabilities: u8 {
        /// `transactions_pending` works.
        transactions_pending: bool = 1,
        /// Function level reset works.
        flr: bool = 1,
        .. u8 = 6,
    }
}

register! {
    /// Advanced Features control.
    pub struct AdvancedFeaturesControl: u8 {
        /// Start a function level reset; reads as zero.
        initiate_flr: bool = 1,
        .. u8 = 7,
    }
}

register! {
    /// Advanced Features status.
    pub struct AdvancedFeaturesStatus: u8 {
        /// Transactions have not completed yet.
        transactions_pending: bool = 1,
        .. u8 = 7,
    }
}

structure! {
    /// Fixed resources in place of BARs.
    #[doc(alias = "PCI_CAP_ID_EA")]
    pub struct EnhancedAllocation {
        /// Fixed secondary bus number (bridges only; 0 means not fixed).
        secondary_bus: Option<u8>,
        /// Fixed subordinate bus number (bridges only; 0 means not fixed).
        subordinate_bus: Option<u8>,
        /// The resources.
        entries: Vec<AllocationEntry>,
    }
}

structure! {
    /// One resource of Enhanced Allocation.
    pub struct AllocationEntry {
        /// First dword.
        flags: AllocationFlags,
        /// First address.
        base: Hex<u64>,
        /// Offset of the last byte from the first: the size less one.
        max_offset: Hex<u64>,
    }
}

register! {
    /// First dword of an Enhanced Allocation entry.
    pub struct AllocationFlags: u32 {
        /// How many dwords follow.
        entry_dwords: u8 = 3,
        __: u8 = 1,
        /// What it stands in for: BAR 0 to 5, 6 behind the bridge, 7 nothing, 8 expansion ROM, 9 to 14 VF BAR 0 to 5.
        bar_equivalent: u8 = 4,
        /// What it is.
        primary_properties: AllocationKind = 8,
        /// What to take it for when the first is not understood.
        secondary_properties: AllocationKind = 8,
        __: u8 = 6,
        /// Base and offset can be written.
        writable: bool = 1,
        /// The resource is enabled.
        enable: bool = 1,
    }
}

code! {
    /// Kind of resource.
    pub struct AllocationKind: u8 {
        /// Memory.
        MEMORY = 0x00 "memory",
        /// Prefetchable memory.
        MEMORY_PREFETCHABLE = 0x01 "prefetchable-memory",
        /// I/O ports.
        IO = 0x02 "io",
        /// Prefetchable memory of VFs.
        VF_MEMORY_PREFETCHABLE = 0x03 "vf-prefetchable-memory",
        /// Memory of VFs.
        VF_MEMORY = 0x04 "vf-memory",
        /// Memory behind a bridge.
        BRIDGE_MEMORY = 0x05 "bridge-memory",
        /// Prefetchable memory behind a bridge.
        BRIDGE_MEMORY_PREFETCHABLE = 0x06 "bridge-prefetchable-memory",
        /// I/O ports behind a bridge.
        BRIDGE_IO = 0x07 "bridge-io",
        /// Memory that nobody may use.
        MEMORY_RESERVED = 0xfd "reserved-memory",
        /// I/O ports that nobody may use.
        IO_RESERVED = 0xfe "reserved-io",
        /// Not available.
        UNAVAILABLE = 0xff "unavailable",
    }
}

impl Decode for EnhancedAllocation {
    const ID: CapabilityId = CapabilityId::ENHANCED_ALLOCATION;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        const HEADER_TYPE: u16 = 0x0e;
        let window = capability.window();
        let is_bridge = capability.space().u8(HEADER_TYPE).is_some_and(|kind| kind & 0x7f == 1);
        let count = window.read::<u8>(2)? & 0x3f;
        let mut offset = if is_bridge { 8 } else { 4 };
        let mut entries = Vec::new();
        for _ in 0..count {
            let entry = AllocationEntry::read(window, offset)?;
            offset = offset.saturating_add(4 * (1 + u16::from(entry.flags.entry_dwords())));
            entries.push(entry);
        }
        Ok(Self {
            secondary_bus: window.read_if(is_bridge, 4)?,
            subordinate_bus: window.read_if(is_bridge, 5)?,
            entries,
        })
    }
}

impl AllocationEntry {
    /// The low dwords of base and offset come first; bit 1 of each says that an upper dword follows behind both.
    fn read(window: Window<'_>, at: u16) -> Result<Self, Truncated> {
        const IS_64: u32 = 2;
        let base: u32 = window.read(at.saturating_add(4))?;
        let max_offset: u32 = window.read(at.saturating_add(8))?;
        let mut upper = at.saturating_add(12);
        let mut address = |low: u32, fill: u32| -> Result<Hex<u64>, Truncated> {
            let mut high = 0;
            if low & IS_64 != 0 {
                high = window.read::<u32>(upper)?;
                upper = upper.saturating_add(4);
            }
            Ok(Hex(u64::from(high) << 32 | u64::from(low & !3 | fill)))
        };
        Ok(Self {
            flags: window.read(at)?,
            base: address(base, 0)?,
            max_offset: address(max_offset, 3)?,
        })
    }
}
