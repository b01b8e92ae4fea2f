//! The two lists of capabilities in configuration space, followed without trust.
//!
//! A [`Walk`] never follows more links than there are places for a capability, never visits a place twice, and says how it ended.
//! Pointers are masked to dwords as PCI 3.0 §6.7 and PCIe 6.0 §7.6.3 ask of software.

use crate::ConfigSpace;
use crate::cap::{Capability, CapabilityId};
use std::fmt;

const STATUS: u16 = 0x06;
const STATUS_CAPABILITY_LIST: u16 = 1 << 4;
const HEADER_TYPE: u16 = 0x0e;
const POINTER: u16 = 0x34;
const CARDBUS_POINTER: u16 = 0x14;
/// Where capabilities can start: behind the header.
const STANDARD_START: u16 = 0x40;
/// Where extended configuration space and its list start.
const EXTENDED_START: u16 = 0x100;
const EXTENDED_END: u16 = 0x1000;

/// The capabilities of one list in the order of their links, and how the list ended.
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    /// What was found up to the end.
    pub items: Vec<Capability<'a>>,
    /// How the list ended.
    pub end: WalkEnd,
}

/// How a list of capabilities ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalkEnd {
    /// At the last capability.
    Complete,
    /// There is no list.
    NoList,
    /// The link of the capability at `from` leads to a capability that was visited before.
    Loop {
        /// Offset of the capability.
        from: u16,
        /// Where its link leads.
        to: u16,
    },
    /// The link at `from` leads to where no capability can be: into the header or before the extended space.
    OutOfRange {
        /// Offset of the capability, or of the pointer in the header.
        from: u16,
        /// Where its link leads.
        to: u16,
    },
    /// The capability at `at` reads as all ones, as a function that does not answer does.
    AllOnes {
        /// Offset of the capability.
        at: u16,
    },
    /// The list goes on at `at`, where the image has already ended.
    Truncated {
        /// Offset of the first byte that is missing.
        at: u16,
    },
}

impl WalkEnd {
    /// Whether every capability of the list was seen.
    #[must_use]
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Complete | Self::NoList)
    }
}

impl fmt::Display for WalkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::NoList => f.write_str("no list"),
            Self::Loop { from, to } => write!(f, "loop: {from:#05x} leads back to {to:#05x}"),
            Self::OutOfRange { from, to } => write!(f, "broken link: {from:#05x} leads to {to:#05x}"),
            Self::AllOnes { at } => write!(f, "all ones at {at:#05x}"),
            Self::Truncated { at } => write!(f, "the image ends before {at:#05x}"),
        }
    }
}

/// A place in a list: offset, identifier, version (extended lists only).
type Place = (u16, CapabilityId, Option<u8>);

impl<'a> Walk<'a> {
    pub(crate) fn standard(space: &'a ConfigSpace) -> Self {
        let mut places = Vec::new();
        let end = standard_places(space, &mut places);
        Self::new(space, &places, end, EXTENDED_START)
    }

    pub(crate) fn extended(space: &'a ConfigSpace) -> Self {
        let mut places = Vec::new();
        let end = extended_places(space, &mut places);
        Self::new(space, &places, end, EXTENDED_END)
    }

    /// A capability extends to the next known start, or to the end of its part of the space.
    fn new(space: &'a ConfigSpace, places: &[Place], end: WalkEnd, limit: u16) -> Self {
        let mut starts: Vec<u16> = places.iter().map(|place| place.0).collect();
        starts.sort_unstable();
        let end_of = |offset| {
            starts
                .get(starts.partition_point(|start| *start <= offset))
                .copied()
                .unwrap_or(limit)
        };
        let items = places
            .iter()
            .map(|&(offset, id, version)| Capability::new(space, offset, end_of(offset), id, version))
            .collect();
        Self { items, end }
    }
}

fn standard_places(space: &ConfigSpace, places: &mut Vec<Place>) -> WalkEnd {
    let (Some(status), Some(header_type)) = (space.u16(STATUS), space.u8(HEADER_TYPE)) else {
        return WalkEnd::Truncated { at: STATUS };
    };
    if status == u16::MAX {
        return WalkEnd::AllOnes { at: STATUS };
    }
    if status & STATUS_CAPABILITY_LIST == 0 {
        return WalkEnd::NoList;
    }
    let mut from = if header_type & 0x7f == 2 {
        CARDBUS_POINTER
    } else {
        POINTER
    };
    let Some(pointer) = space.u8(from) else {
        return WalkEnd::Truncated { at: from };
    };
    let mut to = u16::from(pointer) & !3;
    while to != 0 {
        if to < STANDARD_START {
            return WalkEnd::OutOfRange { from, to };
        }
        if places.iter().any(|place| place.0 == to) {
            return WalkEnd::Loop { from, to };
        }
        let Some(header) = space.u16(to) else {
            return WalkEnd::Truncated { at: to };
        };
        let [id, next] = header.to_le_bytes();
        if id == u8::MAX {
            return WalkEnd::AllOnes { at: to };
        }
        places.push((to, CapabilityId::Standard(id), None));
        from = to;
        to = u16::from(next) & !3;
    }
    WalkEnd::Complete
}

fn extended_places(space: &ConfigSpace, places: &mut Vec<Place>) -> WalkEnd {
    if space.u32(EXTENDED_START).is_none() && has_no_extended_space(space) {
        return WalkEnd::NoList;
    }
    let mut visited = [false; (EXTENDED_END / 4) as usize];
    let mut from = EXTENDED_START;
    let mut to = EXTENDED_START;
    loop {
        if to < EXTENDED_START {
            return WalkEnd::OutOfRange { from, to };
        }
        let Some(header) = space.u32(to) else {
            return WalkEnd::Truncated { at: to };
        };
        match visited.get_mut(usize::from(to / 4)) {
            Some(visited) if !*visited => *visited = true,
            _ => return WalkEnd::Loop { from, to },
        }
        if header == u32::MAX {
            return WalkEnd::AllOnes { at: to };
        }
        // A list without a capability is a null capability without a successor (PCIe 6.0 §7.6.3).
        if header == 0 && to == EXTENDED_START {
            return WalkEnd::NoList;
        }
        let [id_low, id_high, version_and_next, next_high] = header.to_le_bytes();
        let id = u16::from_le_bytes([id_low, id_high]);
        places.push((to, CapabilityId::Extended(id), Some(version_and_next & 0xf)));
        from = to;
        to = (u16::from_le_bytes([version_and_next, next_high]) >> 4) & !3;
        if to == 0 {
            return WalkEnd::Complete;
        }
    }
}

/// Conventional functions have 256 bytes and no more: neither PCI Express nor PCI-X is in their list.
fn has_no_extended_space(space: &ConfigSpace) -> bool {
    let mut places = Vec::new();
    let end = standard_places(space, &mut places);
    end.is_complete()
        && !places
            .iter()
            .any(|place| [CapabilityId::EXPRESS, CapabilityId::PCI_X].contains(&place.1))
}
