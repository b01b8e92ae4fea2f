//! Moving bytes that a device, or another thread, may change meanwhile.
//!
//! In Rust such a copy is a data race unless every access is atomic, and of one size. Machine code has no such rule: each load gives
//! some bytes that were there. So these loops are assembly, and the compiler takes nothing for granted about what they touch.

/// Copies `len` bytes.
///
/// # Safety
///
/// `from` is mapped readable and `to` writable for `len` bytes, the ranges do not overlap, and on whichever side is ordinary memory no one
/// else has access.
#[inline]
pub(crate) unsafe fn bytes(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
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
    #[cfg(all(target_arch = "aarch64", not(miri)))]
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
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    for offset in 0..len {
        // SAFETY: inside the ranges that the caller vouches for.
        let (from, to) = unsafe { (from.add(offset), to.add(offset)) };
        // SAFETY: as above; a volatile access is not taken apart or left out.
        let byte = unsafe { from.read_volatile() };
        // SAFETY: as above.
        unsafe { to.write_volatile(byte) };
    }
}

/// Sets `len` bytes.
///
/// # Safety
///
/// `to` is mapped writable for `len` bytes.
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
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    for offset in 0..len {
        // SAFETY: inside the range that the caller vouches for.
        let to = unsafe { to.add(offset) };
        // SAFETY: as above; a volatile access is not taken apart or left out.
        unsafe { to.write_volatile(byte) };
    }
}
