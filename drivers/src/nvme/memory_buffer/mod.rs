//! The controller memory buffer: memory on the controller's side, for submission queues and for data of commands (Base §8.2.2).
//!
//! The controller decodes its addresses itself, so they are none that memory is mapped at: they lie above all that an IOMMU allows. A queue's
//! entries are stored over the bus then, and fetched without it; which is faster is for a measurement of that controller to say.

mod pages;
mod place;

pub(crate) use pages::{Buffer, Pages};

use super::controller::Controller;
use super::payload::Payload;
use super::regs::MemoryBufferSize;
use super::shared::Admin;
use crate::{Backing, Result};
use iommu::Iova;
use std::ops::Range;
use std::sync::Arc;
use vfio_core::Access;

/// Memory of a controller, or a part of it, as data of its commands. Cheap to clone: clones are the same memory, which is given back when the last
/// of them has gone.
///
/// What it holds is lost in a reset.
#[derive(Debug, Clone)]
pub struct MemoryBuffer {
    pages: Arc<Pages>,
    /// In the pages.
    start: usize,
    len: usize,
}

impl<B: Backing> Controller<B> {
    /// Takes `len` bytes of its memory buffer, which is enabled when something is asked of it first.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) of a controller that has none, only one whose place the host cannot choose (before NVMe
    /// 1.4), or not so much free; [`Failed`](crate::ErrorKind::Failed) when the buffer is not where the controller says, or the controller does not
    /// take its address; those of mapping it.
    pub fn memory_buffer(&self, len: usize) -> Result<MemoryBuffer> {
        let buffer = Admin::memory_buffer(&*self.admin)?;
        let pages = buffer.take(len);
        let pages = pages.map_err(|kind| self.failed("controller memory buffer", kind))?;
        Ok(MemoryBuffer {
            pages: Arc::new(pages),
            start: 0,
            len,
        })
    }
}

fn access(size: MemoryBufferSize) -> Access {
    let mut access = Access::empty();
    access.set(Access::READ, size.write_data());
    access.set(Access::WRITE, size.read_data());
    access
}

impl MemoryBuffer {
    /// A part of it, at a multiple of 8 bytes; `None` outside of it.
    #[must_use]
    pub fn part(&self, part: Range<usize>) -> Option<Self> {
        let len = part.end.checked_sub(part.start)?;
        let is_inside = part.end <= self.len && part.start.is_multiple_of(8);
        is_inside.then(|| Self {
            start: self.start + part.start,
            len,
            ..self.clone()
        })
    }

    /// Copies bytes in from its start, 8 at a time; `None` if they are more than it has. Each access goes over the bus.
    #[must_use = "nothing is copied outside the buffer"]
    pub fn write(&self, from: &[u8]) -> Option<()> {
        if from.len() > self.len {
            return None;
        }
        let mut offset = self.start;
        let mut words = from.chunks_exact(8);
        for word in &mut words {
            self.pages
                .write_u64(offset, u64::from_le_bytes(word.try_into().ok()?))?;
            offset += 8;
        }
        for byte in words.remainder() {
            self.pages.write_u8(offset, *byte)?;
            offset += 1;
        }
        Some(())
    }

    /// Copies bytes out from its start, as [`write`](Self::write) copies them in.
    #[must_use = "nothing is copied outside the buffer"]
    pub fn read(&self, to: &mut [u8]) -> Option<()> {
        if to.len() > self.len {
            return None;
        }
        let mut offset = self.start;
        let mut words = to.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.pages.read_u64(offset)?.to_le_bytes());
            offset += 8;
        }
        for byte in words.into_remainder() {
            *byte = self.pages.read_u8(offset)?;
            offset += 1;
        }
        Some(())
    }
}

impl Payload for MemoryBuffer {
    fn len(&self) -> u64 {
        self.len as u64
    }

    fn access(&self) -> Access {
        access(self.pages.size())
    }

    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        let start = self.pages.iova().checked_add(self.start as u64)?;
        (index == 0).then_some((start, self.len as u64))
    }
}
