//! Who maps.

use anyhow::{Context, Result};
use iommu::space::{AddressSpace, DmaMapping, MapOptions};
use raw_calls::{Place, Table};
use std::sync::Arc;
use vfio_core::{Iova, Memory};

/// Maps a piece of memory and unmaps it.
pub(super) trait Way: Send {
    fn name(&self) -> &'static str;
    /// Whether a failure of it is a failure of the whole.
    fn is_ours(&self) -> bool;
    fn map(&mut self) -> Result<()>;
    fn unmap(&mut self) -> Result<()>;
}

/// Ours: an address space.
pub(super) struct Ours {
    name: &'static str,
    space: AddressSpace,
    memory: Arc<Memory>,
    is_file: bool,
    options: MapOptions,
    mapping: Option<DmaMapping>,
}

impl Ours {
    pub(super) fn new(
        name: &'static str,
        space: &AddressSpace,
        memory: &Arc<Memory>,
        is_file: bool,
        options: MapOptions,
    ) -> Self {
        Self {
            name,
            space: space.clone(),
            memory: Arc::clone(memory),
            is_file,
            options,
            mapping: None,
        }
    }
}

impl Way for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_ours(&self) -> bool {
        true
    }

    #[inline]
    fn map(&mut self) -> Result<()> {
        let part = 0..self.memory.len();
        let mapping = if self.is_file {
            self.space.map_shared(&self.memory, part, self.options)
        } else {
            self.space.map(&self.memory, part, self.options)
        };
        self.mapping = Some(mapping?);
        Ok(())
    }

    #[inline]
    fn unmap(&mut self) -> Result<()> {
        match self.mapping.take() {
            Some(mapping) => Ok(mapping.unmap()?),
            None => Ok(()),
        }
    }
}

/// Calls without anything around them, and others'.
pub(super) struct Bare {
    name: &'static str,
    place: Place,
}

impl Bare {
    pub(super) fn new(name: &'static str, table: &Arc<dyn Table>, memory: &Arc<Memory>, iova: Iova) -> Result<Self> {
        let place = Place::new(table, memory, 0..memory.len(), iova).context("memory of no bytes")?;
        Ok(Self { name, place })
    }
}

impl Way for Bare {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_ours(&self) -> bool {
        false
    }

    #[inline]
    fn map(&mut self) -> Result<()> {
        Ok(self.place.map()?)
    }

    #[inline]
    fn unmap(&mut self) -> Result<()> {
        Ok(self.place.unmap()?)
    }
}
