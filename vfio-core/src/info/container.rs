//! `struct vfio_iommu_type1_info`.

use super::{Chain, u32_at, u64_at};
use crate::{ErrorKind, Iova, IovaRange};

/// What VFIO tells about a container with an IOMMU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
#[doc(alias = "vfio_iommu_type1_info")]
pub struct ContainerInfo {
    /// The page sizes of the IOMMU, one bit for each: bit 12 is 4 KiB. 0 where the kernel does not tell.
    pub page_sizes: u64,
    /// The IOVAs that may be mapped, in order; `None` where the kernel does not tell (before Linux 5.4). They shrink when a group is
    /// added that has reserved regions.
    pub iova_ranges: Option<Vec<IovaRange>>,
    /// How many further mappings the container takes; `None` where the kernel does not tell (before Linux 5.10).
    pub mappings_available: Option<u32>,
    /// Whether it logs dirty pages, and how.
    pub dirty_logging: Option<DirtyLogging>,
}

/// How a container logs dirty pages (`VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyLogging {
    /// The page sizes it can report in, one bit for each.
    pub page_sizes: u64,
    /// The longest bitmap of one report in bytes.
    pub max_bitmap_bytes: u64,
}

const HAS_PAGE_SIZES: u32 = 1 << 0;
const HAS_CAPABILITIES: u32 = 1 << 1;

const IOVA_RANGE: u16 = 1;
const MIGRATION: u16 = 2;
const DMA_AVAIL: u16 = 3;

impl ContainerInfo {
    /// Reads the answer of `VFIO_IOMMU_GET_INFO`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] when the structure, its chain of capabilities or a range is not whole, or ranges overlap.
    pub fn parse(bytes: &[u8]) -> Result<Self, ErrorKind> {
        let flags = u32_at(bytes, 4)?;
        let mut info = Self::default();
        if flags & HAS_PAGE_SIZES != 0 {
            info.page_sizes = u64_at(bytes, 8)?;
        }
        let first = if flags & HAS_CAPABILITIES != 0 {
            u32_at(bytes, 16)?
        } else {
            0
        };
        for capability in Chain::new(bytes, first) {
            let capability = capability?;
            let data = capability.data;
            match (capability.id, capability.version) {
                (IOVA_RANGE, 1) => info.iova_ranges = Some(ranges(data)?),
                (MIGRATION, 1) => {
                    // The structure's 64-bit fields are aligned to 8 bytes.
                    info.dirty_logging = Some(DirtyLogging {
                        page_sizes: u64_at(data, 8)?,
                        max_bitmap_bytes: u64_at(data, 16)?,
                    });
                }
                (DMA_AVAIL, 1) => info.mappings_available = Some(u32_at(data, 0)?),
                _ => {}
            }
        }
        Ok(info)
    }

    /// The smallest page of the IOMMU in bytes: what every IOVA and length must be a multiple of. 4096 where the kernel does not tell.
    #[must_use]
    pub fn granule(&self) -> u64 {
        match self.page_sizes {
            0 => 4096,
            sizes => 1 << sizes.trailing_zeros(),
        }
    }
}

fn ranges(data: &[u8]) -> Result<Vec<IovaRange>, ErrorKind> {
    let count = u32_at(data, 0)? as usize;
    let (entries, _) = data.get(8..).unwrap_or_default().as_chunks::<16>();
    let entries = entries.get(..count).ok_or(super::SHORT)?;
    let mut ranges = Vec::with_capacity(count);
    for entry in entries {
        let range = IovaRange::from_bounds(Iova(u64_at(entry, 0)?), Iova(u64_at(entry, 8)?));
        ranges.push(range.ok_or(ErrorKind::Malformed("a range of IOVAs ends before it begins"))?);
    }
    ranges.sort_unstable();
    let overlap = ranges.windows(2).any(|pair| matches!(pair, [a, b] if a.overlaps(b)));
    if overlap {
        return Err(ErrorKind::Malformed("ranges of IOVAs overlap"));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(words: &[u64]) -> Vec<u8> {
        let mut bytes = [0_u32, 3]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect::<Vec<_>>();
        bytes.extend([1_u64 << 12 | 1 << 21, 24].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    /// Header of a capability as one word.
    fn header(id: u64, next: u64) -> u64 {
        id | 1 << 16 | next << 32
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn ranges_limit_and_logging_are_told_by_capabilities() {
        let words = [
            header(1, 64),
            2,
            0xfef0_0000,
            0xffff_ffff,
            0,
            0xfedf_ffff,
            header(2, 96),
            0,
            1 << 12,
            1 << 28,
            header(3, 0),
            65535,
        ];
        // 24 + 48 = 72 is where the second one begins.
        let mut words = words;
        words[0] = header(1, 72);
        words[6] = header(2, 104);
        let info = ContainerInfo::parse(&answer(&words)).unwrap();
        let range = |start, last| IovaRange::from_bounds(Iova(start), Iova(last)).unwrap();
        let ranges = vec![range(0, 0xfedf_ffff), range(0xfef0_0000, 0xffff_ffff)];
        assert_eq!(info.iova_ranges, Some(ranges));
        assert_eq!(info.mappings_available, Some(65535));
        let logging = DirtyLogging {
            page_sizes: 1 << 12,
            max_bitmap_bytes: 1 << 28,
        };
        assert_eq!(info.dirty_logging, Some(logging));
        assert_eq!(info.granule(), 4096);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn ranges_that_overlap_or_are_missing_are_refused() {
        assert!(ContainerInfo::parse(&answer(&[header(1, 0), 2, 0, 10, 10, 20])).is_err());
        assert!(ContainerInfo::parse(&answer(&[header(1, 0), 2, 0, 10])).is_err());
        assert!(ContainerInfo::parse(&answer(&[header(1, 0), 1, 10, 0])).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>, words: Vec<u64>) {
            let _checked = ContainerInfo::parse(&bytes);
            if let Ok(info) = ContainerInfo::parse(&answer(&words)) {
                prop_assert!(info.iova_ranges.unwrap_or_default().len() <= words.len());
            }
        }
    }
}
