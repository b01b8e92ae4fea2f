//! The lists of capabilities: which the guest sees, linked without the others, of which nothing is left.
//!
//! The image's lists are followed by [`pci::Walk`], which ends whatever they look like; what is linked here is finite, in its own part of the
//! space, and comes to an end.

use super::patches::Patches;
use pci::{Capability, CapabilityId};
use std::ops::Range;

const POINTER: u16 = 0x34;
const STATUS: u16 = 0x06;
const STATUS_LIST: u8 = 1 << 4;
const EXTENDED: u16 = 0x100;

/// A capability that the guest may see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) id: CapabilityId,
    pub(super) offset: u16,
    /// Up to the next one, or the end of its part of the space.
    pub(super) len: u16,
    /// How much of it is its own. Behind that there may be registers of the device's that no list has.
    pub(super) own_len: u16,
    version: u8,
}

impl Found {
    pub(super) fn new(capability: &Capability<'_>) -> Self {
        let len = u16::try_from(capability.bytes().len()).unwrap_or(u16::MAX);
        Self {
            id: capability.id(),
            offset: capability.offset(),
            len,
            own_len: own_len(capability).unwrap_or(len).min(len),
            version: capability.version().unwrap_or_default(),
        }
    }
}

/// The length of a capability that has a known one, or states it itself.
fn own_len(capability: &Capability<'_>) -> Option<u16> {
    let byte = |at: usize| capability.bytes().get(at).copied().unwrap_or_default();
    let len = match capability.id() {
        CapabilityId::SLOT_ID => 4,
        CapabilityId::ADVANCED_FEATURES => 6,
        CapabilityId::POWER_MANAGEMENT | CapabilityId::VPD | CapabilityId::SATA => 8,
        CapabilityId::MSI_X => 12,
        CapabilityId::MSI => 24,
        // With registers for ECC.
        CapabilityId::PCI_X if byte(3) & 0x30 != 0 => 24,
        CapabilityId::PCI_X => 8,
        // Version 1 ends where an endpoint has no more.
        CapabilityId::EXPRESS if byte(2) & 0x0F >= 2 => 60,
        CapabilityId::EXPRESS => 20,
        CapabilityId::VENDOR_SPECIFIC => u16::from(byte(2)).max(4),
        CapabilityId::ARI | CapabilityId::ATS | CapabilityId::PASID | CapabilityId::LTR => 8,
        CapabilityId::SERIAL_NUMBER | CapabilityId::PTM => 12,
        CapabilityId::PRI => 16,
        // With a log of prefixes.
        CapabilityId::AER if byte(0x19) & 0x08 != 0 => 72,
        CapabilityId::AER => 44,
        CapabilityId::SRIOV => 64,
        CapabilityId::RESIZABLE_BAR | CapabilityId::VF_RESIZABLE_BAR => 4 + 8 * u16::from(byte(8) >> 5),
        // The upper 12 bits of the second word.
        CapabilityId::VSEC | CapabilityId::DVSEC => (u16::from_le_bytes([byte(6), byte(7)]) >> 4).max(8),
        _ => return None,
    };
    Some(len)
}

/// Leaves nothing in `part` of the space but what is shown.
pub(super) fn blank_unlisted(patches: &mut Patches, part: Range<u16>, shown: &[Found]) {
    let mut own: Vec<(u16, u16)> = shown.iter().map(|found| (found.offset, found.own_len)).collect();
    own.sort_unstable();
    let mut from = part.start;
    for (start, len) in own {
        patches.blank(from, start.saturating_sub(from));
        from = start.saturating_add(len);
    }
    patches.blank(from, part.end.saturating_sub(from));
}

/// Links the standard list: those of `shown`, in their order. Nothing is left of those of `hidden`.
pub(super) fn link_standard(patches: &mut Patches, shown: &[Found], hidden: &[Found]) {
    for found in hidden {
        patches.blank(found.offset, found.own_len);
    }
    let mut from = POINTER;
    for found in shown {
        let (CapabilityId::Standard(id), Ok(offset)) = (found.id, u8::try_from(found.offset)) else {
            continue;
        };
        patches.fix(from, &[offset]);
        patches.fix(found.offset, &[id, 0]);
        from = found.offset + 1;
    }
    if shown.is_empty() {
        patches.fix(POINTER, &[0]);
    }
    let has_list = if shown.is_empty() { 0 } else { STATUS_LIST };
    patches.fix_bits(STATUS, STATUS_LIST, has_list);
}

/// Links the extended list. It begins at its own beginning: where what is there is hidden, a null capability takes its place.
pub(super) fn link_extended(patches: &mut Patches, shown: &[Found], hidden: &[Found]) {
    for found in hidden {
        patches.blank(found.offset, found.len);
    }
    let first = shown.first().map_or(0, |found| found.offset);
    if first != EXTENDED {
        patches.fix(EXTENDED, &header(0, 0, first));
    }
    for (position, found) in shown.iter().enumerate() {
        let next = shown.get(position + 1).map_or(0, |next| next.offset);
        if let CapabilityId::Extended(id) = found.id {
            patches.fix(found.offset, &header(id, found.version, next));
        }
    }
}

/// Header of an extended capability (PCIe 6.0 §7.6.3).
fn header(id: u16, version: u8, next: u16) -> [u8; 4] {
    (u32::from(next) << 20 | u32::from(version & 0xF) << 16 | u32::from(id)).to_le_bytes()
}
