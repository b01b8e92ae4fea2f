//! The memory of a split queue (virtio 1.3 §2.7): descriptors, what the driver writes, what the device writes, tables of descriptors, and
//! room of the driver's own for each request.
//!
//! All words are atomic, because the device reads and writes them at any time.

use super::spec::{Descriptor, UsedElement, ring};
use iommu::Iova;
use iommu::buffer::{Both, DmaBuffer};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vfio_core::fence;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Where everything is.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Arc<DmaBuffer<Both>>,
    places: Places,
}

/// Offsets in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    size: u16,
    /// Descriptors of a table; 0 without tables.
    table: u16,
    /// Bytes of the driver's own for each request.
    room: usize,
    available: usize,
    used: usize,
    tables: usize,
    rooms: usize,
    pub(super) len: usize,
}

/// What a device reads and what it writes lie in cache lines of their own.
const LINE: usize = 64;
const DESCRIPTOR: usize = size_of::<Descriptor>();

impl Places {
    /// Of a queue of `size` descriptors, a power of two. `table`: descriptors of each table, or 0. `room`: bytes of each request, a multiple of 8.
    pub(super) fn new(size: u16, table: u16, room: usize) -> Self {
        let count = usize::from(size);
        let available = count * DESCRIPTOR;
        // Flags, index and event: two bytes each.
        let used = (available + 6 + 2 * count).next_multiple_of(LINE);
        let tables = (used + 6 + size_of::<UsedElement>() * count).next_multiple_of(LINE);
        let rooms = (tables + count * usize::from(table) * DESCRIPTOR).next_multiple_of(LINE);
        Self {
            size,
            table,
            room,
            available,
            used,
            tables,
            rooms,
            len: rooms + count * room,
        }
    }
}

impl Ring {
    /// In memory of [`Places::len`] bytes, which are 0.
    pub(super) fn new(memory: Arc<DmaBuffer<Both>>, places: Places) -> Self {
        Self { memory, places }
    }

    /// IOVAs of descriptors, the driver's part and the device's.
    pub(super) fn addresses(&self) -> [u64; 3] {
        [0, self.places.available, self.places.used].map(|offset| self.iova(offset))
    }

    fn iova(&self, offset: usize) -> u64 {
        let Iova(start) = self.memory.iova();
        start + offset as u64
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.places.size - 1))
    }

    /// Where the descriptors of a table begin.
    pub(super) fn table(&self, slot: u16) -> usize {
        self.places.tables + usize::from(slot) * usize::from(self.places.table) * DESCRIPTOR
    }

    /// Writes descriptor `nth` behind `start`, which is 0 or that of a table.
    #[inline]
    pub(super) fn write_descriptor(&self, start: usize, nth: u16, descriptor: Descriptor) {
        let offset = start + usize::from(nth) * DESCRIPTOR;
        self.store(offset, &descriptor);
    }

    /// Points descriptor `head` to a table of so many descriptors.
    #[inline]
    pub(super) fn write_indirect(&self, head: u16, table: usize, count: u16) {
        let descriptor = Descriptor {
            address: self.iova(table).into(),
            len: (u32::from(count) * 16).into(),
            flags: ring::INDIRECT.into(),
            next: 0.into(),
        };
        self.write_descriptor(0, head, descriptor);
    }

    /// Puts a chain at a place among what is available. The device does not know before [`publish`](Self::publish).
    #[inline]
    pub(super) fn offer(&self, index: u16, head: u16) {
        let offset = self.places.available + 4 + 2 * self.slot(index);
        self.store_u16(offset, head, Ordering::Relaxed);
    }

    /// Lets the device see everything up to `index`.
    #[inline]
    pub(super) fn publish(&self, index: u16) {
        // After descriptors and entries: a device that sees the index sees them.
        fence::dma_write();
        self.store_u16(self.places.available + 2, index, Ordering::Release);
    }

    /// Flags of the driver: [`ring::NO_INTERRUPT`].
    #[inline]
    pub(super) fn set_flags(&self, flags: u16) {
        self.store_u16(self.places.available, flags, Ordering::Relaxed);
    }

    /// With `EVENT_IDX`: the device interrupts when it is done with the chain of this index.
    #[inline]
    pub(super) fn set_used_event(&self, index: u16) {
        let offset = self.places.available + 4 + 2 * usize::from(self.places.size);
        self.store_u16(offset, index, Ordering::Relaxed);
    }

    /// How far the device is.
    #[inline]
    pub(super) fn used_index(&self) -> u16 {
        // Before its entries, and before what it wrote for them.
        let index = self.load_u16(self.places.used + 2, Ordering::Acquire);
        fence::dma_read();
        index
    }

    /// Which chain the device was done with at this index, and how many bytes it wrote. Older than nothing that
    /// [`used_index`](Self::used_index) has acquired.
    #[inline]
    pub(super) fn used(&self, index: u16) -> (u32, u32) {
        let offset = self.places.used + 4 + size_of::<UsedElement>() * self.slot(index);
        (self.load_u32(offset), self.load_u32(offset + 4))
    }

    /// Flags of the device: [`ring::NO_NOTIFY`].
    #[inline]
    pub(super) fn device_flags(&self) -> u16 {
        self.load_u16(self.places.used, Ordering::Relaxed)
    }

    /// With `EVENT_IDX`: the device wants to be told of the chain of this index.
    #[inline]
    pub(super) fn available_event(&self) -> u16 {
        let offset = self.places.used + 4 + size_of::<UsedElement>() * usize::from(self.places.size);
        self.load_u16(offset, Ordering::Relaxed)
    }

    /// IOVA of a byte of a request's own room.
    #[inline]
    pub(super) fn room_iova(&self, slot: u16, offset: usize) -> u64 {
        self.iova(self.room(slot) + offset)
    }

    /// Writes into a request's own room, at a multiple of 8.
    #[inline]
    pub(super) fn write_room(&self, slot: u16, offset: usize, value: &(impl IntoBytes + Immutable)) {
        self.store(self.room(slot) + offset, value);
    }

    /// Reads a byte of a request's own room.
    #[inline]
    pub(super) fn read_room(&self, slot: u16, offset: usize) -> u8 {
        let word = self.memory.atomic_u8(self.room(slot) + offset);
        word.map_or(u8::MAX, |word| word.load(Ordering::Relaxed))
    }

    fn room(&self, slot: u16) -> usize {
        self.places.rooms + usize::from(slot) * self.places.room
    }

    /// Stores in words of 8 bytes; a last part of less becomes one with zeroes.
    #[inline]
    fn store(&self, offset: usize, value: &(impl IntoBytes + Immutable)) {
        for (nth, part) in value.as_bytes().chunks(8).enumerate() {
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().zip(part) {
                *to = *from;
            }
            if let Some(word) = self.memory.atomic_u64(offset + 8 * nth) {
                word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
            }
        }
    }

    #[inline]
    fn store_u16(&self, offset: usize, value: u16, ordering: Ordering) {
        if let Some(word) = self.memory.atomic_u16(offset) {
            word.store(value.to_le(), ordering);
        }
    }

    #[inline]
    fn load_u16(&self, offset: usize, ordering: Ordering) -> u16 {
        let word = self.memory.atomic_u16(offset);
        word.map_or(0, |word| u16::from_le(word.load(ordering)))
    }

    #[inline]
    fn load_u32(&self, offset: usize) -> u32 {
        let word = self.memory.atomic_u32(offset);
        word.map_or(0, |word| u32::from_le(word.load(Ordering::Relaxed)))
    }
}

/// Bytes at the start of a buffer, as a structure.
pub(super) fn header<T: FromBytes + IntoBytes>(buffer: &DmaBuffer<Both>) -> Option<T> {
    let mut value = T::new_zeroed();
    buffer.read(0, value.as_mut_bytes())?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_are_aligned_and_apart(power in 0..16_u32, table in 0..130_u16, room in 0..16_usize) {
            let size = 1_u16.checked_shl(power).unwrap();
            let count = usize::from(size);
            let places = Places::new(size, table, room * 8);
            // §2.7: 16, 2 and 4.
            prop_assert!(places.available.is_multiple_of(2) && places.used.is_multiple_of(4));
            prop_assert!(places.tables.is_multiple_of(16) && places.rooms.is_multiple_of(8));
            prop_assert!(places.available >= 16 * count);
            prop_assert!(places.used >= places.available + 6 + 2 * count);
            prop_assert!(places.tables >= places.used + 6 + 8 * count);
            prop_assert!(places.rooms >= places.tables + 16 * count * usize::from(table));
            prop_assert_eq!(places.len, places.rooms + 8 * room * count);
        }
    }
}
