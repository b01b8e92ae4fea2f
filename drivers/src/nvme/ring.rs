//! Submission and completion queues in memory (Base §3.3.1), for admin and I/O alike.
//!
//! A ring knows entries and doorbells, not commands. Entries are stored and loaded as atomic words: a controller reads and writes them at any
//! time. Submissions can also be in the controller's own memory.

use super::doorbell::{Doorbell, Shadow};
use super::memory::Memory;
use super::memory_buffer::Buffer;
use super::spec::{Cqe, Sqe};
use crate::ErrorKind;
use iommu::Iova;
use iommu::space::AddressSpace;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Commands on their way to the controller.
#[derive(Debug)]
pub(crate) struct SubmissionRing {
    memory: Memory,
    entries: u16,
    /// The next entry to be filled.
    tail: u16,
    /// The tail that the controller knows.
    rung: u16,
    doorbell: Doorbell,
}

/// Completions on their way back.
#[derive(Debug)]
pub(crate) struct CompletionRing {
    memory: Memory,
    entries: u16,
    /// The next entry to be filled by the controller.
    head: u16,
    /// The head that the controller knows.
    rung: u16,
    /// The phase tag of an entry that is new.
    phase: bool,
    doorbell: Doorbell,
}

/// Words of an entry.
const SQE_WORDS: usize = size_of::<Sqe>() / 8;
const CQE_WORDS: usize = size_of::<Cqe>() / 8;

impl SubmissionRing {
    /// Memory for `entries` entries, at least 2: one of them is always free. `page_bytes` is the controller's page.
    ///
    /// # Errors
    ///
    /// Those of memory.
    pub(crate) fn new(
        space: &AddressSpace,
        page_bytes: u64,
        entries: u16,
        doorbell: Doorbell,
    ) -> Result<Self, ErrorKind> {
        let entries = entries.max(2);
        let memory = Memory::new(space, page_bytes, usize::from(entries) * size_of::<Sqe>())?;
        Ok(Self::of(memory, entries, doorbell))
    }

    /// As [`new`](Self::new), in the controller memory buffer.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) of a buffer that takes no submission queues, or has no room for this one.
    pub(crate) fn in_buffer(buffer: &Arc<Buffer>, entries: u16, doorbell: Doorbell) -> Result<Self, ErrorKind> {
        if !buffer.takes_submission_queues() {
            let what = "submission queues in the controller memory buffer (CMBSZ.SQS)";
            return Err(ErrorKind::Unsupported(what.into()));
        }
        let entries = entries.max(2);
        let pages = buffer.take(usize::from(entries) * size_of::<Sqe>())?;
        Ok(Self::of(Memory::of_controller(pages), entries, doorbell))
    }

    fn of(memory: Memory, entries: u16, doorbell: Doorbell) -> Self {
        Self {
            memory,
            entries,
            tail: 0,
            rung: 0,
            doorbell,
        }
    }

    /// Where the controller finds it: at a multiple of a page, contiguous.
    pub(crate) fn iova(&self) -> Iova {
        self.memory.iova()
    }

    /// How many entries it has.
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Fills the next entry; the controller is not told. The caller has fewer commands outstanding than there are entries.
    ///
    /// Relaxed: the doorbell orders them all.
    #[inline]
    pub(crate) fn push(&mut self, sqe: &Sqe) {
        let start = usize::from(self.tail) * SQE_WORDS;
        // Of the controller's memory there are no words: the check of bounds, which memory needs as well, tells one from the other.
        if let Some(slot) = self.memory.words().get(start..start + SQE_WORDS) {
            for (word, value) in slot.iter().zip(sqe.words()) {
                word.store(value, Ordering::Relaxed);
            }
        } else {
            self.memory.write(start, sqe.words().map(u64::from_le));
        }
        let next = self.tail + 1;
        self.tail = if next == self.entries { 0 } else { next };
    }

    /// Tells the controller of all that was filled since the last time.
    #[inline]
    pub(crate) fn ring(&mut self) {
        if self.rung != self.tail {
            self.doorbell.ring(self.rung, self.tail);
            self.rung = self.tail;
        }
    }

    /// Of the admin queue: its doorbell is rung in memory, too, until it is [reset](Self::reset).
    pub(crate) fn mirror(&mut self, shadow: &Arc<Shadow>) {
        self.doorbell.mirror(shadow, self.rung);
    }

    /// As when it was made, for a queue that is made anew in the same memory, with its new doorbell.
    pub(crate) fn reset(&mut self, doorbell: Doorbell) {
        (self.tail, self.rung, self.doorbell) = (0, 0, doorbell);
    }

    /// Never gives its memory back: a controller may still read it.
    pub(crate) fn leak(&mut self) {
        self.memory.leak();
    }
}

impl CompletionRing {
    /// Memory for `entries` entries, at least 2. `page_bytes` is the controller's page.
    ///
    /// # Errors
    ///
    /// Those of memory.
    pub(crate) fn new(
        space: &AddressSpace,
        page_bytes: u64,
        entries: u16,
        doorbell: Doorbell,
    ) -> Result<Self, ErrorKind> {
        let entries = entries.max(2);
        Ok(Self {
            memory: Memory::new(space, page_bytes, usize::from(entries) * size_of::<Cqe>())?,
            entries,
            head: 0,
            rung: 0,
            phase: true,
            doorbell,
        })
    }

    /// Where the controller finds it: at a multiple of a page, contiguous.
    pub(crate) fn iova(&self) -> Iova {
        self.memory.iova()
    }

    /// How many entries it has.
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// The next completion, if there is one.
    ///
    /// The word with the phase tag is loaded first, and with Acquire: the other word, and the data that the completion stands for, are not
    /// older than it.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Cqe> {
        let start = usize::from(self.head) * CQE_WORDS;
        let [result, tail] = self.memory.words().get(start..start + CQE_WORDS)? else {
            return None;
        };
        let tail = tail.load(Ordering::Acquire);
        if Cqe::phase_of(tail) != self.phase {
            return None;
        }
        let result = result.load(Ordering::Relaxed);
        let next = self.head + 1;
        if next == self.entries {
            (self.head, self.phase) = (0, !self.phase);
        } else {
            self.head = next;
        }
        Some(Cqe::from_words([result, tail]))
    }

    /// Whether a completion of this command of that queue is there, and was not taken. Slow: looks at all that were not.
    pub(crate) fn holds(&self, sq_id: u16, cid: u16) -> bool {
        let words = self.memory.words().chunks_exact(CQE_WORDS);
        let (before, from) = (usize::from(self.head), usize::from(self.entries - self.head));
        let entries = words.clone().skip(before).take(from).map(|entry| (entry, self.phase));
        let wrapped = words.take(before).map(|entry| (entry, !self.phase));
        let mut new = entries.chain(wrapped).map_while(|(entry, phase)| {
            let tail = entry.last()?.load(Ordering::Acquire);
            (Cqe::phase_of(tail) == phase).then(|| Cqe::from_words([0, tail]))
        });
        new.any(|cqe| cqe.sq_id() == sq_id && cqe.cid() == cid)
    }

    /// How many entries were taken that the controller does not know of.
    #[inline]
    pub(crate) fn taken(&self) -> u16 {
        if self.head >= self.rung {
            self.head - self.rung
        } else {
            self.entries - self.rung + self.head
        }
    }

    /// Gives the entries that were taken back to the controller.
    #[inline]
    pub(crate) fn ring(&mut self) {
        if self.rung != self.head {
            self.doorbell.ring(self.rung, self.head);
            self.rung = self.head;
        }
    }

    /// As [`SubmissionRing::mirror`].
    pub(crate) fn mirror(&mut self, shadow: &Arc<Shadow>) {
        self.doorbell.mirror(shadow, self.rung);
    }

    /// As when it was made, for a queue that is made anew in the same memory, with its new doorbell. No controller writes to it.
    pub(crate) fn reset(&mut self, doorbell: Doorbell) {
        for word in self.memory.words() {
            word.store(0, Ordering::Relaxed);
        }
        (self.head, self.rung, self.phase, self.doorbell) = (0, 0, true, doorbell);
    }

    /// Never gives its memory back: a controller may still write to it.
    pub(crate) fn leak(&mut self) {
        self.memory.leak();
    }
}
