//! Memory that a queue and a controller share: entries and lists.

use crate::ErrorKind;
use iommu::Iova;
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::space::AddressSpace;
use std::sync::atomic::AtomicU64;
use vfio_core::Words;

/// Zeroed words, contiguous for the controller and at a multiple of its page.
#[derive(Debug)]
pub(crate) struct Memory {
    words: Words,
    iova: Iova,
    /// `None` once it is never given back.
    buffer: Option<DmaBuffer<Both>>,
}

impl Memory {
    /// At least `len` bytes. `page_bytes` is the controller's page, a power of two.
    ///
    /// # Errors
    ///
    /// Those of memory.
    pub(crate) fn new(space: &AddressSpace, page_bytes: u64, len: usize) -> Result<Self, ErrorKind> {
        // A mapping lies at a multiple of its length, rounded up to a power of two.
        let len = usize::try_from(page_bytes)
            .ok()
            .and_then(|page| len.max(1).checked_next_multiple_of(page))
            .ok_or(ErrorKind::Invalid("the length overflows".into()))?;
        let buffer = DmaBuffer::new(space, len, &BufferOptions::default())?;
        let words = buffer.words();
        let words = words.ok_or(ErrorKind::Invalid("memory off the alignment of words".into()))?;
        Ok(Self {
            words,
            iova: buffer.iova(),
            buffer: Some(buffer),
        })
    }

    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    #[inline]
    pub(crate) fn iova(&self) -> Iova {
        self.iova
    }

    /// Never gives it back: a controller may still reach it.
    pub(crate) fn leak(&mut self) {
        std::mem::forget(self.buffer.take());
    }
}
