//! Memory of the caller's that a controller reaches: data goes where the caller has it, without a copy.

use super::payload::{Payload, Piece};
use crate::{Error, Result};
use iommu::Iova;
use iommu::space::{AddressSpace, DmaMapping, MapOptions};
use std::ops::Range;
use std::sync::Arc;
use vfio_core::{Access, StableMemory};

/// Memory that was mapped once, and whose parts are payloads. Cheap to clone; stays mapped until the last clone and part have gone.
#[derive(Debug, Clone)]
pub struct Registered(Arc<Region>);

#[derive(Debug)]
struct Region {
    // Unmapped before the memory can go.
    mapping: DmaMapping,
    memory: Arc<dyn StableMemory>,
}

/// A part of registered memory, as a payload.
#[derive(Debug)]
pub struct Part {
    iova: Iova,
    len: u64,
    access: Access,
    region: Arc<Region>,
    start: usize,
}

impl Registered {
    /// Maps memory, of whole pages, for every controller of `space`.
    ///
    /// # Errors
    ///
    /// Those of [`AddressSpace::map_unowned`].
    pub fn new(space: &AddressSpace, memory: Arc<dyn StableMemory>, access: Access) -> Result<Self> {
        let part = 0..memory.len();
        let mapping = space.map_unowned(Arc::clone(&memory), part, MapOptions::new(access));
        let mapping = mapping.map_err(|error| Error::new(None, "register memory", error.into()))?;
        Ok(Self(Arc::new(Region { mapping, memory })))
    }

    /// A part by its place in the memory, at least a byte; `None` outside.
    #[must_use]
    pub fn part(&self, part: Range<usize>) -> Option<Part> {
        let len = part.end.checked_sub(part.start).filter(|&len| len != 0)?;
        if part.end > self.0.memory.len() {
            return None;
        }
        Some(Part {
            iova: self.0.mapping.iova().checked_add(part.start as u64)?,
            len: len as u64,
            access: self.0.mapping.access(),
            region: Arc::clone(&self.0),
            start: part.start,
        })
    }

    /// A part by its address in this process; `None` outside.
    #[must_use]
    pub fn part_at(&self, address: usize, len: usize) -> Option<Part> {
        let start = address.checked_sub(self.0.memory.address().addr())?;
        self.part(start..start.checked_add(len)?)
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn StableMemory> {
        &self.0.memory
    }
}

impl Part {
    /// Its place in the memory.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        self.start..self.start.saturating_add(len)
    }

    /// Where the controller finds it.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// The memory it is a part of.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn StableMemory> {
        &self.region.memory
    }
}

impl Payload for Part {
    #[inline]
    fn len(&self) -> u64 {
        self.len
    }

    #[inline]
    fn access(&self) -> Access {
        self.access
    }

    #[inline]
    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        (index == 0).then_some((self.iova, self.len))
    }
}

impl Piece for Part {}

impl From<Part> for Registered {
    fn from(part: Part) -> Self {
        Self(part.region)
    }
}
