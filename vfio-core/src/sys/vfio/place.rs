//! Mapping a part of a device file at an address of a wanted alignment, so that the kernel can use huge pages for it.

use super::Result;
use crate::Access;
use crate::sys::mmio::Mapped;
use crate::sys::span::Span;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// Maps `len` bytes of `file` from `offset`, at an address that is a multiple of `alignment`, a power of two, plus `beyond`. Both count
/// whole pages.
pub(super) fn map(
    file: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    access: Access,
    alignment: usize,
    beyond: usize,
) -> Result<Mapped> {
    let page = rustix::param::page_size();
    let aligned = alignment.is_power_of_two() && alignment >= page && beyond.is_multiple_of(page);
    if !aligned || beyond >= alignment || len == 0 {
        return Err(Errno::INVAL);
    }
    let span = len.checked_next_multiple_of(page).ok_or(Errno::INVAL)?;
    // Somewhere in a range that is longer by the alignment lies a range that is aligned.
    let total = span.checked_add(alignment).ok_or(Errno::NOMEM)?;
    // SAFETY: a new mapping without access, at an address of the kernel's choice, touches no other memory.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), total, ProtFlags::empty(), MapFlags::PRIVATE) }?;
    let mut reservation = Span { base, len: total };
    let skip = beyond.wrapping_sub(base.addr()) & (alignment - 1);
    // SAFETY: `skip` is less than the alignment, so the place and its whole span lie inside the reservation.
    let place = unsafe { base.byte_add(skip) };
    let mut protection = ProtFlags::empty();
    protection.set(ProtFlags::READ, access.contains(Access::READ));
    protection.set(ProtFlags::WRITE, access.contains(Access::WRITE));
    // SAFETY: what MAP_FIXED replaces is a part of our own reservation, which nothing refers to.
    let placed = unsafe { mmap(place, len, protection, MapFlags::SHARED | MapFlags::FIXED, file, offset) };
    let placed = match placed {
        Ok(placed) => placed,
        Err(errno) => {
            // The kernel may have left a hole there, in which somebody else has mapped by now: addresses are leaked rather than his memory taken.
            std::mem::forget(reservation);
            return Err(errno);
        }
    };
    // The head goes with `reservation` in any case; the tail and the map are its own from here on.
    reservation.len = skip;
    let after = skip + span;
    // SAFETY: inside the reservation, or one past its end.
    let tail = unsafe { base.byte_add(after) };
    drop(Span {
        base: tail,
        len: total - after,
    });
    let placed = NonNull::new(placed.cast::<u8>()).ok_or(Errno::NOMEM)?;
    // SAFETY: the mapping was just made, and nobody else unmaps it.
    let mapped = unsafe { Mapped::new(placed, len) };
    // A child of fork would hold the device file open by it.
    // SAFETY: the range is the mapping just made, and the advice concerns children only.
    unsafe { madvise(placed.as_ptr().cast(), len, Advice::LinuxDontFork) }?;
    // SAFETY: the range is the mapping just made, and the advice leaves its content alone.
    let advised = unsafe { madvise(placed.as_ptr().cast(), len, Advice::LinuxHugepage) };
    match advised {
        // EINVAL: a kernel without transparent huge pages, or a mapping that has none.
        Ok(()) | Err(Errno::INVAL) => Ok(mapped),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    fn mapped(alignment: usize, beyond: usize, len: usize) -> Mapped {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; len.next_multiple_of(4096)]).unwrap();
        map(file.as_fd(), 0, len, Access::READ, alignment, beyond).unwrap()
    }

    #[test]
    fn the_address_is_aligned_as_asked() {
        for (alignment, beyond) in [(4096, 0), (2 << 20, 0), (2 << 20, 4096), (1 << 30, 3 * 4096)] {
            let map = mapped(alignment, beyond, 3 * 4096);
            assert_eq!(map.address().addr() % alignment, beyond);
        }
    }

    #[test]
    fn nothing_of_the_reservation_stays() {
        let lines = || {
            let maps = std::fs::read("/proc/self/maps").unwrap();
            maps.split(|byte| *byte == b'\n').count()
        };
        // The first one brings whatever the allocator and the runtime map once.
        drop(mapped(1 << 30, 4096, 8192));
        let before = lines();
        for _ in 0..16 {
            drop(mapped(1 << 30, 4096, 8192));
        }
        assert!(lines() < before + 16, "each map left something behind");
    }

    #[test]
    fn a_child_does_not_inherit_it() {
        let map = mapped(4096, 0, 4096);
        let smaps = String::from_utf8(std::fs::read("/proc/self/smaps").unwrap()).unwrap();
        let start = format!("{:x}-", map.address().addr());
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
    }

    #[test]
    fn nonsense_is_refused() {
        let file = tempfile::tempfile().unwrap();
        for (len, alignment, beyond) in [
            (0, 4096, 0),
            (4096, 4095, 0),
            (4096, 4096, 4096),
            (4096, 512, 0),
            (4096, 8192, 5),
        ] {
            assert_eq!(
                map(file.as_fd(), 0, len, Access::READ, alignment, beyond).err(),
                Some(Errno::INVAL)
            );
        }
        assert!(map(file.as_fd(), 0, usize::MAX, Access::READ, 1 << 30, 0).is_err());
    }
}
