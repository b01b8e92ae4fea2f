//! Order between memory and a device: the kernel's `dma_wmb()`, `dma_rmb()` and `mb()`.
//!
//! The compiler orders volatile accesses among themselves only, and atomics have no say about them; so a descriptor could be
//! written after the doorbell that announces it. On x86-64 the CPU keeps stores in order and loads in order, for the memory types that DMA memory
//! and uncached registers have (Intel SDM Vol. 3A §10.2); only the compiler must be held. On aarch64 both need a barrier.

/// What was written to memory before is visible to the device before what is written after (`dma_wmb`).
#[inline]
pub fn dma_write() {
    #[cfg(target_arch = "x86_64")]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a barrier changes no memory.
    unsafe {
        std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", not(miri)))))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// What is read after was not read before what was read before (`dma_rmb`).
#[inline]
pub fn dma_read() {
    #[cfg(target_arch = "x86_64")]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a barrier changes no memory.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", not(miri)))))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Both, and what was written before is visible before anything is read after (`mb`): needed between a shadow doorbell and the device's event
/// index.
#[inline]
pub fn dma() {
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a barrier changes no memory.
    unsafe {
        std::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}
