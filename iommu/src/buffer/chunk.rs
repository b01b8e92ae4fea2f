//! Large pieces of mapped memory that buffers are cut from.

use crate::space::{AddressSpace, DmaMapping, MapOptions};
use crate::{Error, Iova, Result, prefault};
use pci::{Bdf, Sysfs};
use std::num::NonZeroUsize;
use std::sync::Arc;
use vfio_core::{Access, Memory, MemoryOptions, NumaNode, PageSize};

/// What memory buffers are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferOptions {
    /// The largest pages to try. Smaller ones follow when there are none: 1 GiB, 2 MiB, transparent, base pages.
    pub pages: PageSize,
    /// The NUMA node to take the memory from ([`MemoryOptions::numa_node`]): best the device's own.
    pub numa_node: Option<NumaNode>,
    /// Address bits of the device: 64 by default, which no kernel interface tells better. What its IOMMU translates narrows the space by itself
    /// when it is attached.
    pub width: u32,
    /// Threads that zero the pages before they are mapped.
    pub threads: NonZeroUsize,
}

impl BufferOptions {
    /// With memory from the node that a function is attached to, if the firmware tells which that is.
    ///
    /// # Errors
    ///
    /// Those of [`NumaNode::of`].
    pub fn near(self, sysfs: &Sysfs, bdf: Bdf) -> Result<Self> {
        let numa_node = NumaNode::of(sysfs, bdf)?;
        Ok(Self { numa_node, ..self })
    }
}

impl Default for BufferOptions {
    fn default() -> Self {
        Self {
            pages: PageSize::Huge1G,
            numa_node: None,
            width: u64::BITS,
            threads: NonZeroUsize::MIN,
        }
    }
}

/// Memory with one IOVA range, present and mapped as long as it lives.
#[derive(Debug)]
pub(crate) struct Chunk {
    // Unmapped before the memory can go.
    mapping: DmaMapping,
    memory: Arc<Memory>,
    pages: PageSize,
}

impl Chunk {
    /// At least `len` bytes, on the largest pages that there are.
    pub(crate) fn new(space: &AddressSpace, len: usize, access: Access, options: &BufferOptions) -> Result<Self> {
        let (memory, pages) = memory(len, options)?;
        let memory = Arc::new(memory);
        // Devices find everything in it at multiples of its size, wherever the process has the memory.
        let alignment = memory.len().next_power_of_two().min(PageSize::Huge1G.bytes()) as u64;
        let wish = MapOptions::new(access).within(options.width).aligned_to(alignment);
        let mapping = space.map(&memory, 0..memory.len(), wish)?;
        Ok(Self { mapping, memory, pages })
    }

    #[inline]
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// IOVA of a byte.
    #[inline]
    pub(crate) fn iova(&self, offset: usize) -> Iova {
        let start = self.mapping.iova();
        // The range ends inside the address space, and the offset inside the range.
        start.checked_add(offset as u64).unwrap_or(start)
    }

    /// The pages it is on, as the kernel says.
    pub(crate) fn pages(&self) -> PageSize {
        self.pages
    }
}

/// Populated memory, and the pages it is on.
fn memory(len: usize, options: &BufferOptions) -> Result<(Memory, PageSize)> {
    let ladder = [
        PageSize::Huge1G,
        PageSize::Huge2M,
        PageSize::Transparent,
        PageSize::Base,
    ];
    // Rounding a small chunk up to a huge page would waste most of the page.
    let fits = |pages: PageSize| match pages {
        PageSize::Huge1G | PageSize::Huge2M => len.is_multiple_of(pages.bytes()),
        _ => true,
    };
    let mut last_error = Error::Invalid("no pages of any size were tried");
    for pages in ladder
        .into_iter()
        .filter(|&pages| pages <= options.pages && fits(pages))
    {
        let wanted = MemoryOptions {
            pages,
            numa_node: options.numa_node,
            ..MemoryOptions::default()
        };
        let populated = Memory::new(len, wanted).map_err(Error::from).and_then(|memory| {
            prefault::populate(&memory, 0..memory.len(), options.threads, |_, _| ())?;
            Ok(memory)
        });
        match populated {
            Ok(memory) => {
                // Without /proc it is what was asked for.
                let got = if pages == PageSize::Transparent {
                    memory.page_size().unwrap_or(PageSize::Base)
                } else {
                    pages
                };
                return Ok((memory, got));
            }
            Err(error) => {
                tracing::debug!(?pages, len, %error, "no memory on these pages");
                last_error = error;
            }
        }
    }
    Err(last_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_do_not_exist_are_replaced_by_smaller_ones() {
        let options = BufferOptions::default();
        // Whether the machine has huge pages set aside does not matter: some rung of the ladder holds.
        let (got, pages) = memory(2 << 20, &options).unwrap();
        assert_eq!(got.len(), 2 << 20);
        assert!(pages <= PageSize::Huge2M, "2 MiB do not fill a page of 1 GiB");
        let small = BufferOptions {
            pages: PageSize::Base,
            ..options
        };
        assert_eq!(memory(4096, &small).unwrap().1, PageSize::Base);
    }

    #[test]
    fn a_numa_node_that_cannot_be_is_an_error() {
        let options = BufferOptions {
            numa_node: Some(NumaNode(900)),
            ..BufferOptions::default()
        };
        assert!(memory(4096, &options).is_err());
    }
}
