//! The device's side of a split queue (virtio 1.3 §2.7).

use super::registers::{Fault, Registers};
use crate::virtio::spec::{Descriptor, Features, common, ring};
use vfio_core::Iova;
use vfio_core::fake::Bus;
use zerocopy::FromBytes;

#[derive(Debug, Clone)]
pub(super) struct DeviceQueue {
    pub(super) size: u16,
    pub(super) vector: u16,
    pub(super) is_on: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
    /// Next chain to be taken, and next one to be given back.
    taken: u16,
    used: u16,
}

/// A chain: what the device reads, and what it writes.
#[derive(Debug, Default, Clone)]
pub(super) struct Chain {
    head: u16,
    readable: Vec<(u64, u32)>,
    writable: Vec<(u64, u32)>,
}

/// Places of the index.
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;

impl DeviceQueue {
    pub(super) fn new(size: u16) -> Self {
        Self {
            size,
            vector: common::NO_VECTOR,
            is_on: false,
            descriptors: 0,
            driver: 0,
            device: 0,
            taken: 0,
            used: 0,
        }
    }

    pub(super) fn set_address(&mut self, place: usize, half: u64) {
        let address = match place & !4 {
            common::QUEUE_DESCRIPTORS => &mut self.descriptors,
            common::QUEUE_DRIVER => &mut self.driver,
            common::QUEUE_DEVICE => &mut self.device,
            _ => return,
        };
        let shift = if place & 4 == 0 { 0 } else { 32 };
        *address = *address & !(u64::from(u32::MAX) << shift) | half << shift;
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index % self.size.max(1))
    }
}

impl Chain {
    /// All that the driver wrote.
    pub(super) fn read(&self, bus: &Bus<'_>) -> Vec<u8> {
        let mut all = Vec::new();
        for &(address, len) in &self.readable {
            let mut part = vec![0; usize::try_from(len).unwrap_or(0)];
            // The machine notes what faults; the device does not know.
            let _fault = bus.dma_read(Iova(address), &mut part);
            all.extend(part);
        }
        all
    }

    /// Bytes that fit.
    pub(super) fn room(&self) -> usize {
        let sum: u64 = self.writable.iter().map(|&(_, len)| u64::from(len)).sum();
        usize::try_from(sum).unwrap_or(usize::MAX)
    }

    /// Writes as much as fits.
    pub(super) fn write(&self, mut bytes: &[u8], bus: &Bus<'_>) -> u32 {
        let mut written = 0;
        for &(address, len) in &self.writable {
            let now = bytes.len().min(usize::try_from(len).unwrap_or(0));
            let (part, rest) = bytes.split_at(now);
            let _fault = bus.dma_write(Iova(address), part);
            written += u32::try_from(now).unwrap_or(0);
            bytes = rest;
        }
        written
    }
}

impl Registers {
    /// The next chain of a queue.
    pub(super) fn take(&mut self, index: usize, bus: &Bus<'_>) -> Option<Chain> {
        let event_index = self.has(Features::EVENT_IDX);
        let queue = self.queues.get_mut(index)?;
        let available = word(bus, queue.driver + INDEX);
        if available == queue.taken {
            if event_index {
                // Tell of the next one.
                let place = queue.device + ENTRIES + 8 * u64::from(queue.size);
                let _fault = bus.dma_write(Iova(place), &queue.taken.to_le_bytes());
            }
            return None;
        }
        if available.wrapping_sub(queue.taken) > queue.size {
            self.mistake(format!("queue {index}: the driver's index jumps to {available}"));
            return None;
        }
        let head = word(bus, queue.driver + ENTRIES + 2 * queue.slot(queue.taken));
        queue.taken = queue.taken.wrapping_add(1);
        let queue = queue.clone();
        let chain = chain(&queue, head, self.has(Features::INDIRECT_DESC), bus);
        match chain {
            Ok(chain) => Some(chain),
            Err(text) => {
                self.mistake(format!("queue {index}: {text}"));
                None
            }
        }
    }

    /// Puts a chain back that was taken last.
    pub(super) fn untake(&mut self, index: usize, count: u16) {
        if let Some(queue) = self.queues.get_mut(index) {
            queue.taken = queue.taken.wrapping_sub(count);
        }
    }

    /// Gives a chain back, with `len` bytes written.
    pub(super) fn give(&mut self, index: usize, chain: &Chain, len: u32, bus: &Bus<'_>) {
        let mut lie = (u32::from(chain.head), len, 1);
        if self.fails(Fault::UnknownChain) {
            lie.0 = 0x1_0007;
        }
        if self.fails(Fault::TooLong) {
            lie.1 = u32::try_from(chain.room()).unwrap_or(u32::MAX).saturating_add(1);
        }
        if self.fails(Fault::IndexJumps) {
            lie.2 = 300;
        }
        if self.fails(Fault::Nothing) {
            lie.1 = 0;
        }
        self.lie(index, lie, bus);
        if self.fails(Fault::DoneTwice) {
            self.lie(index, lie, bus);
        }
    }

    /// Says that a chain is done, and moves the index.
    pub(super) fn lie(&mut self, index: usize, (id, len, step): (u32, u32, u16), bus: &Bus<'_>) {
        let event_index = self.has(Features::EVENT_IDX);
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        let place = queue.device + ENTRIES + 8 * queue.slot(queue.used);
        let mut entry = [0; 8];
        super::put(&mut entry, 0, &id.to_le_bytes());
        super::put(&mut entry, 4, &len.to_le_bytes());
        let _fault = bus.dma_write(Iova(place), &entry);
        let old = queue.used;
        queue.used = queue.used.wrapping_add(step);
        // The entry before the index.
        let _fault = bus.dma_write(Iova(queue.device + INDEX), &queue.used.to_le_bytes());
        let is_wanted = if event_index {
            let event = word(bus, queue.driver + ENTRIES + 2 * u64::from(queue.size));
            queue.used.wrapping_sub(event).wrapping_sub(1) < queue.used.wrapping_sub(old)
        } else {
            word(bus, queue.driver) & ring::NO_INTERRUPT == 0
        };
        let vector = queue.vector;
        if is_wanted && vector != common::NO_VECTOR {
            self.interrupts += 1;
            bus.msix(vector.into());
        }
    }
}

/// Follows a chain; or says what is wrong with it.
fn chain(queue: &DeviceQueue, head: u16, indirect: bool, bus: &Bus<'_>) -> Result<Chain, String> {
    let mut chain = Chain {
        head,
        ..Chain::default()
    };
    let (mut table, mut count, mut at, mut steps) = (queue.descriptors, queue.size, head, 0);
    loop {
        if at >= count || steps >= count {
            return Err(format!("descriptor {at} of {count}"));
        }
        steps += 1;
        let mut bytes = [0; 16];
        let read = bus.dma_read(Iova(table + 16 * u64::from(at)), &mut bytes);
        let descriptor = Descriptor::read_from_bytes(&bytes);
        let (Ok(()), Ok(descriptor)) = (read, descriptor) else {
            return Err("a descriptor that cannot be read".to_owned());
        };
        let (flags, len) = (descriptor.flags.get(), descriptor.len.get());
        if flags & ring::INDIRECT != 0 {
            let is_right = indirect && table == queue.descriptors && flags == ring::INDIRECT && len % 16 == 0;
            if !is_right {
                return Err("a table where there must be none".to_owned());
            }
            (table, at, steps) = (descriptor.address.get(), 0, 0);
            count = u16::try_from(len / 16).unwrap_or(u16::MAX);
            if count > queue.size {
                return Err("a table that is longer than the queue".to_owned());
            }
            continue;
        }
        let piece = (descriptor.address.get(), len);
        if flags & ring::WRITE != 0 {
            chain.writable.push(piece);
        } else if chain.writable.is_empty() {
            chain.readable.push(piece);
        } else {
            return Err("what is read behind what is written".to_owned());
        }
        if len == 0 {
            return Err("a piece of no bytes".to_owned());
        }
        if flags & ring::NEXT == 0 {
            return Ok(chain);
        }
        at = descriptor.next.get();
    }
}

fn word(bus: &Bus<'_>, address: u64) -> u16 {
    let mut bytes = [0; 2];
    let _fault = bus.dma_read(Iova(address), &mut bytes);
    u16::from_le_bytes(bytes)
}
