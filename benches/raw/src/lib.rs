//! Mapping memory for devices by bare calls to the kernel, and by other crates: what ours is measured against; and the one call by which a
//! controller that the kernel drives is told to make those of its virtual functions ready ([`Manage`]).
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
mod nvme;
mod peer;

pub use bare::{Container, Copy, Ioas, IoasFile};
pub use nvme::{Manage, Resource};
pub use peer::{IommufdIoctls, VfioIoctls};

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use vfio_core::{Iova, Memory, StableMemory as _};

/// Something that maps memory where it is told, for reading and writing. Only this crate has some.
pub trait Table: sealed::Calls + Debug + Send + Sync {}

pub(crate) mod sealed {
    use std::io;
    use std::sync::Arc;
    use vfio_core::Memory;

    /// The two calls.
    pub trait Calls {
        /// Maps `len` bytes.
        ///
        /// # Safety
        ///
        /// The bytes at `address` are mapped in this process, are no Rust value, and stay until they are unmapped. They are of
        /// [`memory`](Self::memory), where there is one.
        unsafe fn map(&self, address: u64, len: u64, iova: u64) -> io::Result<()>;

        /// Unmaps exactly these, and returns how many bytes that were.
        fn unmap(&self, iova: u64, len: u64) -> io::Result<u64>;

        /// The only memory that it maps, if it does not map any that it is given.
        fn memory(&self) -> Option<&Arc<Memory>> {
            None
        }
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
    /// Nothing is mapped yet. `None` for a part outside the memory, and for memory that the table does not map.
    #[must_use]
    pub fn new(table: &Arc<dyn Table>, memory: &Arc<Memory>, part: Range<usize>, iova: Iova) -> Option<Self> {
        let is_inside = part.start < part.end && part.end <= memory.len();
        let is_its = table.memory().is_none_or(|only| Arc::ptr_eq(only, memory));
        (is_inside && is_its).then(|| Self {
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
        // SAFETY: bytes of a `Memory`, the table's own where it has one, which is held until they are unmapped, or for ever.
        unsafe { self.table.map(self.address, self.len, self.iova) }?;
        self.is_mapped = true;
        Ok(())
    }

    /// Unmaps it.
    ///
    /// # Errors
    ///
    /// Those of the kernel, [`NotFound`](io::ErrorKind::NotFound) when it is not mapped: what is there is somebody else's; and
    /// [`Other`](io::ErrorKind::Other) when less was unmapped.
    #[inline]
    pub fn unmap(&mut self) -> io::Result<()> {
        if !self.is_mapped {
            return Err(io::ErrorKind::NotFound.into());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use vfio_core::MemoryOptions;

    /// Maps nothing, of this memory if it is given one, and counts what is unmapped.
    #[derive(Debug)]
    struct Nothing(Option<Arc<Memory>>, AtomicU64);

    impl sealed::Calls for Nothing {
        unsafe fn map(&self, _: u64, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn unmap(&self, _: u64, len: u64) -> io::Result<u64> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(len)
        }

        fn memory(&self) -> Option<&Arc<Memory>> {
            self.0.as_ref()
        }
    }

    impl Table for Nothing {}

    fn memory() -> Arc<Memory> {
        Arc::new(Memory::new(8192, MemoryOptions::default()).unwrap())
    }

    #[test]
    fn a_place_holds_what_its_table_maps() {
        let [one, other] = [memory(), memory()];
        let of = |only: Option<&Arc<Memory>>, memory| {
            let table: Arc<dyn Table> = Arc::new(Nothing(only.cloned(), AtomicU64::new(0)));
            Place::new(&table, memory, 0..4096, Iova(0)).is_some()
        };
        assert!(of(None, &one) && of(Some(&one), &one));
        assert!(!of(Some(&one), &other));
    }

    #[test]
    fn what_was_not_mapped_is_not_unmapped() {
        let nothing = Arc::new(Nothing(None, AtomicU64::new(0)));
        let table: Arc<dyn Table> = Arc::<Nothing>::clone(&nothing);
        let mut place = Place::new(&table, &memory(), 0..8192, Iova(0)).unwrap();
        assert_eq!(place.unmap().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(nothing.1.load(Ordering::Relaxed), 0);
        place.map().unwrap();
        drop(place);
        assert_eq!(nothing.1.load(Ordering::Relaxed), 1);
    }
}
