//! Addresses of our own: [`Span`], and memory that begins at a large page.
//!
//! Nothing here is mapped by `MAP_FIXED`, of which a failure may leave a hole that somebody else maps into (`mmap(2)`): whatever fails,
//! nothing stays behind, and nobody's memory is taken.

use super::Result;
use rustix::io::Errno;
use rustix::mm::munmap;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::ptr::null_mut;

/// Whole pages that nothing refers to, until they are unmapped by drop.
pub(super) struct Span {
    pub(super) base: *mut c_void,
    pub(super) len: usize,
}

impl Span {
    /// The first address of what is mapped from now on by the caller, who unmaps it.
    pub(super) fn keep(self) -> *mut c_void {
        ManuallyDrop::new(self).base
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: the range is our own, and nothing refers to it.
        let unmapped = unsafe { munmap(self.base, self.len) };
        if let Err(errno) = unmapped {
            tracing::error!(base = ?self.base, len = self.len, %errno, "munmap failed; the addresses are lost");
        }
    }
}

/// The smallest large page.
pub(super) const HUGE: usize = 2 << 20;

/// How often a place for a file is looked for before any will do. Only who maps in between can take it.
const TRIES: usize = 8;

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// Maps `len` bytes of memory from a multiple of [`HUGE`] on, readable and writable.
pub(super) fn anonymous(len: usize) -> Result<Span> {
    aligned(len, READ_WRITE)
}

/// Maps the first `len` bytes of `file`, readable and writable, and shared with whoever has it: from a multiple of [`HUGE`] on, unless
/// others take every such place first.
pub(super) fn shared(file: impl AsFd, len: usize) -> Result<Span> {
    for _ in 0..TRIES {
        let free = aligned(len, ProtFlags::empty())?.base;
        let span = shared_near(free, &file, len)?;
        if span.base.addr().is_multiple_of(HUGE) {
            return Ok(span);
        }
    }
    shared_near(null_mut(), file, len)
}

/// Maps at `place` if it is free, and elsewhere if not.
fn shared_near(place: *mut c_void, file: impl AsFd, len: usize) -> Result<Span> {
    // SAFETY: without MAP_FIXED the address is a hint: a new mapping goes where nothing else is.
    let base = unsafe { mmap(place, len, READ_WRITE, MapFlags::SHARED, file, 0) }?;
    Ok(Span { base, len })
}

/// Maps more than `len` bytes, of which those from a multiple of [`HUGE`] on are kept.
fn aligned(len: usize, protection: ProtFlags) -> Result<Span> {
    let total = len.checked_add(HUGE).ok_or(Errno::NOMEM)?;
    // SAFETY: a new mapping, at an address of the kernel's choice, touches no other memory.
    let base = unsafe { mmap_anonymous(null_mut(), total, protection, MapFlags::PRIVATE) }?;
    let head = base.addr().wrapping_neg() % HUGE;
    // SAFETY: `head` is less than what the mapping has over `len`.
    let place = unsafe { base.byte_add(head) };
    // SAFETY: `place + len` is less than the mapping's end.
    let end = unsafe { place.byte_add(len) };
    drop(Span { base, len: head });
    drop(Span {
        base: end,
        len: HUGE - head,
    });
    Ok(Span { base: place, len })
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::{Backing, Memory, MemoryOptions};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    #[test]
    fn memory_begins_at_a_large_page() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 3 * HUGE as u64).unwrap();
        for len in [4096, HUGE, 3 * HUGE] {
            for span in [anonymous(len).unwrap(), shared(&file, len).unwrap()] {
                assert_eq!((span.base.addr() % HUGE, span.len), (0, len));
            }
        }
    }

    #[test]
    fn a_place_that_is_taken_is_left_alone() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, HUGE as u64).unwrap();
        let taken = anonymous(HUGE).unwrap();
        let other = shared_near(taken.base, &file, HUGE).unwrap();
        assert!(other.base.addr().abs_diff(taken.base.addr()) >= HUGE);
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "our own process, not the machine that a captured tree stands for"
    )]
    fn what_fails_leaves_nothing_behind() {
        let unwritable = std::fs::File::open("/proc/self/exe").unwrap();
        let mapped = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').next().unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
        };
        // More than other tests map meanwhile, and than a kernel promises that does not promise everything.
        let large = 16 << 40;
        let before = mapped();
        for _ in 0..4 {
            for backing in [Backing::Anonymous, Backing::Shared] {
                let options = MemoryOptions {
                    backing,
                    ..MemoryOptions::default()
                };
                drop(Memory::new(large, options));
            }
            assert!(shared(&unwritable, large).is_err());
        }
        assert!(mapped() < before + large / 2);
        for len in [1 << 62, usize::MAX - HUGE, usize::MAX - HUGE + 1] {
            assert_eq!(anonymous(len).err(), Some(Errno::NOMEM));
        }
    }
}
