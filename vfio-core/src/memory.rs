//! Memory that a device may reach.
//!
//! [`Memory`] is a mapping of its own, anonymous or shared (memfd), on base or huge pages. It is read and written by copy or
//! through atomics: a device may change it at any time, so no reference to its bytes ever exists.

use crate::sys::mem;
use crate::{Error, ErrorKind};
use rustix::io::Errno;
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Memory that stays where it is, and stays mapped, as long as the value lives.
///
/// # Safety
///
/// [`address`](Self::address) and [`len`](Self::len) never change, and the bytes they describe stay mapped in this process until the
/// value is dropped. No reference to these bytes exists meanwhile except to atomics: a device may read and write them at any time.
#[expect(unsafe_code, reason = "the promise that mapping code rests on")]
pub unsafe trait StableMemory: fmt::Debug + Send + Sync {
    /// Address of the first byte in this process.
    fn address(&self) -> *mut u8;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// Whether there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

bitflags::bitflags! {
    /// What a device may do with mapped memory.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Access: u32 {
        /// The device may read.
        const READ = 1;
        /// The device may write.
        const WRITE = 2;
    }
}

/// Where the pages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Backing {
    /// Private to the process.
    #[default]
    Anonymous,
    /// A memfd: can be mapped by other processes and mapped into an IOAS by file (`IOMMU_IOAS_MAP_FILE`).
    Shared,
}

/// Size of the pages that memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum PageSize {
    /// The kernel's base pages, 4 KiB on x86-64.
    #[default]
    Base,
    /// Base pages that the kernel may join to 2 MiB (`MADV_HUGEPAGE`).
    Transparent,
    /// Reserved pages of 2 MiB (hugetlb).
    Huge2M,
    /// Reserved pages of 1 GiB (hugetlb).
    Huge1G,
}

/// What memory to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MemoryOptions {
    /// Where the pages come from.
    pub backing: Backing,
    /// Their size; memory on other pages is an error, never a silent choice.
    pub pages: PageSize,
    /// The NUMA node that they must come from (`MPOL_BIND`).
    pub numa_node: Option<u32>,
}

/// A mapping of the process's own. Unmapped when dropped.
pub struct Memory {
    map: mem::Map,
    options: MemoryOptions,
}

impl Memory {
    /// Maps `len` bytes, rounded up to whole pages. The pages are zero, and come into being when they are first touched
    /// ([`populate`](Self::populate)).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a length of 0 or one that is too large; the kernel's errno when there are no (huge) pages left.
    pub fn new(len: usize, options: MemoryOptions) -> Result<Self, Error> {
        if len == 0 {
            return Err(Error::new("mmap", ErrorKind::Invalid("memory of no bytes")));
        }
        let page = options.pages.bytes();
        let rounded = len.checked_next_multiple_of(page);
        let len = rounded.ok_or_else(|| Error::new("mmap", ErrorKind::Invalid("length overflows")))?;
        let map = mem::Map::new(len, &options).map_err(|errno| Error::new("mmap", ErrorKind::from_errno(errno)))?;
        Ok(Self { map, options })
    }

    /// What it was made of.
    #[must_use]
    pub fn options(&self) -> &MemoryOptions {
        &self.options
    }

    /// Length in bytes, a multiple of the page size.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Never: there is no memory of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The memfd, of memory that is [`Backing::Shared`].
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.map.file().map(AsFd::as_fd)
    }

    /// Makes the pages of a part present and zeroed, writable at once (`MADV_POPULATE_WRITE`, Linux 5.14).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] outside the memory; ENOMEM or EFAULT when there are no pages left.
    pub fn populate(&self, part: Range<usize>) -> Result<(), Error> {
        let outside = || Error::new("madvise", ErrorKind::Invalid("part lies outside the memory"));
        let len = part.end.checked_sub(part.start).ok_or_else(outside)?;
        if !self.covers(part.start, len) {
            return Err(outside());
        }
        let fail = |errno| Error::new("madvise MADV_POPULATE_WRITE", ErrorKind::from_errno(errno));
        self.map.populate(part).map_err(fail)
    }

    /// Copies from memory into `to`; `None` outside the memory. The order in which bytes are read is not defined: use an atomic for what a device
    /// signals with.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Option<()> {
        self.covers(offset, to.len()).then(|| self.map.read(offset, to))
    }

    /// Copies `from` into memory; `None` outside the memory.
    pub fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        self.covers(offset, from.len()).then(|| self.map.write(offset, from))
    }

    /// Sets `len` bytes; `None` outside the memory.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Option<()> {
        self.covers(offset, len).then(|| self.map.fill(offset, len, byte))
    }

    /// Reads a value of plain bytes; `None` outside the memory.
    #[must_use]
    pub fn read_value<T: FromBytes + IntoBytes>(&self, offset: usize) -> Option<T> {
        let mut value = T::new_zeroed();
        self.read(offset, value.as_mut_bytes())?;
        Some(value)
    }

    /// Writes a value of plain bytes; `None` outside the memory.
    pub fn write_value<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) -> Option<()> {
        self.write(offset, value.as_bytes())
    }

    /// A byte shared with devices; `None` outside the memory.
    #[must_use]
    pub fn atomic_u8(&self, offset: usize) -> Option<&AtomicU8> {
        self.covers(offset, 1).then(|| self.map.atomic_u8(offset))
    }

    /// Two bytes shared with devices, in the CPU's order; `None` outside the memory or off their alignment.
    #[must_use]
    pub fn atomic_u16(&self, offset: usize) -> Option<&AtomicU16> {
        (self.covers(offset, 2) && offset.is_multiple_of(2)).then(|| self.map.atomic_u16(offset))
    }

    /// Four bytes shared with devices, in the CPU's order; `None` outside the memory or off their alignment.
    #[must_use]
    pub fn atomic_u32(&self, offset: usize) -> Option<&AtomicU32> {
        (self.covers(offset, 4) && offset.is_multiple_of(4)).then(|| self.map.atomic_u32(offset))
    }

    /// Eight bytes shared with devices, in the CPU's order; `None` outside the memory or off their alignment.
    #[must_use]
    pub fn atomic_u64(&self, offset: usize) -> Option<&AtomicU64> {
        (self.covers(offset, 8) && offset.is_multiple_of(8)).then(|| self.map.atomic_u64(offset))
    }

    /// The page size that the kernel really uses for the byte at `offset`, as far as `/proc/self/smaps` tells.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] without `/proc`.
    pub fn page_size(&self) -> Result<PageSize, Error> {
        mem::page_size(&self.map).map_err(|errno| Error::new("read /proc/self/smaps", ErrorKind::from_errno(errno)))
    }

    fn covers(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len())
    }
}

impl PageSize {
    /// Its bytes; those of a base page for [`Transparent`](Self::Transparent).
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Base | Self::Transparent => rustix::param::page_size(),
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }
}

// SAFETY: the mapping is made once in `Map::new`, never moved or resized, and unmapped by its drop; `Memory` hands out atomics and copies only.
#[expect(unsafe_code, reason = "the one memory of this crate")]
unsafe impl StableMemory for Memory {
    fn address(&self) -> *mut u8 {
        self.map.address()
    }

    fn len(&self) -> usize {
        self.map.len()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("address", &self.map.address())
            .field("len", &self.map.len())
            .field("options", &self.options)
            .finish()
    }
}

impl From<Errno> for ErrorKind {
    fn from(errno: Errno) -> Self {
        Self::from_errno(errno)
    }
}
