//! Registers of a device: mapped, or scripted by the fake machine.
//!
//! A write comes after everything that was written to memory before it, and a read before everything that is read from memory after it
//! ([`fence`]): a doorbell never passes its descriptor.

use super::fence;
use rustix::mm::munmap;
use std::ptr::NonNull;
#[cfg(feature = "fake")]
use std::sync::Arc;

/// A mapped part of a device region. Unmapped when dropped.
#[derive(Debug)]
pub(crate) enum Map {
    /// Memory-mapped: an address and a length in bytes.
    Mapped(Mapped),
    /// Answered by the fake machine.
    #[cfg(feature = "fake")]
    Fake {
        registers: Arc<dyn Registers>,
        base: u64,
        len: usize,
    },
}

/// What answers accesses to a part of a region in the fake machine. Offsets are bytes from the start of the region.
#[cfg(feature = "fake")]
pub(crate) trait Registers: std::fmt::Debug + Send + Sync {
    /// Reads 1, 2, 4 or 8 bytes.
    fn read(&self, offset: u64, width: u32) -> u64;
    /// Writes 1, 2, 4 or 8 bytes.
    fn write(&self, offset: u64, width: u32, value: u64);
}

/// An `mmap` of a device file.
#[derive(Debug)]
pub(crate) struct Mapped {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the value alone, and every access is volatile and of a register's width.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// # Safety
    ///
    /// `base` is a mapping of `len` bytes of a device file that nobody else unmaps.
    pub(crate) unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    pub(crate) fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        if let Err(errno) = unmapped {
            tracing::error!(address = ?self.base, len = self.len, %errno, "munmap of a device region failed");
        }
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        impl Map {
            /// Reads a register. The caller has checked that it lies inside; off its alignment or outside is a bug and panics.
            #[inline]
            pub(crate) fn $read(&self, offset: usize) -> $type {
                match self {
                    Self::Mapped(mapped) => {
                        let register = mapped.at::<$type>(offset);
                        // SAFETY: inside the mapping and aligned, as `at` checked; a device answers with any bits.
                        let value = unsafe { register.read_volatile() };
                        fence::dma_read();
                        <$type>::from_le(value)
                    }
                    #[cfg(feature = "fake")]
                    #[allow(clippy::cast_possible_truncation, reason = "the width was asked for")]
                    #[allow(trivial_numeric_casts, reason = "one of the types is u64")]
                    Self::Fake { registers, base, .. } => {
                        registers.read(base + offset as u64, size_of::<$type>() as u32) as $type
                    }
                }
            }

            /// Writes a register. The caller has checked that it lies inside; off its alignment or outside is a bug and panics.
            #[inline]
            pub(crate) fn $write(&self, offset: usize, value: $type) {
                match self {
                    Self::Mapped(mapped) => {
                        let register = mapped.at::<$type>(offset);
                        fence::dma_write();
                        // SAFETY: inside the mapping and aligned, as `at` checked.
                        unsafe { register.write_volatile(value.to_le()) }
                    }
                    #[cfg(feature = "fake")]
                    #[allow(
                        clippy::cast_possible_truncation,
                        reason = "a register is at most 8 bytes wide"
                    )]
                    Self::Fake { registers, base, .. } => {
                        registers.write(base + offset as u64, size_of::<$type>() as u32, u64::from(value));
                    }
                }
            }
        }
    };
}

access!(read_u8, write_u8, u8);
access!(read_u16, write_u16, u16);
access!(read_u32, write_u32, u32);
access!(read_u64, write_u64, u64);

impl Map {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Mapped(mapped) => mapped.len(),
            #[cfg(feature = "fake")]
            Self::Fake { len, .. } => *len,
        }
    }

    /// Address in this process, where there is one.
    pub(crate) fn address(&self) -> Option<*mut u8> {
        match self {
            Self::Mapped(mapped) => Some(mapped.address()),
            #[cfg(feature = "fake")]
            Self::Fake { .. } => None,
        }
    }
}

impl Mapped {
    #[inline]
    fn at<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        assert!(
            offset.is_multiple_of(size) && offset <= self.len && size <= self.len - offset,
            "a register outside its map, or off its alignment"
        );
        // SAFETY: inside the mapping, as just checked.
        let address = unsafe { self.base.as_ptr().add(offset) };
        address.cast()
    }
}

/// Memory of our own in place of registers.
#[cfg(test)]
pub(crate) fn anonymous(len: usize) -> Map {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) }.unwrap();
    // SAFETY: the mapping was just made, and nobody else unmaps it.
    Map::Mapped(unsafe { Mapped::new(NonNull::new(base.cast()).unwrap(), len) })
}
