//! Who has which pages of a controller memory buffer.

use super::super::regs::{MemoryBufferLocation, MemoryBufferSize};
use crate::{ErrorKind, Registers};
use iommu::Iova;
use iommu::allocator::{IovaAllocator, Request};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_core::IovaRange;

/// A controller's memory buffer, which the controller has been told the address of.
#[derive(Debug)]
pub(crate) struct Buffer {
    registers: Arc<Registers>,
    /// Where the controller finds it.
    pub(super) range: IovaRange,
    pub(super) location: MemoryBufferLocation,
    pub(super) size: MemoryBufferSize,
    free: Mutex<IovaAllocator>,
}

/// Some pages of it, next to each other. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Pages {
    buffer: Arc<Buffer>,
    range: IovaRange,
    /// In the registers.
    start: usize,
    /// As asked for.
    len: usize,
    is_leaked: bool,
}

impl Buffer {
    /// `registers` are all of it, at `range` for the controller, whose pages have `page_bytes`.
    ///
    /// # Errors
    ///
    /// Those of the allocator.
    pub(super) fn new(
        registers: Registers,
        range: IovaRange,
        page_bytes: u64,
        (location, size): (MemoryBufferLocation, MemoryBufferSize),
    ) -> Result<Self, ErrorKind> {
        Ok(Self {
            registers: Arc::new(registers),
            range,
            location,
            size,
            free: Mutex::new(IovaAllocator::new(&[range], page_bytes)?),
        })
    }

    /// Takes pages for `len` bytes, which are at a multiple of a page.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) when so many are not free next to each other; [`Invalid`](ErrorKind::Invalid) of none.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Result<Pages, ErrorKind> {
        let mut free = self.free();
        let request = Request::new(len as u64).aligned_to(free.granule());
        let range = free.allocate(request).map_err(|error| match error {
            iommu::Error::NoSpace { .. } => {
                let there = self.registers.len();
                ErrorKind::Unsupported(
                    format!("{len} bytes next to each other in a controller memory buffer of {there}, of what is free")
                        .into(),
                )
            }
            other => other.into(),
        })?;
        drop(free);
        let start = range.start().offset_from(self.range.start());
        Ok(Pages {
            buffer: Arc::clone(self),
            range,
            start: start
                .and_then(|start| usize::try_from(start).ok())
                .unwrap_or(usize::MAX),
            len,
            is_leaked: false,
        })
    }

    /// Whether submission queues may be in it (CMBSZ.SQS).
    pub(crate) fn takes_submission_queues(&self) -> bool {
        self.size.submission_queues()
    }

    fn free(&self) -> MutexGuard<'_, IovaAllocator> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// Where the controller finds them.
    pub(crate) fn iova(&self) -> Iova {
        self.range.start()
    }

    pub(super) fn size(&self) -> MemoryBufferSize {
        self.buffer.size
    }

    /// Writes a word at an offset in bytes, a multiple of 8; `None` outside.
    #[inline]
    pub(crate) fn write_u64(&self, offset: usize, value: u64) -> Option<()> {
        self.buffer.registers.write_u64(self.place(offset, 8)?, value)
    }

    pub(super) fn write_u8(&self, offset: usize, value: u8) -> Option<()> {
        self.buffer.registers.write_u8(self.place(offset, 1)?, value)
    }

    pub(super) fn read_u64(&self, offset: usize) -> Option<u64> {
        self.buffer.registers.read_u64(self.place(offset, 8)?)
    }

    pub(super) fn read_u8(&self, offset: usize) -> Option<u8> {
        self.buffer.registers.read_u8(self.place(offset, 1)?)
    }

    #[inline]
    fn place(&self, offset: usize, width: usize) -> Option<usize> {
        let is_inside = offset.checked_add(width)? <= self.len;
        is_inside.then(|| self.start.checked_add(offset)).flatten()
    }

    /// Never gives them back: the controller may still reach them.
    pub(crate) fn leak(mut self) {
        self.is_leaked = true;
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.is_leaked {
            return;
        }
        if let Err(error) = self.buffer.free().release(self.range) {
            tracing::error!(range = %self.range, %error, "pages of the controller memory buffer could not be given back");
        }
    }
}
