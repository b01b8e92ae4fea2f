//! What kind of device a function is, and where its structures are (virtio 1.3 §4.1.2, §4.1.4).

use super::spec::{VENDOR, capability, common};
use pci::ConfigSpace;
use pci::cap::{Decode, VendorSpecific};
use std::fmt;

/// Kinds of devices (virtio 1.3 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A network card.
    Network,
    /// A disk.
    Block,
    /// A console.
    Console,
    /// A source of entropy.
    Entropy,
    /// Another one, by its number.
    Other(u16),
}

/// Where the structures of a device are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) kind: Kind,
    pub(super) common: Place,
    pub(super) notify: Place,
    /// Bytes from one queue's notification to the next one's.
    pub(super) multiplier: u32,
    pub(super) device: Option<Place>,
}

/// A part of a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bar: u8,
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// Device ids of transitional devices, and those of the others.
const TRANSITIONAL: u16 = 0x1000;
const MODERN: u16 = 0x1040;

impl Kind {
    /// By its number.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Network,
            2 => Self::Block,
            3 => Self::Console,
            4 => Self::Entropy,
            number => Self::Other(number),
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Network => 1,
            Self::Block => 2,
            Self::Console => 3,
            Self::Entropy => 4,
            Self::Other(number) => number,
        }
    }

    /// Of a function; `None` if it is no virtio device.
    #[must_use]
    pub fn of(config: &ConfigSpace) -> Option<Self> {
        let (vendor, device) = (config.u16(0)?, config.u16(2)?);
        if vendor != VENDOR {
            return None;
        }
        match device {
            // A transitional device says it where others have the subsystem's id.
            TRANSITIONAL..MODERN => Some(Self::from_number(config.u16(0x2e)?)),
            MODERN..=0x107f => Some(Self::from_number(device - MODERN)),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network => f.write_str("network card"),
            Self::Block => f.write_str("block device"),
            Self::Console => f.write_str("console"),
            Self::Entropy => f.write_str("entropy source"),
            Self::Other(number) => write!(f, "virtio device of kind {number}"),
        }
    }
}

impl Layout {
    /// Reads the capabilities; or says what is missing.
    pub(super) fn of(config: &ConfigSpace) -> Result<Self, &'static str> {
        let kind = Kind::of(config).ok_or("not a virtio device")?;
        let (mut places, mut multiplier) = ([None; 5], 0);
        let walk = config.capabilities();
        for found in walk.items.iter().filter(|found| found.id() == VendorSpecific::ID) {
            let at = found.offset();
            let Some((kind, place)) = place(config, at) else {
                continue;
            };
            // The first one that can be used counts, and of kinds that are not known none.
            let Some(slot @ None) = places.get_mut(usize::from(kind)) else {
                continue;
            };
            *slot = Some(place);
            if kind == capability::NOTIFY {
                multiplier = config.u32(at + 16).ok_or("a capability that is cut off")?;
            }
        }
        let [_, common, notify, _, device] = places;
        let common = common.ok_or("a device without the configuration of virtio 1")?;
        if u64::from(common.len) < common::LEN || common.offset % 4 != 0 {
            return Err("a common configuration that is too short, or off its alignment");
        }
        Ok(Self {
            kind,
            common,
            notify: notify.ok_or("a device without notifications")?,
            multiplier,
            device,
        })
    }
}

/// What the capability at `at` tells; `None` if it is cut off, or in no BAR.
fn place(config: &ConfigSpace, at: u16) -> Option<(u8, Place)> {
    let (kind, bar) = (config.u8(at + 3)?, config.u8(at + 4)?);
    let place = Place {
        bar,
        offset: config.u32(at + 8)?,
        len: config.u32(at + 12)?,
    };
    (bar <= capability::LAST_BAR).then_some((kind, place))
}
