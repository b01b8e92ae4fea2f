//! Mapping memory for devices by bare calls to the kernel, and by other crates: what ours is measured against.
//!
//! A [`Place`] is a part of memory and where a [`Table`] maps it. It holds the memory as long as that is mapped, so that none of this can
//! let a device reach memory of somebody else; beyond that it does nothing, because what it does is measured. The mapping is known to nobody
//! else: whoever chooses the place sees that nothing else is mapped there.
#![expect(
    unsafe_code,
    reason = "what is measured is what others do: calls that take addresses, with nothing around them"
)]

mod bare;
mod ioctl;
mod peer;

pub use bare::{Container, Copy, Ioas, IoasFile};
pub use peer::{IommufdIoctls, VfioIoctlsContainer, VfioIoctlsIommufd};

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use vfio_core::{Iova, Memory, StableMemory as _};

/// Something that maps memory where it is told, for reading and writing. Only this crate has some.
pub trait Table: sealed::Calls + Debug + Send + Sync {}

pub(crate) mod sealed {
    use std::io;

    /// The two calls.
    pub trait Calls {
        /// Maps `len` bytes.
        ///
        /// # Safety
        ///
        /// The bytes at `address` are mapped in this process, are no Rust value, and stay until they are unmapped.
        unsafe fn map(&self, address: u64, len: u64, iova: u64) -> io::Result<()>;

        /// Unmaps exactly these, and returns how many bytes that were.
        fn unmap(&self, iova: u64, len: u64) -> io::Result<u64>;
    }
}

/// A part of memory, and where it is mapped.
#[derive(Debug)]
pub struct Place {
    table: Arc<dyn Table>,
    memory: Arc<Memory>,
    address: u64,
    len: u64,
    iova: u64,
    is_mapped: bool,
}

impl Place {
    /// Nothing is mapped yet. `None` for a part outside the memory.
    #[must_use]
    pub fn new(table: &Arc<dyn Table>, memory: &Arc<Memory>, part: Range<usize>, iova: Iova) -> Option<Self> {
        let is_inside = part.start < part.end && part.end <= memory.len();
        is_inside.then(|| Self {
            table: Arc::clone(table),
            memory: Arc::clone(memory),
            address: (memory.address().expose_provenance() + part.start) as u64,
            len: part.len() as u64,
            iova: iova.0,
            is_mapped: false,
        })
    }

    /// Maps it.
    ///
    /// # Errors
    ///
    /// Those of the kernel; EEXIST when it is mapped already.
    #[inline]
    pub fn map(&mut self) -> io::Result<()> {
        // SAFETY: bytes of a `Memory`, which is held until they are unmapped, or for ever.
        unsafe { self.table.map(self.address, self.len, self.iova) }?;
        self.is_mapped = true;
        Ok(())
    }

    /// Unmaps it.
    ///
    /// # Errors
    ///
    /// Those of the kernel, and [`Other`](io::ErrorKind::Other) when less was unmapped.
    #[inline]
    pub fn unmap(&mut self) -> io::Result<()> {
        if self.table.unmap(self.iova, self.len)? != self.len {
            return Err(io::Error::other("less was unmapped than was mapped"));
        }
        self.is_mapped = false;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_mapped && self.unmap().is_err() {
            // A device may still reach it.
            std::mem::forget(Arc::clone(&self.memory));
        }
    }
}
