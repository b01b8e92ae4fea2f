//! Memory for DMA: bytes that the process and a device share.
//!
//! A [`DmaBuffer`] has an IOVA for as long as it lives. It comes from a [`DmaPool`](crate::pool::DmaPool), or has a mapping of its own.
//! Its type says which way bytes go, and only what makes sense that way can be called. Bytes are copied in and out; what a device
//! signals with is an atomic.

mod chunk;
mod direction;

pub use chunk::BufferOptions;
pub(crate) use chunk::Chunk;
pub use direction::{Both, DeviceReads, DeviceWrites, Direction, FromDevice, ToDevice};

use crate::pool::Slot;
use crate::space::AddressSpace;
use crate::{Error, Iova, IovaRange, Result};
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use vfio_core::{Memory, PageSize, Words};

/// Bytes with an IOVA. Goes back where it came from when dropped, on any thread.
///
/// The device must be done with it by then: the next user's bytes lie there.
///
/// ```no_run
/// use iommu::buffer::{Both, BufferOptions, DmaBuffer};
/// use iommu::space::AddressSpace;
/// use std::sync::atomic::Ordering;
///
/// fn ring(space: &AddressSpace) -> Result<(), iommu::Error> {
///     let mut ring = DmaBuffer::<Both>::new(space, 64 << 10, &BufferOptions::default())?;
///     println!("64 KiB at {}, contiguous, on pages of {:?}", ring.iova(), ring.pages());
///     let descriptor = ring.write(0, &[0xff; 16]);
///     descriptor.ok_or(iommu::Error::Invalid("a ring of less than a descriptor"))?;
///     if let Some(status) = ring.atomic_u32(12) {
///         while status.load(Ordering::Acquire) & 1 != 0 {} // until the device has changed it
///     }
///     Ok(())
/// }
/// ```
pub struct DmaBuffer<D: Direction> {
    home: Home,
    /// Of its first byte: a driver asks for each packet, and should not have to look at its home for that.
    iova: Iova,
    /// In its chunk.
    offset: usize,
    len: NonZeroUsize,
    direction: PhantomData<D>,
}

/// Where the bytes are.
enum Home {
    /// In a mapping of their own; a box, lest buffers of pools be as large, for they are moved with each packet.
    Own(Box<Chunk>),
    /// In a pool, where they go back to.
    Pool(Slot),
}

/// As many bytes as a buffer can have.
///
/// # Errors
///
/// [`Error::Invalid`] for none.
#[inline]
pub(crate) fn some(len: usize) -> Result<NonZeroUsize> {
    match NonZeroUsize::new(len) {
        Some(len) => Ok(len),
        None => Err(Error::Invalid("a buffer of no bytes")),
    }
}

impl<D: Direction> DmaBuffer<D> {
    /// A buffer with a mapping of its own, contiguous for the device: for rings, and what is too large for a pool. Its bytes are zero.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for no bytes; the errors of memory and of [`AddressSpace::map`].
    pub fn new(space: &AddressSpace, len: usize, options: &BufferOptions) -> Result<Self> {
        let len = some(len)?;
        let chunk = Box::new(Chunk::new(space, len.get(), D::ACCESS, options)?);
        Ok(Self {
            iova: chunk.iova(0),
            home: Home::Own(chunk),
            offset: 0,
            len,
            direction: PhantomData,
        })
    }

    /// The first `len` bytes of a slot of a pool, which is there for devices and in its chunk.
    #[inline]
    pub(crate) fn in_slot(iova: Iova, offset: usize, len: NonZeroUsize, slot: Slot) -> Self {
        Self {
            iova,
            home: Home::Pool(slot),
            offset,
            len,
            direction: PhantomData,
        }
    }

    /// Where the device finds it.
    #[must_use]
    #[inline]
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// All IOVAs of it.
    #[must_use]
    pub fn range(&self) -> IovaRange {
        let start = self.iova();
        IovaRange::new(start, self.len() as u64).unwrap_or(IovaRange::ALL)
    }

    /// Length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Never: there is no buffer of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The pages it lies on, as the kernel says: what was got, not what was asked for.
    #[must_use]
    pub fn pages(&self) -> PageSize {
        self.chunk().pages()
    }

    /// Sets every byte to 0.
    pub fn clear(&mut self) {
        let cleared = self.memory().fill(self.offset, self.len(), 0);
        debug_assert!(cleared.is_some(), "a buffer lies inside its memory");
    }

    #[inline]
    fn chunk(&self) -> &Chunk {
        match &self.home {
            Home::Own(chunk) => chunk,
            Home::Pool(slot) => slot.chunk(),
        }
    }

    #[inline]
    fn memory(&self) -> &Memory {
        self.chunk().memory()
    }

    /// Place in the memory of `len` bytes at `offset`, if they are inside the buffer.
    #[inline]
    fn place(&self, offset: usize, len: usize) -> Option<usize> {
        let end = offset.checked_add(len)?;
        (end <= self.len()).then_some(self.offset + offset)
    }
}

impl<D: DeviceReads> DmaBuffer<D> {
    /// Copies bytes in, for the device; `None` outside the buffer.
    #[must_use = "nothing is copied outside the buffer"]
    pub fn write(&mut self, offset: usize, from: &[u8]) -> Option<()> {
        let place = self.place(offset, from.len())?;
        self.memory().write(place, from)
    }
}

impl<D: DeviceWrites> DmaBuffer<D> {
    /// Copies bytes out; `None` outside the buffer.
    #[must_use = "nothing is copied outside the buffer"]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Option<()> {
        let place = self.place(offset, to.len())?;
        self.memory().read(place, to)
    }
}

/// Words of rings and doorbell records, in the CPU's order; `None` outside the buffer or off their alignment.
impl DmaBuffer<Both> {
    /// One byte.
    #[must_use]
    #[inline]
    pub fn atomic_u8(&self, offset: usize) -> Option<&AtomicU8> {
        let place = self.place(offset, 1)?;
        self.memory().atomic_u8(place)
    }

    /// Two bytes.
    #[must_use]
    #[inline]
    pub fn atomic_u16(&self, offset: usize) -> Option<&AtomicU16> {
        let place = self.place(offset, 2)?;
        self.memory().atomic_u16(place)
    }

    /// Four bytes.
    #[must_use]
    #[inline]
    pub fn atomic_u32(&self, offset: usize) -> Option<&AtomicU32> {
        let place = self.place(offset, 4)?;
        self.memory().atomic_u32(place)
    }

    /// Eight bytes.
    #[must_use]
    #[inline]
    pub fn atomic_u64(&self, offset: usize) -> Option<&AtomicU64> {
        let place = self.place(offset, 8)?;
        self.memory().atomic_u64(place)
    }

    /// All of it, eight bytes each, what is left over not: for rings, without a check for each use. `None` if the buffer begins off their
    /// alignment, which no pool's does. The words hold the memory, but once the buffer is dropped they are its next user's.
    #[must_use]
    pub fn words(&self) -> Option<Words> {
        Words::new(self.chunk().memory(), self.offset, self.len() / 8)
    }
}

impl<D: Direction> Drop for DmaBuffer<D> {
    fn drop(&mut self) {
        if let Home::Pool(slot) = &self.home {
            slot.give_back();
        }
    }
}

impl<D: Direction> fmt::Debug for DmaBuffer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuffer")
            .field("range", &self.range())
            .field("pages", &self.pages())
            .finish()
    }
}
