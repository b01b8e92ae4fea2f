//! Single Root I/O Virtualization (PCIe 6.0 §9.3.3).

use crate::cap::BarOffset;
use crate::register::{Register, Window, register, structure};
use crate::{BarRegister, Describe, DeviceId, Truncated, Value};

structure! {
    /// The PF's side of SR-IOV.
    #[doc(alias = "PCI_EXT_CAP_ID_SRIOV")]
    pub struct Sriov = SRIOV {
        /// What it can do.
        0x04 capability: SriovCapability,
        /// What it does.
        0x08 control: SriovControl,
        /// Status.
        0x0a status: SriovStatus,
        /// How many VFs there are to begin with; the same as the total unless VFs migrate.
        0x0c initial_vfs: u16,
        /// How many VFs there can be.
        0x0e total_vfs: u16,
        /// How many VFs are to be visible; they are when `vf_enable` is set.
        0x10 num_vfs: u16,
        /// The function that this one depends on; itself when on none.
        0x12 function_dependency_link: u8,
        /// Routing id of VF 0 less that of the PF, modulo 65536; may change with `num_vfs` and `ari_capable_hierarchy`.
        0x14 first_vf_offset: u16,
        /// Distance between the routing ids of two VFs; likewise.
        0x16 vf_stride: u16,
        /// Device id of the VFs.
        0x1a vf_device: DeviceId,
        /// Page sizes that VF BARs can be aligned to.
        0x1c supported_page_sizes: PageSizes,
        /// The page size they are aligned to.
        0x20 system_page_size: PageSizes,
        /// Base address registers of all VFs together.
        0x24 vf_bars: [BarRegister; 6],
        /// Where the migration states are; 0 where VFs do not migrate.
        0x3c vf_migration_array: BarOffset,
    }
}

register! {
    /// SR-IOV capabilities register.
    pub struct SriovCapability: u32 {
        /// VFs can migrate (withdrawn with MR-IOV).
        vf_migration: bool = 1,
        /// The ARI hierarchy bit survives a function level reset.
        ari_hierarchy_preserved: bool = 1,
        /// VFs can request with 10-bit tags.
        vf_tag_10_bit_requester: bool = 1,
        /// VFs can request with 14-bit tags.
        vf_tag_14_bit_requester: bool = 1,
        __: u32 = 17,
        /// Which interrupt message announces migrations.
        vf_migration_interrupt_message: u16 = 11,
    }
}

register! {
    /// SR-IOV control register.
    pub struct SriovControl: u16 {
        /// VFs are visible.
        vf_enable: bool = 1,
        /// VFs may migrate.
        vf_migration_enable: bool = 1,
        /// Interrupt on migrations.
        vf_migration_interrupt: bool = 1,
        /// VFs decode memory.
        vf_memory_space: bool = 1,
        /// The port above forwards 8-bit function numbers.
        ari_capable_hierarchy: bool = 1,
        /// VFs may request with 10-bit tags.
        vf_tag_10_bit_requester: bool = 1,
        /// VFs may request with 14-bit tags.
        vf_tag_14_bit_requester: bool = 1,
        .. u16 = 9,
    }
}

register! {
    /// SR-IOV status register.
    pub struct SriovStatus: u16 {
        /// A migration is under way.
        vf_migration: bool = 1,
        .. u16 = 15,
    }
}

/// A set of page sizes: bit N is 2^(N+12) bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageSizes(pub u32);

impl PageSizes {
    /// The sizes in bytes, smallest first.
    pub fn bytes(self) -> impl Iterator<Item = u64> {
        (0..32).filter(move |bit| self.0 >> bit & 1 != 0).map(|bit| 4096 << bit)
    }
}

impl Register for PageSizes {
    const LEN_BYTES: u16 = 4;

    fn read(window: Window<'_>, offset: u16) -> Result<Self, Truncated> {
        window.read(offset).map(Self)
    }
}

impl Describe for PageSizes {
    fn describe(&self) -> Value {
        Value::List(self.bytes().map(Value::Size).collect())
    }
}
