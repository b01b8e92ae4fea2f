//! Words of memory that a device shares, for rings: checked once, and then as near as a slice.

use crate::Memory;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Eight bytes each, in the CPU's order, shared with devices. Holds the memory. The default are none.
pub struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
    memory: Option<Arc<Memory>>,
}

// SAFETY: atomics may be used from any thread, and the memory that is held may be sent.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// `count` words from the byte at `offset`; `None` outside the memory or off their alignment.
    #[must_use]
    pub fn new(memory: &Arc<Memory>, offset: usize, count: usize) -> Option<Self> {
        let end = count.checked_mul(8)?.checked_add(offset)?;
        if end > memory.len() || !offset.is_multiple_of(8) {
            return None;
        }
        let base = NonNull::new(memory.map().address())?;
        // SAFETY: inside the mapping, as just checked.
        let first = unsafe { base.add(offset) };
        Some(Self {
            // A mapping begins at a page, and the offset is a multiple of 8.
            first: first.cast(),
            count,
            memory: Some(Arc::clone(memory)),
        })
    }
}

impl Default for Words {
    fn default() -> Self {
        Self {
            first: NonNull::dangling(),
            count: 0,
            memory: None,
        }
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: none; or inside the mapping and aligned, as `new` checked; `memory` keeps the mapping where it is; all other accesses are
        // atomic too, or copies that the compiler cannot see.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Words")
            .field("count", &self.count)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryOptions;
    use std::sync::atomic::Ordering;

    #[test]
    fn words_are_those_of_the_memory_and_hold_it() {
        let memory = Arc::new(Memory::new(4096, MemoryOptions::default()).unwrap());
        let len = memory.len();
        memory.write_value(16, &7_u64).unwrap();
        let words = Words::new(&memory, 8, 2).unwrap();
        assert_eq!(words.len(), 2);
        words[0].store(5, Ordering::Relaxed);
        assert_eq!(memory.read_value::<u64>(8), Some(5));
        assert_eq!(Words::new(&memory, 0, len / 8).unwrap().len(), len / 8);
        for (offset, count) in [
            (0, len / 8 + 1),
            (4, 1),
            (8, len / 8),
            (0, usize::MAX / 4),
            (usize::MAX - 7, 1),
        ] {
            assert!(Words::new(&memory, offset, count).is_none());
        }
        drop(memory);
        assert_eq!(words[1].load(Ordering::Relaxed), 7);
        assert!(Words::default().is_empty());
    }
}
