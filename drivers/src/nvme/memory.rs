//! Memory that a queue and a controller share: entries and lists.

use super::memory_buffer::Pages;
use crate::ErrorKind;
use iommu::Iova;
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::space::AddressSpace;
use std::sync::atomic::AtomicU64;
use vfio_core::Words;

/// Words that are contiguous for the controller, at a multiple of its page.
#[derive(Debug)]
pub(crate) struct Memory {
    /// None of the controller's own memory, which is not ours to see as words.
    words: Words,
    iova: Iova,
    /// `None` once it is never given back.
    held: Option<Held>,
}

/// Whose memory it is.
#[derive(Debug)]
enum Held {
    Host(DmaBuffer<Both>),
    Controller(Pages),
}

impl Memory {
    /// At least `len` bytes, zeroed. `page_bytes` is the controller's page, a power of two.
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
            held: Some(Held::Host(buffer)),
        })
    }

    /// Pages of the controller memory buffer: only [written](Self::write), and it has no [words](Self::words).
    pub(crate) fn of_controller(pages: Pages) -> Self {
        Self {
            words: Words::default(),
            iova: pages.iova(),
            held: Some(Held::Controller(pages)),
        }
    }

    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    #[inline]
    pub(crate) fn iova(&self) -> Iova {
        self.iova
    }

    /// Writes words, little-endian, over the bus, to the controller's pages. They come before a doorbell that is rung after them: the CPU keeps the
    /// order of writes to uncached and to other memory, and on the bus neither the write of a register nor the answer to a controller that reads
    /// its doorbell in memory passes them (PCIe 6.0 §2.4.1).
    ///
    /// Apart from the code around it, which is that of words in memory: beside eight writes over the bus a call is nothing.
    #[cold]
    pub(crate) fn write(&self, first: usize, words: impl IntoIterator<Item = u64>) {
        let Some(Held::Controller(pages)) = &self.held else {
            return;
        };
        for (index, word) in (first..).zip(words) {
            let written = pages.write_u64(index * 8, word);
            debug_assert!(written.is_some(), "inside, as the ring has it");
        }
    }

    /// Never gives it back: a controller may still reach it.
    pub(crate) fn leak(&mut self) {
        match self.held.take() {
            Some(Held::Host(buffer)) => std::mem::forget(buffer),
            Some(Held::Controller(pages)) => pages.leak(),
            None => {}
        }
    }
}
