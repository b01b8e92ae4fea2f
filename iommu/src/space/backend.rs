//! What a space asks of the kernel's two interfaces.

use super::map::in_memory;
#[cfg(test)]
use super::testing;
use crate::{Error, Iova, Result};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vfio_core::iommufd::{Ioas, Mapping, Placement};
use vfio_core::{Access, Container, IovaRange, LegacyMapping, StableMemory};

/// One of the kernel's interfaces. Mappings are made where it is told; it chooses nothing.
#[derive(Debug)]
pub(crate) enum Backend {
    Iommufd(Ioas),
    Type1(Container),
    #[cfg(test)]
    Test(testing::Ledger),
}

/// A mapping, undone when dropped.
#[derive(Debug)]
pub(crate) enum Mapped {
    Iommufd(Mapping),
    Type1(LegacyMapping),
    #[cfg(test)]
    Test(testing::Guard),
}

/// What is mapped.
#[derive(Debug)]
pub(crate) enum Source {
    /// Bytes of this process.
    Memory(Arc<dyn StableMemory>, Range<usize>),
    /// Bytes of a memfd or a dma-buf, from the first one.
    File(Arc<OwnedFd>, Range<u64>),
}

impl Source {
    /// A piece of it, in bytes from its start.
    pub(super) fn piece(&self, piece: &Range<u64>) -> Result<Self> {
        match self {
            Self::Memory(memory, part) => Ok(Self::Memory(Arc::clone(memory), in_memory(part.start, piece)?)),
            Self::File(file, part) => Ok(Self::File(
                Arc::clone(file),
                part.start + piece.start..part.start + piece.end,
            )),
        }
    }
}

/// What a kernel before Linux 5.10 allows without telling: what the narrowest IOMMU of servers translates, less the MSI window of x86.
const UNTOLD: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)];

impl Backend {
    /// Where mappings may be made now, and of what their addresses and lengths must be a multiple, in bytes.
    pub(super) fn ranges(&self) -> Result<(Vec<IovaRange>, u64)> {
        match self {
            Self::Iommufd(ioas) => {
                let now = ioas.iova_ranges()?;
                Ok((now.ranges, now.alignment))
            }
            Self::Type1(container) => {
                let info = container.info()?;
                let granule = info.granule();
                let untold = || {
                    UNTOLD
                        .iter()
                        .filter_map(|&(start, last)| IovaRange::from_bounds(Iova(start), Iova(last)))
                };
                Ok((info.iova_ranges.unwrap_or_else(|| untold().collect()), granule))
            }
            #[cfg(test)]
            Self::Test(ledger) => ledger.ranges(),
        }
    }

    /// Maps all bytes of `source`.
    pub(super) fn map(&self, source: &Source, range: IovaRange, access: Access) -> Result<Mapped> {
        let placement = Placement::Fixed(range.start());
        match (self, source) {
            (Self::Iommufd(ioas), Source::Memory(memory, part)) => {
                let memory = Arc::clone(memory);
                Ok(Mapped::Iommufd(ioas.map(memory, part.clone(), placement, access)?))
            }
            (Self::Iommufd(ioas), Source::File(file, part)) => Ok(Mapped::Iommufd(ioas.map_file(
                file,
                part.start,
                part.end - part.start,
                placement,
                access,
            )?)),
            (Self::Type1(container), Source::Memory(memory, part)) => {
                let memory = Arc::clone(memory);
                Ok(Mapped::Type1(container.map(
                    memory,
                    part.clone(),
                    range.start(),
                    access,
                )?))
            }
            (Self::Type1(_), Source::File(..)) => Err(Error::Unsupported("type1 maps no files; iommufd does")),
            #[cfg(test)]
            (Self::Test(ledger), source) => Ok(Mapped::Test(ledger.map(source, range, access)?)),
        }
    }

    /// Unmaps everything inside a range at once, and says how many bytes that were.
    pub(super) fn unmap(&self, range: IovaRange) -> Result<u64> {
        match self {
            Self::Iommufd(ioas) => Ok(ioas.unmap(range)?),
            Self::Type1(container) => Ok(container.unmap(range)?),
            #[cfg(test)]
            Self::Test(ledger) => ledger.unmap(range),
        }
    }
}

impl Mapped {
    /// Whether it is still there, or a [`Backend::unmap`], perhaps one that failed, took it away.
    pub(super) fn is_mapped(&self) -> bool {
        match self {
            Self::Iommufd(mapping) => mapping.is_mapped(),
            Self::Type1(mapping) => mapping.is_mapped(),
            #[cfg(test)]
            Self::Test(guard) => guard.is_mapped(),
        }
    }

    /// Undoes it. Any error means that a device may still reach what is there.
    pub(super) fn unmap(self) -> Result<()> {
        match self {
            Self::Iommufd(mapping) => Ok(mapping.unmap()?),
            Self::Type1(mapping) => Ok(mapping.unmap()?),
            #[cfg(test)]
            Self::Test(guard) => guard.unmap(),
        }
    }
}
