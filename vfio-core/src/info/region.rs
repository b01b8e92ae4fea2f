//! `struct vfio_region_info`.

use super::{Chain, u32_at, u64_at};
use crate::ErrorKind;
use std::fmt;
use std::ops::Range;

/// The index of a region. A PCI function has its BARs, ROM, configuration space and VGA windows at fixed ones; indexes from 9 are
/// told apart by [`RegionInfo::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionIndex(pub u32);

impl RegionIndex {
    /// BAR 0.
    pub const BAR0: Self = Self(0);
    /// BAR 1; absent when BAR 0 has 64 bits, and so on.
    pub const BAR1: Self = Self(1);
    /// BAR 2.
    pub const BAR2: Self = Self(2);
    /// BAR 3.
    pub const BAR3: Self = Self(3);
    /// BAR 4.
    pub const BAR4: Self = Self(4);
    /// BAR 5.
    pub const BAR5: Self = Self(5);
    /// The expansion ROM.
    pub const ROM: Self = Self(6);
    /// The configuration space.
    pub const CONFIG: Self = Self(7);
    /// The VGA windows.
    pub const VGA: Self = Self(8);
    /// All BARs.
    pub const BARS: [Self; 6] = [Self::BAR0, Self::BAR1, Self::BAR2, Self::BAR3, Self::BAR4, Self::BAR5];

    /// Whether it is a BAR.
    #[must_use]
    pub const fn is_bar(self) -> bool {
        self.0 <= Self::BAR5.0
    }
}

impl fmt::Display for RegionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ROM => f.write_str("ROM"),
            Self::CONFIG => f.write_str("configuration space"),
            Self::VGA => f.write_str("VGA"),
            bar if bar.is_bar() => write!(f, "BAR {}", bar.0),
            other => write!(f, "region {}", other.0),
        }
    }
}

bitflags::bitflags! {
    /// What can be done with a region.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct RegionFlags: u32 {
        /// It can be read.
        const READ = 1 << 0;
        /// It can be written.
        const WRITE = 1 << 1;
        /// It, or the parts in [`RegionInfo::sparse`], can be mapped.
        const MMAP = 1 << 2;
        /// The answer has capabilities.
        const CAPABILITIES = 1 << 3;
        const _ = !0;
    }
}

/// What a region with a device-specific index is (`VFIO_REGION_INFO_CAP_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionKind {
    /// Its type; bit 31 says that the low 16 bits are a PCI vendor's number.
    pub kind: u32,
    /// Its subtype, of a meaning of the type.
    pub subtype: u32,
}

/// What VFIO tells about a region.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "vfio_region_info")]
pub struct RegionInfo {
    /// Its index.
    pub index: RegionIndex,
    /// What can be done with it.
    pub flags: RegionFlags,
    /// Its size in bytes; 0 for a region that does not exist.
    pub size: u64,
    /// Where it begins in the device file, in bytes.
    pub(crate) offset: u64,
    /// The parts that can be mapped, in order, where not all of it can be (`VFIO_REGION_INFO_CAP_SPARSE_MMAP`).
    pub sparse: Option<Vec<Range<u64>>>,
    /// Whether the page of the MSI-X table can be mapped with the rest (`VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`). What is written there
    /// through a map has no effect on the kernel's setup.
    pub msix_mappable: bool,
    /// What it is, of a device-specific region.
    pub kind: Option<RegionKind>,
}

const SPARSE_MMAP: u16 = 1;
const TYPE: u16 = 2;
const MSIX_MAPPABLE: u16 = 3;

impl RegionInfo {
    /// Reads the answer of `VFIO_DEVICE_GET_REGION_INFO`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] when the structure, its chain of capabilities or an area is not whole, or an area lies outside the region.
    pub fn parse(bytes: &[u8]) -> Result<Self, ErrorKind> {
        let flags = RegionFlags::from_bits_retain(u32_at(bytes, 4)?);
        let mut info = Self {
            index: RegionIndex(u32_at(bytes, 8)?),
            flags,
            size: u64_at(bytes, 16)?,
            offset: u64_at(bytes, 24)?,
            sparse: None,
            msix_mappable: false,
            kind: None,
        };
        if info.offset.checked_add(info.size).is_none() {
            return Err(ErrorKind::Malformed("the region reaches past the end of the file"));
        }
        let first = if flags.contains(RegionFlags::CAPABILITIES) {
            u32_at(bytes, 12)?
        } else {
            0
        };
        for capability in Chain::new(bytes, first) {
            let capability = capability?;
            match (capability.id, capability.version) {
                (SPARSE_MMAP, 1) => info.sparse = Some(areas(capability.data, info.size)?),
                (TYPE, 1) => {
                    info.kind = Some(RegionKind {
                        kind: u32_at(capability.data, 0)?,
                        subtype: u32_at(capability.data, 4)?,
                    });
                }
                (MSIX_MAPPABLE, _) => info.msix_mappable = true,
                _ => {}
            }
        }
        Ok(info)
    }

    /// Whether the region exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.size != 0
    }

    /// The parts that can be mapped, none of a region without [`RegionFlags::MMAP`].
    #[must_use]
    pub fn mappable(&self) -> Vec<Range<u64>> {
        match &self.sparse {
            _ if !self.flags.contains(RegionFlags::MMAP) => Vec::new(),
            Some(areas) => areas.clone(),
            None => Some(0..self.size).filter(|_| self.exists()).into_iter().collect(),
        }
    }
}

/// The areas of a sparse map, in order and without empty ones.
fn areas(data: &[u8], size: u64) -> Result<Vec<Range<u64>>, ErrorKind> {
    let count = u32_at(data, 0)? as usize;
    let (entries, _) = data.get(8..).unwrap_or_default().as_chunks::<16>();
    let entries = entries.get(..count).ok_or(super::SHORT)?;
    let mut areas = Vec::with_capacity(count);
    for entry in entries {
        let (offset, len) = (u64_at(entry, 0)?, u64_at(entry, 8)?);
        let end = offset.checked_add(len).filter(|end| *end <= size);
        let end = end.ok_or(ErrorKind::Malformed("an area lies outside its region"))?;
        if len != 0 {
            areas.push(offset..end);
        }
    }
    areas.sort_unstable_by_key(|area| area.start);
    Ok(areas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(flags: u32, first: u32, size: u64, offset: u64, rest: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [32, flags, 2, first]
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect();
        bytes.extend([size, offset].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(rest);
        bytes
    }

    fn capability(id: u16, next: u32, data: &[u64]) -> Vec<u8> {
        let mut bytes = [id.to_ne_bytes(), 1_u16.to_ne_bytes()].concat();
        bytes.extend(next.to_ne_bytes());
        bytes.extend(data.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_region_is_mappable_as_a_whole_or_in_its_areas() {
        let whole = RegionInfo::parse(&answer(0b0111, 0, 0x4000, 1 << 40, &[])).unwrap();
        assert_eq!(whole.index, RegionIndex::BAR2);
        assert_eq!(whole.mappable(), std::slice::from_ref(&(0..0x4000)));
        let sparse = capability(1, 0, &[2, 0x3000, 0x1000, 0, 0x1000]);
        let sparse = RegionInfo::parse(&answer(0b1111, 32, 0x4000, 1 << 40, &sparse)).unwrap();
        assert_eq!(sparse.mappable(), [0..0x1000, 0x3000..0x4000]);
        let unmappable = RegionInfo::parse(&answer(0b0011, 0, 0x4000, 1 << 40, &[])).unwrap();
        assert_eq!(unmappable.mappable(), []);
    }

    #[test]
    fn type_and_msix_are_told_by_capabilities() {
        let rest = [capability(3, 40, &[]), capability(2, 0, &[0x8000_8086 | 2 << 32])].concat();
        let info = RegionInfo::parse(&answer(0b1011, 32, 0x1000, 0, &rest)).unwrap();
        assert!(info.msix_mappable);
        let kind = RegionKind {
            kind: 0x8000_8086,
            subtype: 2,
        };
        assert_eq!(info.kind, Some(kind));
    }

    #[test]
    fn areas_that_lie_are_refused() {
        for data in [
            [2, 0, 0x1000].as_slice(),
            &[1, 0x4000, 1],
            &[1, u64::MAX, 2],
            &[u64::from(u32::MAX)],
        ] {
            let sparse = capability(1, 0, data);
            assert!(
                RegionInfo::parse(&answer(0b1111, 32, 0x4000, 0, &sparse)).is_err(),
                "{data:x?}"
            );
        }
        assert!(RegionInfo::parse(&answer(0b0111, 0, 2, u64::MAX, &[])).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>, first in 0_u32..80, flags: u32) {
            let _checked = RegionInfo::parse(&bytes);
            if let Ok(info) = RegionInfo::parse(&answer(flags, first, 1 << 20, 0, &bytes)) {
                for area in info.mappable() {
                    prop_assert!(area.start < area.end && area.end <= info.size);
                }
            }
        }
    }
}
