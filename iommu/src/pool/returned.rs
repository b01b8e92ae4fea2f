//! Slots on their way back to the owner of a pool.

use crate::sync::{AtomicU32, Ordering};

/// A stack of slots that any thread pushes to and one thread empties as a whole. A slot's link belongs to whoever holds the slot.
///
/// Nothing is popped singly, so it cannot matter that a slot leaves and comes back between another thread's read and its exchange.
#[derive(Debug)]
pub(super) struct Returned {
    first: AtomicU32,
}

/// The end of a list of slots.
pub(super) const END: u32 = u32::MAX;

impl Returned {
    pub(super) fn new() -> Self {
        Self {
            first: AtomicU32::new(END),
        }
    }

    /// Gives a slot back.
    pub(super) fn push(&self, slot: u32, link: &AtomicU32) {
        let mut first = self.first.load(Ordering::Relaxed);
        loop {
            link.store(first, Ordering::Relaxed);
            // Release: whoever takes the slot sees its link, and comes after all that was done with it.
            let exchanged = self
                .first
                .compare_exchange_weak(first, slot, Ordering::Release, Ordering::Relaxed);
            match exchanged {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Takes all slots: the first one, whose link names the next.
    pub(super) fn take(&self) -> u32 {
        // Most often there is nothing, and reading leaves the cache line where it is.
        if self.first.load(Ordering::Relaxed) == END {
            return END;
        }
        self.first.swap(END, Ordering::Acquire)
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p iommu --lib model`.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn every_slot_comes_back_once() {
        loom::model(|| {
            let shared = Arc::new((
                Returned::new(),
                [AtomicU32::new(END), AtomicU32::new(END), AtomicU32::new(END)],
            ));
            let threads: Vec<_> = (0..2)
                .map(|slot| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || shared.0.push(slot, &shared.1[slot as usize]))
                })
                .collect();
            shared.0.push(2, &shared.1[2]);
            let mut seen = vec![];
            let mut collect = || {
                let mut slot = shared.0.take();
                while slot != END {
                    seen.push(slot);
                    slot = shared.1[slot as usize].load(Ordering::Relaxed);
                }
            };
            collect();
            for thread in threads {
                thread.join().unwrap();
            }
            collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2]);
        });
    }

    #[test]
    fn a_slot_that_comes_back_twice_keeps_its_neighbours() {
        loom::model(|| {
            let shared = Arc::new((Returned::new(), [AtomicU32::new(END), AtomicU32::new(END)]));
            shared.0.push(0, &shared.1[0]);
            let other = Arc::clone(&shared);
            let other = thread::spawn(move || other.0.push(1, &other.1[1]));
            // The owner takes slot 0 and gives it back while the other thread may be between its read and its exchange.
            let first = shared.0.take();
            let mut held = vec![];
            let mut slot = first;
            while slot != END {
                held.push(slot);
                slot = shared.1[slot as usize].load(Ordering::Relaxed);
            }
            for &slot in &held {
                shared.0.push(slot, &shared.1[slot as usize]);
            }
            other.join().unwrap();
            let mut seen = vec![];
            let mut slot = shared.0.take();
            while slot != END {
                seen.push(slot);
                slot = shared.1[slot as usize].load(Ordering::Relaxed);
            }
            seen.sort_unstable();
            assert_eq!(seen, [0, 1]);
        });
    }
}
