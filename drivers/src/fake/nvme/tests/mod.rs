//! The controller, driven by hand: by bytes, without the driver.

mod admin;
mod data;
mod faults;
mod life;
mod virtualization;

use super::{Nvme, Options};
use crate::fake::{FakeBacking, Interface};
use crate::{Backing, Registers};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};

/// A host without manners.
struct Host {
    nvme: Nvme,
    backing: FakeBacking,
    registers: Registers,
    /// Queue pairs by number.
    queues: Vec<Queue>,
    ids: u16,
}

struct Queue {
    submissions: DmaBuffer<Both>,
    completions: DmaBuffer<Both>,
    size: u32,
    tail: u32,
    head: u32,
    phase: bool,
}

/// A completion as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    result: u32,
    head: u16,
    queue: u16,
    id: u16,
    status: u16,
}

fn bytes<const N: usize>(buffer: &DmaBuffer<Both>, at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    buffer.read(at, &mut bytes).unwrap();
    bytes
}

impl Queue {
    fn new(backing: &FakeBacking, size: u32) -> Self {
        let buffer = |bytes| buffer(backing, bytes);
        Self {
            submissions: buffer(64 * size as usize),
            completions: buffer(16 * size as usize),
            size,
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    fn look(&self) -> Option<Found> {
        let entry: [u8; 16] = bytes(&self.completions, 16 * self.head as usize);
        let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let found = Found {
            result: u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]),
            head: half(8),
            queue: half(10),
            id: half(12),
            status: half(14) >> 1,
        };
        ((half(14) & 1 == 1) == self.phase).then_some(found)
    }
}

/// Memory of whole pages.
fn buffer(backing: &FakeBacking, len: usize) -> DmaBuffer<Both> {
    DmaBuffer::new(backing.space(), len.next_multiple_of(4096), &BufferOptions::default()).unwrap()
}

impl Host {
    fn of(options: Options) -> Self {
        let nvme = Nvme::new(options);
        let backing = FakeBacking::through(Interface::Iommufd, nvme.clone()).unwrap();
        Self::over(nvme, backing)
    }

    /// A controller that is ready.
    fn ready(options: Options) -> Self {
        let mut host = Self::of(options);
        assert!(host.enable());
        host
    }

    /// A controller that is ready, with a queue pair of so many entries.
    fn with_queue(options: Options, size: u32) -> Self {
        let mut host = Self::ready(options);
        host.create(1, size);
        host
    }

    fn over(nvme: Nvme, backing: FakeBacking) -> Self {
        backing.start().unwrap();
        let registers = backing.map_bar(0, 0..0xc000).unwrap();
        let admin = Queue::new(&backing, 8);
        Self {
            nvme,
            backing,
            registers,
            queues: vec![admin],
            ids: 0,
        }
    }

    fn status(&self) -> u32 {
        self.registers.read_u32(0x1c).unwrap()
    }

    fn write(&self, offset: usize, value: u32) {
        self.registers.write_u32(offset, value).unwrap();
    }

    /// Enables it, and waits; whether it is ready.
    fn enable(&mut self) -> bool {
        let queue = &mut self.queues[0];
        (queue.tail, queue.head, queue.phase) = (0, 0, true);
        queue.completions.clear();
        let (asq, acq) = (queue.submissions.iova().0, queue.completions.iova().0);
        self.write(0x24, (self.queues[0].size - 1) * 0x1_0001);
        self.registers.write_u64(0x28, asq).unwrap();
        self.registers.write_u64(0x30, acq).unwrap();
        self.write(0x14, 1 | 6 << 16 | 4 << 20);
        self.poke(10);
        self.status() == 1
    }

    fn poke(&self, times: u32) {
        for _ in 0..times {
            self.backing.poke();
        }
    }

    fn create(&mut self, id: u16, size: u32) {
        let queue = Queue::new(&self.backing, size);
        let numbers = u32::from(id) | (size - 1) << 16;
        let interrupt = u32::from(id) << 16 | 0b11;
        let made = self.admin(0x05, 0, queue.completions.iova().0, 0, [numbers, interrupt]);
        assert_eq!(made.status, 0);
        let made = self.admin(
            0x01,
            0,
            queue.submissions.iova().0,
            0,
            [numbers, u32::from(id) << 16 | 1],
        );
        assert_eq!(made.status, 0);
        assert_eq!(self.queues.len(), usize::from(id));
        self.queues.push(queue);
    }

    /// An entry in the next slot of a queue; its identifier.
    fn push(&mut self, queue: usize, mut entry: [u8; 64]) -> u16 {
        self.ids += 1;
        entry[2..4].copy_from_slice(&self.ids.to_le_bytes());
        let queue = &mut self.queues[queue];
        queue.submissions.write(64 * queue.tail as usize, &entry).unwrap();
        queue.tail = (queue.tail + 1) % queue.size;
        self.ids
    }

    fn ring(&self, queue: usize) {
        let queues = &self.queues[queue];
        self.write(0x1000 + 8 * queue, queues.tail);
    }

    /// Takes a completion, if there is one.
    fn pop(&mut self, queue: usize) -> Option<Found> {
        let own = &mut self.queues[queue];
        let found = own.look()?;
        own.head = (own.head + 1) % own.size;
        own.phase ^= own.head == 0;
        let head = own.head;
        self.write(0x1004 + 8 * queue, head);
        Some(found)
    }

    /// Does a command to its end.
    fn run(&mut self, queue: usize, entry: [u8; 64]) -> Found {
        let id = self.push(queue, entry);
        self.ring(queue);
        for _ in 0..1000 {
            self.poke(1);
            if let Some(found) = self.pop(queue) {
                assert_eq!(found.id, id);
                return found;
            }
        }
        panic!("no completion of {entry:x?}");
    }

    fn admin(&mut self, opcode: u8, namespace: u32, prp1: u64, prp2: u64, words: [u32; 2]) -> Found {
        self.run(0, entry(opcode, namespace, prp1, prp2, [words[0], words[1], 0]))
    }

    fn io(&mut self, opcode: u8, prp1: u64, prp2: u64, lba: u32, blocks: u32) -> Found {
        self.run(1, entry(opcode, 1, prp1, prp2, [lba, 0, blocks - 1]))
    }

    /// The page that Identify answers.
    fn identify(&mut self, cns: u32, namespace: u32) -> Result<Vec<u8>, u16> {
        let page = buffer(&self.backing, 4096);
        let found = self.admin(0x06, namespace, page.iova().0, 0, [cns, 0]);
        let mut bytes = vec![0; 4096];
        page.read(0, &mut bytes).unwrap();
        if found.status == 0 {
            Ok(bytes)
        } else {
            Err(found.status)
        }
    }
}

/// A submission queue entry with double words 10 to 12.
fn entry(opcode: u8, namespace: u32, prp1: u64, prp2: u64, words: [u32; 3]) -> [u8; 64] {
    let mut entry = [0; 64];
    entry[0] = opcode;
    entry[4..8].copy_from_slice(&namespace.to_le_bytes());
    entry[24..32].copy_from_slice(&prp1.to_le_bytes());
    entry[32..40].copy_from_slice(&prp2.to_le_bytes());
    for (at, word) in words.iter().enumerate() {
        entry[40 + 4 * at..44 + 4 * at].copy_from_slice(&word.to_le_bytes());
    }
    entry
}

const DNR: u16 = 1 << 14;
const READ: u8 = 2;
const WRITE: u8 = 1;
