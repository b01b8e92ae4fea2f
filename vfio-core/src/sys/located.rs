//! Memory that was asked where it is, so that nobody asks again while something is locked: what it does to answer is not known here.

use crate::StableMemory;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Memory, with its address and length. Holds it alive.
#[derive(Debug)]
pub(crate) struct Located {
    /// Never changed: a pointer that may go to other threads.
    address: AtomicPtr<u8>,
    len: usize,
    memory: Arc<dyn StableMemory>,
}

impl Located {
    pub(crate) fn new(memory: Arc<dyn StableMemory>) -> Self {
        Self {
            address: AtomicPtr::new(memory.address()),
            len: memory.len(),
            memory,
        }
    }

    /// The memory that was asked.
    pub(crate) fn into_memory(self) -> Arc<dyn StableMemory> {
        self.memory
    }
}

#[cfg(feature = "fake")]
impl Clone for Located {
    fn clone(&self) -> Self {
        Self {
            address: AtomicPtr::new(self.address()),
            len: self.len,
            memory: Arc::clone(&self.memory),
        }
    }
}

// SAFETY: address and length are those of `memory`, of which `StableMemory` says that they never change, and which is held and never replaced.
unsafe impl StableMemory for Located {
    fn address(&self) -> *mut u8 {
        self.address.load(Ordering::Relaxed)
    }

    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Memory that calls a function whenever it is asked where it is.
    pub(crate) struct Asked {
        memory: crate::Memory,
        asked: Box<dyn Fn() + Send + Sync>,
    }

    impl Asked {
        pub(crate) fn shared(asked: impl Fn() + Send + Sync + 'static) -> Arc<dyn StableMemory> {
            let memory = crate::Memory::new(1 << 16, crate::MemoryOptions::default()).unwrap();
            let asked: Box<dyn Fn() + Send + Sync> = Box::new(asked);
            Arc::new(Self { memory, asked })
        }
    }

    // SAFETY: the memory is that of `memory`, which is held and never replaced.
    unsafe impl StableMemory for Asked {
        fn address(&self) -> *mut u8 {
            (self.asked)();
            self.memory.address()
        }

        fn len(&self) -> usize {
            (self.asked)();
            StableMemory::len(&self.memory)
        }
    }

    impl std::fmt::Debug for Asked {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.memory.fmt(f)
        }
    }

    #[test]
    fn memory_is_asked_once() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let memory = Asked::shared(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let located = Located::new(Arc::clone(&memory));
        let asked = count.load(Ordering::Relaxed);
        let answers = [(); 2].map(|()| (located.address(), located.len()));
        assert_eq!(count.load(Ordering::Relaxed), asked);
        assert_eq!(answers, [(memory.address(), memory.len()); 2]);
    }
}
