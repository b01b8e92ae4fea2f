//! What a space asks of the kernel's two interfaces.

use super::map::in_memory;
use crate::{Error, Iova, Result};
use std::fmt::Debug;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vfio_core::iommufd::{Ioas, Mapping, Placement};
use vfio_core::{Access, Container, IovaRange, LegacyMapping, StableMemory};

/// One of the kernel's interfaces. Mappings are made where it is told; it chooses nothing.
pub(crate) trait Backend: Debug + Send + Sync {
    /// Where mappings may be made now, and of what their addresses and lengths must be a multiple, in bytes.
    fn ranges(&self) -> Result<(Vec<IovaRange>, u64)>;
    /// Maps all bytes of `source`.
    fn map(&self, source: &Source, range: IovaRange, access: Access) -> Result<Box<dyn Mapped>>;
    /// Unmaps everything inside a range at once, and says how many bytes that were.
    fn unmap(&self, range: IovaRange) -> Result<u64>;
}

/// A mapping, undone when dropped.
pub(crate) trait Mapped: Debug + Send + Sync {
    /// Whether it is still there, or a [`Backend::unmap`], perhaps one that failed, took it away.
    fn is_mapped(&self) -> bool;
    /// Undoes it. Any error means that a device may still reach what is there.
    fn unmap(self: Box<Self>) -> Result<()>;
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

impl Backend for Ioas {
    fn ranges(&self) -> Result<(Vec<IovaRange>, u64)> {
        let now = self.iova_ranges()?;
        Ok((now.ranges, now.alignment))
    }

    fn map(&self, source: &Source, range: IovaRange, access: Access) -> Result<Box<dyn Mapped>> {
        let placement = Placement::Fixed(range.start());
        let mapping = match source {
            Source::Memory(memory, part) => Self::map(self, Arc::clone(memory), part.clone(), placement, access),
            Source::File(file, part) => self.map_file(file, part.start, part.end - part.start, placement, access),
        };
        Ok(Box::new(mapping?))
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        Ok(Self::unmap(self, range)?)
    }
}

impl Mapped for Mapping {
    fn is_mapped(&self) -> bool {
        Self::is_mapped(self)
    }

    fn unmap(self: Box<Self>) -> Result<()> {
        Ok(Self::unmap(*self)?)
    }
}

/// What a kernel before Linux 5.10 allows without telling: what the narrowest IOMMU of servers translates, less the MSI window of x86.
const UNTOLD: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)];

impl Backend for Container {
    fn ranges(&self) -> Result<(Vec<IovaRange>, u64)> {
        let info = self.info()?;
        let granule = info.granule();
        let untold = || {
            UNTOLD
                .iter()
                .filter_map(|&(start, last)| IovaRange::from_bounds(Iova(start), Iova(last)))
        };
        Ok((info.iova_ranges.unwrap_or_else(|| untold().collect()), granule))
    }

    fn map(&self, source: &Source, range: IovaRange, access: Access) -> Result<Box<dyn Mapped>> {
        match source {
            Source::Memory(memory, part) => Ok(Box::new(Self::map(
                self,
                Arc::clone(memory),
                part.clone(),
                range.start(),
                access,
            )?)),
            Source::File(..) => Err(Error::Unsupported("type1 maps no files; iommufd does")),
        }
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        Ok(Self::unmap(self, range)?)
    }
}

impl Mapped for LegacyMapping {
    fn is_mapped(&self) -> bool {
        Self::is_mapped(self)
    }

    fn unmap(self: Box<Self>) -> Result<()> {
        Ok(Self::unmap(*self)?)
    }
}
