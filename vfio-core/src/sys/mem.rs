//! Memory of our own: mapping, pages, and access to bytes that a device may change meanwhile.

use super::Result;
use crate::{Backing, MemoryOptions, PageSize};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A mapping that is unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<u8>,
    len: usize,
    file: Option<OwnedFd>,
}

// SAFETY: the mapping belongs to the value alone, and every access to its bytes is atomic.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes, a multiple of the page size, readable and writable.
    pub(crate) fn new(len: usize, options: &MemoryOptions) -> Result<Self> {
        let huge = match options.pages {
            PageSize::Base | PageSize::Transparent => None,
            PageSize::Huge2M => Some((MemfdFlags::HUGE_2MB, MapFlags::HUGE_2MB)),
            PageSize::Huge1G => Some((MemfdFlags::HUGE_1GB, MapFlags::HUGE_1GB)),
        };
        let read_write = ProtFlags::READ | ProtFlags::WRITE;
        let (base, file) = match options.backing {
            Backing::Anonymous => {
                let flags = huge.map_or(MapFlags::empty(), |(_, size)| MapFlags::HUGETLB | size);
                // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
                let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, read_write, MapFlags::PRIVATE | flags) }?;
                (base, None)
            }
            Backing::Shared => {
                let flags = huge.map_or(MemfdFlags::empty(), |(size, _)| MemfdFlags::HUGETLB | size);
                let file = memfd_create("dma", MemfdFlags::CLOEXEC | flags)?;
                ftruncate(&file, len as u64)?;
                // SAFETY: a new mapping at an address of the kernel's choice; no one else has the memfd to shrink it.
                let base = unsafe { mmap(std::ptr::null_mut(), len, read_write, MapFlags::SHARED, &file, 0) }?;
                (base, Some(file))
            }
        };
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        let map = Self { base, len, file };
        if let Some(node) = options.numa_node {
            map.bind(node)?;
        }
        let advice = match options.pages {
            PageSize::Transparent => Some(Advice::LinuxHugepage),
            // Without it the kernel may move base pages under a pinned mapping's neighbours into huge ones at any time.
            PageSize::Base => Some(Advice::LinuxNoHugepage),
            PageSize::Huge2M | PageSize::Huge1G => None,
        };
        // A fork would give the child the pages and leave the parent with copies that no device knows.
        map.advise(Advice::LinuxDontFork)?;
        match advice.map_or(Ok(()), |advice| map.advise(advice)) {
            // EINVAL: a kernel without transparent huge pages; base pages are what it has.
            Ok(()) | Err(Errno::INVAL) => Ok(map),
            Err(errno) => Err(errno),
        }
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

    /// Takes pages from one NUMA node only (`mbind(2)`, `MPOL_BIND`).
    fn bind(&self, node: u32) -> Result<()> {
        let (word, bit) = (node / u64::BITS, node % u64::BITS);
        let mut mask = vec![0_u64; word as usize + 1];
        if let Some(last) = mask.last_mut() {
            *last = 1 << bit;
        }
        let bits = mask.len() as u64 * u64::from(u64::BITS) + 1;
        // SAFETY: the range is our own mapping and `mask` holds the bits that `bits` less one says.
        let status = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base.as_ptr(),
                self.len,
                libc::MPOL_BIND,
                mask.as_ptr(),
                bits,
                0,
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

    /// Copies out. The caller has checked that the bytes lie inside.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        let (head, words, tail) = split(self.base.as_ptr() as usize + offset, to.len());
        let mut at = offset;
        let (first, rest) = to.split_at_mut(head);
        for byte in first {
            *byte = self.atomic_u8(at).load(Ordering::Relaxed);
            at += 1;
        }
        let (middle, last) = rest.split_at_mut(words * 8);
        for word in middle.chunks_exact_mut(8) {
            word.copy_from_slice(&self.atomic_u64(at).load(Ordering::Relaxed).to_ne_bytes());
            at += 8;
        }
        debug_assert_eq!(last.len(), tail, "head, words and tail are all there is");
        for byte in last {
            *byte = self.atomic_u8(at).load(Ordering::Relaxed);
            at += 1;
        }
    }

    /// Copies in. The caller has checked that the bytes lie inside.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        let (head, words, _) = split(self.base.as_ptr() as usize + offset, from.len());
        let mut at = offset;
        let (first, rest) = from.split_at(head);
        for byte in first {
            self.atomic_u8(at).store(*byte, Ordering::Relaxed);
            at += 1;
        }
        let (middle, last) = rest.split_at(words * 8);
        for word in middle.as_chunks::<8>().0 {
            self.atomic_u64(at).store(u64::from_ne_bytes(*word), Ordering::Relaxed);
            at += 8;
        }
        for byte in last {
            self.atomic_u8(at).store(*byte, Ordering::Relaxed);
            at += 1;
        }
    }

    /// Sets bytes. The caller has checked that they lie inside.
    pub(crate) fn fill(&self, offset: usize, len: usize, byte: u8) {
        let (head, words, tail) = split(self.base.as_ptr() as usize + offset, len);
        let mut at = offset;
        for _ in 0..head {
            self.atomic_u8(at).store(byte, Ordering::Relaxed);
            at += 1;
        }
        for _ in 0..words {
            self.atomic_u64(at)
                .store(u64::from_ne_bytes([byte; 8]), Ordering::Relaxed);
            at += 8;
        }
        for _ in 0..tail {
            self.atomic_u8(at).store(byte, Ordering::Relaxed);
            at += 1;
        }
    }

    /// The caller has checked that the byte lies inside.
    pub(crate) fn atomic_u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: inside the mapping, which lives as long as `self`; all other accesses are atomic too.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1)) }
    }

    /// The caller has checked that the bytes lie inside and are aligned.
    pub(crate) fn atomic_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned; all other accesses are atomic too.
        unsafe { AtomicU16::from_ptr(self.at(offset, 2).cast()) }
    }

    /// The caller has checked that the bytes lie inside and are aligned.
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `atomic_u16`.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// The caller has checked that the bytes lie inside and are aligned.
    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `atomic_u16`.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.is_multiple_of(len) && offset.checked_add(len).is_some_and(|end| end <= self.len),
            "an access outside the mapping, or off its alignment"
        );
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever holds a device's way to it holds the value alive.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        if let Err(errno) = unmapped {
            tracing::error!(address = ?self.base, len = self.len, %errno, "munmap failed; the memory is leaked");
        }
    }
}

/// How many single bytes, whole words and single bytes again an access at `address` is made of.
fn split(address: usize, len: usize) -> (usize, usize, usize) {
    let head = (address.next_multiple_of(8) - address).min(len);
    let words = (len - head) / 8;
    (head, words, len - head - words * 8)
}

/// Which pages the first byte of a mapping is on, from `/proc/self/smaps`.
pub(crate) fn page_size(map: &Map) -> Result<PageSize> {
    #[expect(
        clippy::disallowed_methods,
        reason = "our own process, not the machine that a captured tree stands for"
    )]
    let text = std::fs::read_to_string("/proc/self/smaps").map_err(|error| errno_of(&error))?;
    let address = map.base.as_ptr() as usize;
    let mut inside = false;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let bound = |text| usize::from_str_radix(text, 16).ok();
            inside = bound(start)
                .zip(bound(end))
                .is_some_and(|(start, end)| start <= address && address < end);
        }
        let kibibytes = words.next().and_then(|word| word.parse::<u64>().ok());
        match (inside, first, kibibytes) {
            (true, "KernelPageSize:", Some(2048)) => return Ok(PageSize::Huge2M),
            (true, "KernelPageSize:", Some(1_048_576)) => return Ok(PageSize::Huge1G),
            (true, "AnonHugePages:" | "ShmemPmdMapped:", Some(1..)) => return Ok(PageSize::Transparent),
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
