//! Moving bytes that a device, or another thread, may change meanwhile.
//!
//! In Rust such a copy is a data race unless every access is atomic, and of one size. Machine code has no such rule: each load gives
//! some bytes that were there. So these loops are assembly, and the compiler takes nothing for granted about what they touch. What
//! they do beside atomics of other widths is what the machine does, not what the model describes: the model has no word for it.
//!
//! Without assembly (the interpreter, other machines) the loops are of atomic bytes. There atomics of other widths at the same place at the same time
//! would be a race.

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
use std::sync::atomic::{AtomicU8, Ordering};

/// Copies `len` bytes out of memory that is shared into memory that is not.
///
/// # Safety
///
/// `from` is mapped readable for `len` bytes, and no reference to them exists but to atomics. `to` is the caller's own for as many; the ranges do not overlap.
#[inline]
pub(crate) unsafe fn load(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
    // SAFETY: as the caller vouches.
    unsafe {
        bytes(from, to, len);
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    for offset in 0..len {
        // SAFETY: inside the ranges that the caller vouches for.
        let (from, to) = unsafe { (from.add(offset), to.add(offset)) };
        // SAFETY: readable, and whoever else has access has it through atomics; it is not written through.
        let byte = unsafe { AtomicU8::from_ptr(from.cast_mut()) }.load(Ordering::Relaxed);
        // SAFETY: the caller's own.
        unsafe { to.write(byte) };
    }
}

/// Copies `len` bytes out of memory that is not shared into memory that is.
///
/// # Safety
///
/// `from` is readable for `len` bytes and written by nobody meanwhile. `to` is mapped writable for as many, and no reference to them exists but to
/// atomics; the ranges do not overlap.
#[inline]
pub(crate) unsafe fn store(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
    // SAFETY: as the caller vouches.
    unsafe {
        bytes(from, to, len);
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    for offset in 0..len {
        // SAFETY: inside the ranges that the caller vouches for.
        let (from, to) = unsafe { (from.add(offset), to.add(offset)) };
        // SAFETY: readable, and nobody writes to it.
        let byte = unsafe { from.read() };
        // SAFETY: writable, and whoever else has access has it through atomics.
        unsafe { AtomicU8::from_ptr(to) }.store(byte, Ordering::Relaxed);
    }
}

/// Copies `len` bytes.
///
/// # Safety
///
/// `from` is mapped readable and `to` writable for `len` bytes, the ranges do not overlap, and on whichever side is ordinary memory no one
/// else has access.
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
#[inline]
unsafe fn bytes(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads `len` bytes from `from` and writes as many to `to`, which the caller vouches for; the direction flag is clear on entry.
    unsafe {
        std::arch::asm!(
            "rep movsq",
            "mov rcx, {tail}",
            "rep movsb",
            tail = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads `len` bytes from `from` and writes as many to `to`, which the caller vouches for.
    unsafe {
        std::arch::asm!(
            "2: cmp {len}, #8",
            "b.lo 3f",
            "ldr {word}, [{from}], #8",
            "str {word}, [{to}], #8",
            "sub {len}, {len}, #8",
            "b 2b",
            "3: cbz {len}, 4f",
            "ldrb {word:w}, [{from}], #1",
            "strb {word:w}, [{to}], #1",
            "sub {len}, {len}, #1",
            "b 3b",
            "4:",
            word = out(reg) _,
            len = inout(reg) len => _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            options(nostack)
        );
    }
}

/// Sets `len` bytes.
///
/// # Safety
///
/// `to` is mapped writable for `len` bytes, and no reference to them exists but to atomics.
#[inline]
pub(crate) unsafe fn fill(to: *mut u8, len: usize, byte: u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: writes `len` bytes to `to`, which the caller vouches for; the direction flag is clear on entry.
    unsafe {
        std::arch::asm!(
            "rep stosq",
            "mov rcx, {tail}",
            "rep stosb",
            tail = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            in("rax") u64::from_ne_bytes([byte; 8]),
            options(nostack, preserves_flags)
        );
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: writes `len` bytes to `to`, which the caller vouches for.
    unsafe {
        std::arch::asm!(
            "2: cmp {len}, #8",
            "b.lo 3f",
            "str {word}, [{to}], #8",
            "sub {len}, {len}, #8",
            "b 2b",
            "3: cbz {len}, 4f",
            "strb {word:w}, [{to}], #1",
            "sub {len}, {len}, #1",
            "b 3b",
            "4:",
            word = in(reg) u64::from_ne_bytes([byte; 8]),
            len = inout(reg) len => _,
            to = inout(reg) to => _,
            options(nostack)
        );
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    for offset in 0..len {
        // SAFETY: inside the range that the caller vouches for.
        let to = unsafe { to.add(offset) };
        // SAFETY: writable, and whoever else has access has it through atomics.
        unsafe { AtomicU8::from_ptr(to) }.store(byte, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length up to a few words, at every place in a word, with what lies around it.
    #[test]
    fn as_many_bytes_move_as_were_asked_for() {
        let mut source: Vec<u8> = (0..64).collect();
        for len in 0..40 {
            for (from, to) in (0..8).flat_map(|from| (0..8).map(move |to| (from, to))) {
                let mut want = [0xee; 64];
                want[to..to + len].copy_from_slice(&source[from..from + len]);
                for copy in [load, store] {
                    let mut found = [0xee; 64];
                    let (read, written) = (source[from..].as_mut_ptr(), found[to..].as_mut_ptr());
                    // SAFETY: both lie inside 64 bytes of this function's own, and 7 + 40 is less.
                    unsafe { copy(read, written, len) };
                    assert_eq!(found, want, "{len} bytes from {from} to {to}");
                }
                let mut found = [0xee; 64];
                // SAFETY: as above.
                unsafe { fill(found[to..].as_mut_ptr(), len, 0xa7) };
                want[to..to + len].fill(0xa7);
                assert_eq!(found, want, "{len} bytes at {to}");
            }
        }
    }
}
