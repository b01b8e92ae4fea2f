//! Memory of our own: mapping, pages, and access to bytes that a device may change meanwhile.
//!
//! Bytes are moved by [`copy`], which the compiler cannot look into: a device is no thread of Rust's memory model, and another
//! thread may copy the same bytes. What threads agree on, they agree on through atomics of one width.

use super::Result;
use super::copy;
use super::span;
use crate::{Backing, Memory, MemoryOptions, PageSize};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Memory that stays where it is, and stays mapped, as long as the value lives.
///
/// # Safety
///
/// [`address`](Self::address) and [`len`](Self::len) never change, and the bytes they describe stay mapped in this process, readable and
/// writable, until the value is dropped. No reference to these bytes exists meanwhile except to atomics: a device may read and
/// write them at any time.
pub unsafe trait StableMemory: std::fmt::Debug + Send + Sync {
    /// Address of the first byte in this process.
    fn address(&self) -> *mut u8;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// Whether there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// SAFETY: the mapping is made once in `Map::new`, never moved or resized, sealed against shrinking, and unmapped by its drop; `Memory` hands out
// atomics and copies only.
unsafe impl StableMemory for Memory {
    fn address(&self) -> *mut u8 {
        self.map().address()
    }

    fn len(&self) -> usize {
        self.map().len()
    }
}

/// Memory that calls a function as it goes, to see when that is and what may be done then.
#[cfg(feature = "fake")]
pub struct Parting {
    memory: std::sync::Arc<Memory>,
    last: Option<Box<dyn FnOnce() + Send + Sync>>,
}

#[cfg(feature = "fake")]
impl Parting {
    /// The bytes of `memory`, which others may use too, until the value is dropped and calls `last`.
    pub fn new(memory: std::sync::Arc<Memory>, last: impl FnOnce() + Send + Sync + 'static) -> Self {
        let last: Box<dyn FnOnce() + Send + Sync> = Box::new(last);
        Self {
            memory,
            last: Some(last),
        }
    }
}

// SAFETY: the memory is that of `memory`, which is held and never replaced.
#[cfg(feature = "fake")]
unsafe impl StableMemory for Parting {
    fn address(&self) -> *mut u8 {
        self.memory.address()
    }

    fn len(&self) -> usize {
        StableMemory::len(&*self.memory)
    }
}

#[cfg(feature = "fake")]
impl Drop for Parting {
    fn drop(&mut self) {
        if let Some(last) = self.last.take() {
            last();
        }
    }
}

#[cfg(feature = "fake")]
impl std::fmt::Debug for Parting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.memory.fmt(f)
    }
}

/// Copies out of memory that is shared with a device; `None` outside it.
#[cfg(feature = "fake")]
pub(crate) fn copy_from(memory: &dyn StableMemory, offset: usize, to: &mut [u8]) -> Option<()> {
    let end = offset.checked_add(to.len())?;
    if end > memory.len() {
        return None;
    }
    // SAFETY: inside the memory, which the caller's reference keeps mapped.
    let from = unsafe { memory.address().add(offset) };
    // SAFETY: `from` is readable for as many bytes as `to` has, and no `&mut` to them exists (`StableMemory`).
    unsafe { copy::load(from, to.as_mut_ptr(), to.len()) };
    Some(())
}

/// Copies into memory that is shared with a device; `None` outside it.
#[cfg(feature = "fake")]
pub(crate) fn copy_to(memory: &dyn StableMemory, offset: usize, from: &[u8]) -> Option<()> {
    let end = offset.checked_add(from.len())?;
    if end > memory.len() {
        return None;
    }
    // SAFETY: inside the memory, which the caller's reference keeps mapped.
    let to = unsafe { memory.address().add(offset) };
    // SAFETY: `to` is writable for as many bytes as `from` has, and no reference to them exists (`StableMemory`).
    unsafe { copy::store(from.as_ptr(), to, from.len()) };
    Some(())
}

/// A mapping that is unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<u8>,
    len: usize,
    file: Option<OwnedFd>,
}

// SAFETY: the mapping belongs to the value alone, and its bytes are accessed through atomics and opaque copies only.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes, a multiple of the page size, readable and writable.
    #[cfg(not(miri))]
    pub(crate) fn new(len: usize, options: &MemoryOptions) -> Result<Self> {
        let huge = match options.pages {
            PageSize::Base | PageSize::Transparent => None,
            PageSize::Huge2M => Some((MemfdFlags::HUGE_2MB, MapFlags::HUGE_2MB)),
            PageSize::Huge1G => Some((MemfdFlags::HUGE_1GB, MapFlags::HUGE_1GB)),
        };
        let file = match options.backing {
            Backing::Anonymous => None,
            Backing::Shared => {
                let flags = huge.map_or(MemfdFlags::empty(), |(size, _)| MemfdFlags::HUGETLB | size);
                let file = memfd_create("dma", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags)?;
                ftruncate(&file, len as u64)?;
                // Whoever gets the file cannot shrink it: an access past its end would be a SIGBUS.
                fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
                Some(file)
            }
        };
        // Joined pages need it, and so does whoever notes the memory's place in large pages.
        let is_aligned = huge.is_none() && (len >= span::HUGE || options.pages == PageSize::Transparent);
        let read_write = ProtFlags::READ | ProtFlags::WRITE;
        let base = match &file {
            None if is_aligned => span::anonymous(len)?.keep(),
            Some(file) if is_aligned => span::shared(file, len)?.keep(),
            None => {
                let huge = huge.map_or(MapFlags::empty(), |(_, size)| MapFlags::HUGETLB | size);
                // SAFETY: a new anonymous mapping, at an address of the kernel's choice, touches no other memory.
                unsafe { mmap_anonymous(null_mut(), len, read_write, MapFlags::PRIVATE | huge) }?
            }
            // SAFETY: as above, of a file.
            Some(file) => unsafe { mmap(null_mut(), len, read_write, MapFlags::SHARED, file, 0) }?,
        };
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        let map = Self { base, len, file };
        if let Some(node) = options.numa_node {
            map.prefer(node.0)?;
        }
        match options.pages {
            PageSize::Transparent => map.advise(Advice::LinuxHugepage)?,
            // What was asked for is base pages. EINVAL: a kernel that has no others.
            PageSize::Base => match map.advise(Advice::LinuxNoHugepage) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            },
            PageSize::Huge2M | PageSize::Huge1G => {}
        }
        // A fork would give the child the pages and leave the parent with copies that no device knows.
        map.advise(Advice::LinuxDontFork)?;
        Ok(map)
    }

    /// The interpreter has no mmap; its heap does for what it checks.
    #[cfg(miri)]
    pub(crate) fn new(len: usize, options: &MemoryOptions) -> Result<Self> {
        if options.backing == Backing::Shared {
            return Err(Errno::NOSYS);
        }
        let layout = std::alloc::Layout::from_size_align(len, 4096).map_err(|_| Errno::INVAL)?;
        // SAFETY: the length is not 0, as `Memory::new` checked.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(Errno::NOMEM)?;
        Ok(Self { base, len, file: None })
    }

    pub(crate) fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn file(&self) -> Option<&OwnedFd> {
        self.file.as_ref()
    }

    /// Takes pages from one NUMA node as long as it has any (`mbind(2)`). Not `MPOL_BIND`: a hugetlb reservation is not kept per node,
    /// and the first touch of a page that the node has not got would be a SIGBUS.
    #[cfg(not(miri))]
    fn prefer(&self, node: u32) -> Result<()> {
        let mut mask = [0_u64; 16];
        let word = mask.get_mut((node / u64::BITS) as usize).ok_or(Errno::INVAL)?;
        *word = 1 << (node % u64::BITS);
        // All as wide as the kernel reads them: of what is narrower, a variadic call need not pass the upper half.
        let mode: libc::c_long = libc::MPOL_PREFERRED.into();
        let (bits, flags): (usize, libc::c_ulong) = (size_of_val(&mask) * 8, 0);
        // SAFETY: the range is our own mapping and `mask` holds the bits that the next argument, less one, says.
        let status = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base.as_ptr(),
                self.len,
                mode,
                mask.as_ptr(),
                bits + 1,
                flags,
            )
        };
        if status == 0 { Ok(()) } else { Err(last_errno()) }
    }

    fn advise(&self, advice: Advice) -> Result<()> {
        // SAFETY: the range is our own mapping, and none of the advice used here drops its content.
        unsafe { madvise(self.base.as_ptr().cast(), self.len, advice) }
    }

    /// Makes the pages of a part present. The caller has checked that the part lies inside.
    pub(crate) fn populate(&self, part: Range<usize>) -> Result<()> {
        debug_assert!(part.end <= self.len, "checked by the caller");
        let page = rustix::param::page_size();
        let start = part.start / page * page;
        // SAFETY: `start` is inside the mapping.
        let address = unsafe { self.base.add(start) };
        // SAFETY: the range is inside our own mapping, and populating keeps its content.
        unsafe { madvise(address.as_ptr().cast(), part.end - start, Advice::LinuxPopulateWrite) }
    }

    /// Copies out. Outside the mapping is a bug and panics.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        // SAFETY: `from` is readable for as many bytes as `to` has, and no `&mut` to them exists.
        unsafe { copy::load(from, to.as_mut_ptr(), to.len()) }
    }

    /// Copies in. Outside the mapping is a bug and panics.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: `to` is writable for as many bytes as `from` has, and no reference to them exists but to atomics.
        unsafe { copy::store(from.as_ptr(), to, from.len()) }
    }

    /// Sets bytes. Outside the mapping is a bug and panics.
    pub(crate) fn fill(&self, offset: usize, len: usize, byte: u8) {
        let to = self.at(offset, len);
        // SAFETY: `to` is writable for `len` bytes, and no reference to them exists but to atomics.
        unsafe { copy::fill(to, len, byte) }
    }

    /// The caller has checked that the byte lies inside.
    #[inline]
    pub(crate) fn atomic_u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: inside the mapping, which lives as long as `self`; what else has access are atomics, and copies that the compiler
        // takes nothing for granted about ([`copy`]).
        unsafe { AtomicU8::from_ptr(self.at(offset, 1)) }
    }

    /// The caller has checked that the bytes lie inside and are aligned.
    #[inline]
    pub(crate) fn atomic_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as in `atomic_u8`, and aligned.
        unsafe { AtomicU16::from_ptr(self.aligned_at(offset, 2).cast()) }
    }

    /// The caller has checked that the bytes lie inside and are aligned.
    #[inline]
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `atomic_u16`.
        unsafe { AtomicU32::from_ptr(self.aligned_at(offset, 4).cast()) }
    }

    /// The caller has checked that the bytes lie inside and are aligned.
    #[inline]
    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `atomic_u16`.
        unsafe { AtomicU64::from_ptr(self.aligned_at(offset, 8).cast()) }
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "an access outside the mapping"
        );
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.as_ptr().add(offset) }
    }

    #[inline]
    fn aligned_at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.is_multiple_of(len), "an atomic off its alignment");
        self.at(offset, len)
    }
}

impl Drop for Map {
    #[cfg(not(miri))]
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever holds a device's way to it holds the value alive.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        if let Err(errno) = unmapped {
            tracing::error!(address = ?self.base, len = self.len, %errno, "munmap failed; the memory is leaked");
        }
    }

    #[cfg(miri)]
    fn drop(&mut self) {
        if let Ok(layout) = std::alloc::Layout::from_size_align(self.len, 4096) {
            // SAFETY: allocated in `new` with this layout.
            unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) }
        }
    }
}

/// Which pages a mapping is on, from `/proc/self/smaps`. The kernel may show it joined with its neighbours: then only the size of
/// reserved pages is told, which joined mappings share.
pub(crate) fn page_size(map: &Map) -> Result<PageSize> {
    #[expect(
        clippy::disallowed_methods,
        reason = "our own process, not the machine that a captured tree stands for"
    )]
    let text = std::fs::read_to_string("/proc/self/smaps").map_err(|error| errno_of(&error))?;
    let start = map.base.as_ptr() as usize;
    let (mut inside, mut ours) = (false, false);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-') {
            let bound = |text| usize::from_str_radix(text, 16).ok();
            let bounds = bound(from).zip(bound(to));
            inside = bounds.is_some_and(|(from, to)| from <= start && start < to);
            ours = bounds == Some((start, start + map.len));
        }
        let kibibytes = words.next().and_then(|word| word.parse::<u64>().ok());
        match (first, kibibytes) {
            ("KernelPageSize:", Some(2048)) if inside => return Ok(PageSize::Huge2M),
            ("KernelPageSize:", Some(1_048_576)) if inside => return Ok(PageSize::Huge1G),
            ("AnonHugePages:" | "ShmemPmdMapped:", Some(1..)) if ours => return Ok(PageSize::Transparent),
            _ => {}
        }
    }
    Ok(PageSize::Base)
}

pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn last_errno() -> Errno {
    errno_of(&std::io::Error::last_os_error())
}
