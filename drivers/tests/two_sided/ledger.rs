//! Where payloads are, and that nobody writes to those that came back.

use drivers::nvme::Payload;
use iommu::Iova;
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::space::AddressSpace;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_core::Access;

/// All payloads of a run. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    made: u64,
    /// Those that have not been dropped.
    alive: BTreeSet<u64>,
    /// Memory that came back, and what it holds.
    resting: VecDeque<(DmaBuffer<Both>, u8)>,
}

/// Data of a command.
pub(super) struct Data {
    id: u64,
    buffer: Option<DmaBuffer<Both>>,
    /// Where it begins in the buffer.
    offset: usize,
    len: usize,
    ledger: Ledger,
}

/// Memory that came back is kept so long.
const RESTING: usize = 16;

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, space: &AddressSpace, len: usize, offset: u16) -> Data {
        let offset = usize::from(offset % 1024) * 4;
        let bytes = (offset + len + 64).next_multiple_of(4096);
        let buffer = DmaBuffer::new(space, bytes, &BufferOptions::default()).expect("there is memory");
        let mut book = self.book();
        book.made += 1;
        let id = book.made;
        book.alive.insert(id);
        Data {
            id,
            buffer: Some(buffer),
            offset,
            len,
            ledger: self.clone(),
        }
    }

    /// Memory that came back is as it was left.
    pub(super) fn check(&self) {
        for (buffer, pattern) in &self.book().resting {
            let mut bytes = vec![0; buffer.len()];
            buffer.read(0, &mut bytes).expect("inside");
            assert!(
                bytes.iter().all(|byte| byte == pattern),
                "memory that came back was written to"
            );
        }
    }

    /// Payloads that have not been dropped.
    pub(super) fn lost(&self) -> Vec<u64> {
        self.book().alive.iter().copied().collect()
    }
}

impl Data {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// It came back: its memory is watched for a while.
    pub(super) fn rest(mut self) {
        let Some(mut buffer) = self.buffer.take() else { return };
        let [pattern, ..] = self.id.to_le_bytes();
        buffer.write(0, &vec![pattern; buffer.len()]).expect("inside");
        let mut book = self.ledger.book();
        book.resting.push_back((buffer, pattern));
        let oldest = (book.resting.len() > RESTING).then(|| book.resting.pop_front());
        drop(book);
        drop(oldest);
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        self.ledger.book().alive.remove(&self.id);
    }
}

impl Payload for Data {
    fn len(&self) -> u64 {
        self.len as u64
    }

    fn access(&self) -> Access {
        Access::READ | Access::WRITE
    }

    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        let buffer = self.buffer.as_ref()?;
        let start = Iova(buffer.iova().0 + self.offset as u64);
        (index == 0).then_some((start, self.len as u64))
    }

    fn metadata(&self) -> Option<(Iova, u64)> {
        let buffer = self.buffer.as_ref()?;
        let end = (self.offset + self.len).next_multiple_of(4);
        Some((Iova(buffer.iova().0 + end as u64), 60))
    }
}
