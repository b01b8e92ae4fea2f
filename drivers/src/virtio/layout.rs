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

/// Offset of the first BAR, and the bit of one that is ports (PCI 3.0 §6.2.5.1).
const BAR_0: u16 = 0x10;
const IO_SPACE: u32 = 1;

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

/// What the capability at `at` tells; `None` if it is cut off, or in no BAR of memory.
fn place(config: &ConfigSpace, at: u16) -> Option<(u8, Place)> {
    let (len, kind, bar) = (config.u8(at + 2)?, config.u8(at + 3)?, config.u8(at + 4)?);
    let needed = if kind == capability::NOTIFY { 20 } else { 16 };
    if len < needed || bar > capability::LAST_BAR || config.u32(BAR_0 + 4 * u16::from(bar))? & IO_SPACE != 0 {
        return None;
    }
    let place = Place {
        bar,
        offset: config.u32(at + 8)?,
        len: config.u32(at + 12)?,
    };
    Some((kind, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A disk with these capabilities, one behind the other: length, kind, BAR, offset and length in it.
    fn image(capabilities: &[(u8, u8, u8, u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        bytes[..4].copy_from_slice(&[0xf4, 0x1a, 0x42, 0x10]);
        // BAR 2 is ports, and there are capabilities.
        (bytes[0x18], bytes[6], bytes[0x34]) = (1, 0x10, 0x40);
        for (at, (len, kind, bar, offset, part)) in (0x40_u8..).step_by(20).zip(capabilities) {
            let next = at + 20;
            let at = usize::from(at);
            bytes[at..at + 5].copy_from_slice(&[9, next, *len, *kind, *bar]);
            bytes[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&part.to_le_bytes());
        }
        bytes[0x40 + 20 * capabilities.len() - 19] = 0;
        bytes
    }

    fn layout(capabilities: &[(u8, u8, u8, u32, u32)]) -> Result<Layout, &'static str> {
        Layout::of(&ConfigSpace::new(image(capabilities)))
    }

    const COMMON: (u8, u8, u8, u32, u32) = (16, 1, 0, 0, 0x38);
    const NOTIFY: (u8, u8, u8, u32, u32) = (20, 2, 0, 0x1000, 4);

    #[test]
    fn the_first_one_that_can_be_used_counts() {
        let found = layout(&[
            (16, 1, 6, 0, 0x38),
            (16, 1, 2, 0, 0x38),
            (15, 1, 0, 0, 0x38),
            (16, 1, 1, 64, 0x38),
            COMMON,
            (19, 2, 0, 0x2000, 4),
            NOTIFY,
        ]);
        let found = found.unwrap();
        assert_eq!((found.common.bar, found.common.offset), (1, 64));
        assert_eq!(found.notify.offset, 0x1000);
        assert_eq!(found.device, None);
    }

    #[test]
    fn what_is_missing_or_too_short_is_said() {
        assert!(layout(&[COMMON, NOTIFY]).is_ok());
        assert!(layout(&[NOTIFY]).is_err());
        assert!(layout(&[COMMON]).is_err());
        assert!(layout(&[(16, 1, 0, 0, 0x37), NOTIFY]).is_err());
        assert!(layout(&[(16, 1, 0, 2, 0x38), NOTIFY]).is_err());
    }

    #[test]
    fn a_list_that_leads_back_ends() {
        let mut bytes = image(&[COMMON, NOTIFY]);
        bytes[0x40 + 21] = 0x40;
        assert!(Layout::of(&ConfigSpace::new(bytes)).is_ok());
    }

    proptest! {
        #[test]
        fn no_configuration_space_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..300), is_virtio: bool) {
            if is_virtio && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[0xf4, 0x1a, 0x42, 0x10]);
            }
            let _layout = Layout::of(&ConfigSpace::new(bytes));
        }
    }
}
