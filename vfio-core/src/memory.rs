//! Memory that a device may reach.
//!
//! [`Memory`] is a mapping of its own, anonymous or shared (memfd), on base or huge pages. It is read and written by copy or
//! through atomics: a device may change it at any time, so no reference to its bytes ever exists.

use crate::sys::mem;
use crate::{Error, ErrorKind};
use pci::{Bdf, Sysfs};
use rustix::io::Errno;
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub use crate::sys::mem::StableMemory;

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
    /// Base pages that the kernel may join to 2 MiB (`MADV_HUGEPAGE`); the memory is aligned for it.
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
    /// The NUMA node that they come from as long as it has any (`MPOL_PREFERRED`).
    pub numa_node: Option<NumaNode>,
}

/// A NUMA node, by the kernel's number (`/sys/devices/system/node/nodeN`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumaNode(pub u32);

impl NumaNode {
    /// The node that a PCI function is attached to, from its `numa_node` in `/sys`: memory of this node is the nearest. `None` where the
    /// firmware does not tell (-1), as on machines with one node.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a function that is not there; [`ErrorKind::Malformed`].
    pub fn of(sysfs: &Sysfs, bdf: Bdf) -> Result<Option<Self>, Error> {
        let path = format!("sys/bus/pci/devices/{bdf}/numa_node");
        let failed = |kind| Error::new(format!("read /{path}"), kind).on(bdf);
        let text = sysfs
            .read(&path)
            .map_err(|_unread| failed(ErrorKind::NotFound(Errno::NOENT)))?;
        match text.parse::<i32>() {
            Ok(-1) => Ok(None),
            Ok(node) if node >= 0 => Ok(Some(Self(node.unsigned_abs()))),
            _ => Err(failed(ErrorKind::Malformed("not the number of a NUMA node"))),
        }
    }
}

/// A mapping of the process's own. Unmapped when dropped.
pub struct Memory {
    map: mem::Map,
    options: MemoryOptions,
}

impl Memory {
    /// Maps `len` bytes, rounded up to whole pages. The pages are zero, and come into being when they are first touched
    /// ([`populate`](Self::populate)). From 2 MiB on it begins at a multiple of 2 MiB; shared memory may not where
    /// other threads keep mapping at the places found for it.
    ///
    /// A page that is not there to be had then ends the process with SIGBUS, whoever touches it. Reserved pages (hugetlb) are set apart here, and still may
    /// not be had: the control group's limit for them counts when they are touched. Populated memory is safe from that, and populating it tells by
    /// an error.
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

    /// The memfd, of memory that is [`Backing::Shared`]. Sealed against shrinking and growing.
    ///
    /// Whoever has it may still punch holes (`fallocate(2)`): what was there reads as zeros, while devices keep the pages that they had; where pages are
    /// reserved ones, and another cannot be had for the hole, the next touch ends the process with SIGBUS. To be given to those only who are trusted
    /// with the memory itself.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.map.file().map(AsFd::as_fd)
    }

    /// Makes the pages of a part present and zeroed, writable at once (`MADV_POPULATE_WRITE`, Linux 5.14).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] outside the memory; ENOMEM or EFAULT when there are no pages left, or none that the control group may have.
    pub fn populate(&self, part: Range<usize>) -> Result<(), Error> {
        let outside = || Error::new("madvise", ErrorKind::Invalid("part lies outside the memory"));
        let len = part.end.checked_sub(part.start).ok_or_else(outside)?;
        if !self.covers(part.start, len) {
            return Err(outside());
        }
        if len == 0 {
            return Ok(());
        }
        let fail = |errno| Error::new("madvise MADV_POPULATE_WRITE", ErrorKind::from_errno(errno));
        self.map.populate(part).map_err(fail)
    }

    /// Copies from memory into `to`; `None` outside the memory. The order in which bytes are read is not defined: use an atomic for
    /// what a device, or another thread, signals with.
    #[must_use = "outside the memory nothing is done"]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Option<()> {
        self.covers(offset, to.len()).then(|| self.map.read(offset, to))
    }

    /// Copies `from` into memory; `None` outside the memory.
    #[must_use = "outside the memory nothing is done"]
    pub fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        self.covers(offset, from.len()).then(|| self.map.write(offset, from))
    }

    /// Sets `len` bytes; `None` outside the memory.
    #[must_use = "outside the memory nothing is done"]
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
    #[must_use = "outside the memory nothing is done"]
    pub fn write_value<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) -> Option<()> {
        self.write(offset, value.as_bytes())
    }

    /// A byte shared with devices; `None` outside the memory.
    #[must_use]
    #[inline]
    pub fn atomic_u8(&self, offset: usize) -> Option<&AtomicU8> {
        self.covers(offset, 1).then(|| self.map.atomic_u8(offset))
    }

    /// Two bytes shared with devices, in the CPU's order; `None` outside the memory or off their alignment.
    #[must_use]
    #[inline]
    pub fn atomic_u16(&self, offset: usize) -> Option<&AtomicU16> {
        (self.covers(offset, 2) && offset.is_multiple_of(2)).then(|| self.map.atomic_u16(offset))
    }

    /// Four bytes shared with devices, in the CPU's order; `None` outside the memory or off their alignment.
    #[must_use]
    #[inline]
    pub fn atomic_u32(&self, offset: usize) -> Option<&AtomicU32> {
        (self.covers(offset, 4) && offset.is_multiple_of(4)).then(|| self.map.atomic_u32(offset))
    }

    /// Eight bytes shared with devices, in the CPU's order; `None` outside the memory or off their alignment.
    #[must_use]
    #[inline]
    pub fn atomic_u64(&self, offset: usize) -> Option<&AtomicU64> {
        (self.covers(offset, 8) && offset.is_multiple_of(8)).then(|| self.map.atomic_u64(offset))
    }

    /// The pages that the memory is on by now, from `/proc/self/smaps`: [`PageSize::Transparent`] when some of it is on joined pages,
    /// as far as the kernel keeps this memory apart from its neighbours.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] without `/proc`.
    pub fn page_size(&self) -> Result<PageSize, Error> {
        mem::page_size(&self.map).map_err(|errno| Error::new("read /proc/self/smaps", ErrorKind::from_errno(errno)))
    }

    pub(crate) fn map(&self) -> &mem::Map {
        &self.map
    }

    #[inline]
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

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("address", &self.map.address())
            .field("len", &self.map.len())
            .field("options", &self.options)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::Ordering;

    fn memory(options: MemoryOptions) -> Memory {
        Memory::new(1 << 14, options).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
        #[test]
        fn what_is_written_is_read(offset in 0_usize..600, bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let memory = memory(MemoryOptions::default());
            memory.fill(0, 1300, 0xa5).unwrap();
            memory.write(offset, &bytes).unwrap();
            let mut read = vec![0; bytes.len() + 2];
            memory.read(offset.saturating_sub(1), &mut read).unwrap();
            let skipped = usize::from(offset > 0);
            prop_assert_eq!(&read[skipped..skipped + bytes.len()], &bytes[..]);
            prop_assert_eq!(read[skipped + bytes.len()], 0xa5);
            if offset > 0 {
                prop_assert_eq!(read[0], 0xa5);
            }
        }
    }

    #[test]
    fn nothing_outside_is_touched() {
        let memory = memory(MemoryOptions::default());
        let len = memory.len();
        assert!(memory.read(len - 3, &mut [0; 4]).is_none());
        assert!(memory.write(usize::MAX, &[0]).is_none());
        assert!(memory.fill(1, len, 0).is_none());
        assert!(memory.atomic_u64(len - 4).is_none());
        assert!(memory.atomic_u32(2).is_none());
        assert!(memory.read_value::<u64>(len - 7).is_none());
        assert!(memory.populate(0..len + 1).is_err());
        assert!(memory.read(len, &mut []).is_some());
    }

    #[test]
    fn atomics_see_what_copies_wrote() {
        let memory = memory(MemoryOptions::default());
        memory.write_value(8, &0x1122_3344_5566_7788_u64).unwrap();
        assert_eq!(
            memory.atomic_u64(8).unwrap().load(Ordering::Relaxed),
            0x1122_3344_5566_7788
        );
        memory.atomic_u16(8).unwrap().store(0xbeef, Ordering::Relaxed);
        assert_eq!(memory.read_value::<u16>(8), Some(0xbeef));
        memory.atomic_u8(9).unwrap().store(1, Ordering::Relaxed);
        memory.atomic_u32(12).unwrap().store(7, Ordering::Relaxed);
        assert_eq!(memory.read_value::<u32>(12), Some(7));
    }

    #[test]
    #[cfg(not(miri))]
    fn shared_memory_cannot_shrink_under_its_users() {
        for pages in [PageSize::Base, PageSize::Transparent] {
            let options = MemoryOptions {
                backing: Backing::Shared,
                pages,
                ..MemoryOptions::default()
            };
            let memory = match Memory::new(5 << 20, options) {
                Ok(memory) => memory,
                // A kernel without transparent huge pages refuses them.
                Err(error) => {
                    assert_eq!((pages, error.errno()), (PageSize::Transparent, Some(Errno::INVAL)));
                    continue;
                }
            };
            memory.write(memory.len() - 4, b"last").unwrap();
            let file = std::fs::File::from(memory.file().unwrap().try_clone_to_owned().unwrap());
            assert!(file.set_len(0).is_err());
            let mut last = [0; 4];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, memory.len() as u64 - 4).unwrap();
            assert_eq!(&last, b"last");
        }
    }

    #[test]
    #[cfg(not(miri))]
    fn from_a_large_page_on_memory_begins_at_one_and_is_no_longer_than_asked_for() {
        const HUGE: usize = 2 << 20;
        for backing in [Backing::Anonymous, Backing::Shared] {
            for len in [HUGE, HUGE + 4096, 3 * HUGE] {
                let options = MemoryOptions {
                    backing,
                    ..MemoryOptions::default()
                };
                let memories = [(); 3].map(|()| Memory::new(len, options).unwrap());
                for memory in &memories {
                    assert_eq!((memory.map().address().addr() % HUGE, memory.len()), (0, len));
                    memory.write(len - 1, &[7]).unwrap();
                    if let Some(file) = memory.file() {
                        assert_eq!(rustix::fs::fstat(file).unwrap().st_size, i64::try_from(len).unwrap());
                    }
                }
            }
        }
    }

    #[test]
    #[cfg(not(miri))]
    fn pages_are_what_was_asked_for() {
        let base = memory(MemoryOptions::default());
        base.populate(0..base.len()).unwrap();
        assert_eq!(base.page_size().unwrap(), PageSize::Base);
        let huge = MemoryOptions {
            pages: PageSize::Huge2M,
            ..MemoryOptions::default()
        };
        match Memory::new(1, huge) {
            Ok(memory) => {
                assert_eq!(memory.len(), 2 << 20);
                assert_eq!(memory.page_size().unwrap(), PageSize::Huge2M);
            }
            // No page of that size is reserved here: an error, never other pages.
            Err(error) => assert_eq!(error.errno(), Some(Errno::NOMEM)),
        }
    }

    #[test]
    #[cfg(not(miri))]
    fn the_node_of_a_function_is_read_from_its_directory() {
        let root = tempfile::tempdir().unwrap();
        let bdf: Bdf = "0000:01:00.0".parse().unwrap();
        let directory = root.path().join("sys/bus/pci/devices").join(bdf.to_string());
        std::fs::create_dir_all(&directory).unwrap();
        let sysfs = Sysfs::at(root.path());
        let missing = NumaNode::of(&sysfs, bdf).unwrap_err();
        assert_eq!((missing.device, missing.errno()), (Some(bdf), Some(Errno::NOENT)));
        for (text, node) in [("1\n", Some(NumaNode(1))), ("-1\n", None)] {
            std::io::Write::write_all(
                &mut std::fs::File::create(directory.join("numa_node")).unwrap(),
                text.as_bytes(),
            )
            .unwrap();
            assert_eq!(NumaNode::of(&sysfs, bdf).unwrap(), node);
        }
        for text in ["-2", "many"] {
            std::io::Write::write_all(
                &mut std::fs::File::create(directory.join("numa_node")).unwrap(),
                text.as_bytes(),
            )
            .unwrap();
            let kind = NumaNode::of(&sysfs, bdf).unwrap_err().kind;
            assert!(matches!(kind, ErrorKind::Malformed(_)), "{kind}");
        }
    }

    #[test]
    fn no_memory_is_no_memory() {
        assert!(Memory::new(0, MemoryOptions::default()).is_err());
        assert!(Memory::new(usize::MAX, MemoryOptions::default()).is_err());
    }
}
