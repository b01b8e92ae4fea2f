//! Reads, writes and their descriptions: PRPs, SGLs, metadata, fused commands.

use super::*;
use crate::fake::nvme::{Abilities, NamespaceOptions};
use proptest::prelude::*;

const PAGE: usize = 4096;

/// PRPs of `len` bytes that begin at an offset of a page, on pages in a shuffled order; lists begin at `at` in their page.
struct Prps {
    memory: DmaBuffer<Both>,
    /// The controller reads it.
    _lists: DmaBuffer<Both>,
    first: u64,
    second: u64,
    /// Where in `memory` the bytes are.
    order: Vec<usize>,
}

impl Prps {
    fn new(host: &Host, len: usize, offset: usize, at: usize) -> Self {
        let pages = (offset + len).div_ceil(PAGE);
        let mut memory = buffer(&host.backing, pages * PAGE);
        memory.clear();
        // Every second page forwards, then the others backwards.
        let order: Vec<usize> = (0..pages)
            .step_by(2)
            .chain((0..pages).rev().filter(|page| page % 2 == 1))
            .collect();
        let mut lists = buffer(&host.backing, (pages / 500 + 2) * PAGE);
        let base = memory.iova().0;
        let address = |page: usize| base + (page * PAGE) as u64;
        let (mut slot, mut left) = (at, pages.saturating_sub(1));
        for page in order.iter().skip(1) {
            if slot % PAGE == PAGE - 8 && left > 1 {
                let next = lists.iova().0 + (slot + 8) as u64;
                lists.write(slot, &next.to_le_bytes()).unwrap();
                slot += 8;
            }
            lists.write(slot, &address(*page).to_le_bytes()).unwrap();
            slot += 8;
            left -= 1;
        }
        let second = match pages {
            1 => 0,
            2 => address(order[1]),
            _ => lists.iova().0 + at as u64,
        };
        let first = address(order[0]) + offset as u64;
        Self {
            memory,
            _lists: lists,
            first,
            second,
            order,
        }
    }

    /// Parts of the bytes that lie on a page each, and where.
    fn parts(&self, len: usize) -> Vec<(std::ops::Range<usize>, usize)> {
        let offset = usize::try_from(self.first % PAGE as u64).unwrap();
        let mut parts = Vec::new();
        let mut at = 0;
        while at < len {
            let end = len.min((offset + at) / PAGE * PAGE + PAGE - offset);
            parts.push((at..end, self.order[(offset + at) / PAGE] * PAGE + (offset + at) % PAGE));
            at = end;
        }
        parts
    }

    fn fill(&mut self, bytes: &[u8]) {
        for (part, at) in self.parts(bytes.len()) {
            self.memory.write(at, &bytes[part]).unwrap();
        }
    }

    fn content(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (part, at) in self.parts(len) {
            self.memory.read(at, &mut bytes[part]).unwrap();
        }
        bytes
    }
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crate::fake::nvme::chance::Chance::new(seed).fill(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_written_through_prps_is_stored_and_read_back(
        blocks in prop_oneof![1_u32..32, 4096_u32..5000],
        offset in (0_usize..1024).prop_map(|words| 4 * words),
        at in (0_usize..512).prop_map(|slot| 8 * slot),
        seed: u64,
    ) {
        let options = Options { max_transfer: 0, ..Options::default() };
        let mut host = Host::with_queue(options, 4);
        let len = 512 * blocks as usize;
        let written = pattern(len, seed);
        let mut from = Prps::new(&host, len, offset, at);
        from.fill(&written);
        prop_assert_eq!(host.io(WRITE, from.first, from.second, 7, blocks).status, 0);
        prop_assert_eq!(host.nvme.blocks(1, 7, blocks.into()), Some(written.clone()));
        let to = Prps::new(&host, len, 4092 - offset, at);
        prop_assert_eq!(host.io(READ, to.first, to.second, 7, blocks).status, 0);
        prop_assert_eq!(to.content(len), written);
    }
}

#[test]
fn malformed_prps_are_refused() {
    let mut host = Host::with_queue(Options::default(), 4);
    let memory = buffer(&host.backing, 4 * PAGE);
    let mut lists = buffer(&host.backing, PAGE);
    let (at, list) = (memory.iova().0, lists.iova().0);
    lists.write(0, &(at + 512).to_le_bytes()).unwrap();
    lists.write(PAGE - 8, &(list + 8).to_le_bytes()).unwrap();
    for (case, first, second, blocks) in [
        ("first not on a dword", at + 2, 0, 1),
        ("second not on a page", at + 512, at + PAGE as u64 + 4, 8),
        ("list not on a quadword", at, list + 4, 24),
        ("entry not on a page", at, list, 24),
        ("next list not on a page", at, list + PAGE as u64 - 8, 24),
    ] {
        assert_eq!(host.io(WRITE, first, second, 0, blocks).status, 0x13 | DNR, "{case}");
    }
    assert_eq!(host.io(WRITE, 0x7000_0000_0000, 0, 0, 1).status, 4, "not mapped");
    assert_eq!(host.backing.machine().faults().len(), 1);
    assert_eq!(host.io(WRITE, at, 0, 2 << 20, 1).status, 0x80 | DNR, "beyond the end");
    assert_eq!(host.io(WRITE, at, at, 0, 2048).status, 2 | DNR, "longer than MDTS");
    assert_eq!(
        host.run(1, entry(READ, 2, at, 0, [0; 3])).status,
        0x0b | DNR,
        "no such namespace"
    );
    assert_eq!(host.io(0x7f, at, 0, 0, 1).status, 1 | DNR, "no such command");
}

fn descriptor(at: u64, len: usize, kind: u8) -> [u8; 16] {
    let mut descriptor = [0; 16];
    descriptor[..8].copy_from_slice(&at.to_le_bytes());
    descriptor[8..12].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
    descriptor[15] = kind;
    descriptor
}

fn with_sgl(opcode: u8, blocks: u32, sgl: [u8; 16]) -> [u8; 64] {
    let mut entry = entry(opcode, 1, 0, 0, [0, 0, blocks - 1]);
    entry[1] = 1 << 6;
    entry[24..40].copy_from_slice(&sgl);
    entry
}

#[test]
fn sgls_of_one_block_of_segments_and_with_holes() {
    let mut host = Host::with_queue(Options::default(), 4);
    let mut memory = buffer(&host.backing, 2 * PAGE);
    let mut list = buffer(&host.backing, PAGE);
    let (at, segments) = (memory.iova().0, list.iova().0);
    let written = pattern(1024, 1);
    memory.write(1, &written).unwrap();
    assert_eq!(host.run(1, with_sgl(WRITE, 2, descriptor(at + 1, 1024, 0))).status, 0);
    assert_eq!(host.nvme.blocks(1, 0, 2), Some(written.clone()));
    // A segment of two, whose second leads to the last one.
    list.write(0, &descriptor(at + 4000, 100, 0)).unwrap();
    list.write(16, &descriptor(segments + 256, 32, 0x30)).unwrap();
    list.write(256, &descriptor(0, 412, 0x10)).unwrap();
    list.write(272, &descriptor(at + 5000, 512, 0)).unwrap();
    assert_eq!(host.run(1, with_sgl(READ, 2, descriptor(segments, 32, 0x20))).status, 0);
    assert_eq!(bytes::<100>(&memory, 4000), written[..100]);
    assert_eq!(bytes::<512>(&memory, 5000), written[512..]);
    for (sgl, status) in [
        (descriptor(at, 512, 0), 0x0f),
        (descriptor(at, 2048, 0), 0x0f),
        (descriptor(at, 1024, 0x50), 0x11),
        (descriptor(segments, 40, 0x20), 0x0d),
        (descriptor(segments, 32, 0x30), 0x0d),
        (descriptor(segments, 0, 0x30), 0x0d),
    ] {
        assert_eq!(host.run(1, with_sgl(READ, 2, sgl)).status, status | DNR, "{sgl:x?}");
    }
    // A segment that leads to itself ends.
    list.write(0, &descriptor(segments, 16, 0x20)).unwrap();
    assert_eq!(
        host.run(1, with_sgl(READ, 2, descriptor(segments, 16, 0x20))).status,
        0x0e | DNR
    );
}

#[test]
fn metadata_lies_beside_or_behind_the_blocks() {
    let namespace = |format, extended| NamespaceOptions {
        blocks: 64,
        format,
        extended,
    };
    let options = Options {
        namespaces: vec![namespace(2, false), namespace(2, true)],
        ..Options::default()
    };
    let mut host = Host::with_queue(options, 4);
    let memory = {
        let mut memory = buffer(&host.backing, PAGE);
        memory.write(0, &pattern(1040, 3)).unwrap();
        memory
    };
    let at = memory.iova().0;
    let all = pattern(1040, 3);
    let mut separate = entry(WRITE, 1, at, 0, [0, 0, 1]);
    separate[16..24].copy_from_slice(&(at + 1024).to_le_bytes());
    assert_eq!(host.run(1, separate).status, 0);
    let stored = [&all[..512], &all[1024..1032], &all[512..1024], &all[1032..1040]].concat();
    assert_eq!(host.nvme.blocks(1, 0, 2), Some(stored));
    assert_eq!(host.run(1, entry(WRITE, 2, at, 0, [0, 0, 1])).status, 0);
    assert_eq!(host.nvme.blocks(2, 0, 2), Some(all.clone()));
    let mut back = entry(READ, 1, at + 2048, 0, [0, 0, 1]);
    back[16..24].copy_from_slice(&(at + 2048 + 1024).to_le_bytes());
    assert_eq!(host.run(1, back).status, 0);
    assert_eq!(bytes::<1040>(&memory, 2048)[..], all);
    back[16] += 1;
    assert_eq!(host.run(1, back).status, 2 | DNR, "metadata is on a dword");
}

#[test]
fn compare_and_write_are_one_command_or_none() {
    let mut host = Host::with_queue(Options::default(), 8);
    let mut memory = buffer(&host.backing, 2 * PAGE);
    memory.write(PAGE, &[7; 512]).unwrap();
    let (old, new) = (memory.iova().0, memory.iova().0 + PAGE as u64);
    let fused = |opcode: u8, at: u64, fuse: u8| {
        let mut entry = entry(opcode, 1, at, 0, [0; 3]);
        entry[1] = fuse;
        entry
    };
    let mut pair = |first: [u8; 64], second: [u8; 64]| {
        host.push(1, first);
        host.push(1, second);
        host.ring(1);
        host.poke(5);
        let found = (host.pop(1).unwrap(), host.pop(1).unwrap());
        assert_eq!(found.0.id + 1, found.1.id);
        (found.0.status, found.1.status, host.nvme.blocks(1, 0, 1).unwrap()[0])
    };
    assert_eq!(pair(fused(5, old, 1), fused(1, new, 2)), (0, 0, 7));
    assert_eq!(pair(fused(5, old, 1), fused(1, old, 2)), (0x285, 9, 7));
    assert_eq!(pair(fused(5, new, 1), fused(1, old, 0)), (0x0a | DNR, 0, 0));
    assert_eq!(pair(fused(1, new, 2), fused(1, new, 0)), (0x0a | DNR, 0, 7));
    assert_eq!(pair(fused(1, new, 1), fused(5, new, 2)), (2 | DNR, 9, 7));
}

#[test]
fn the_other_commands_do_what_they_say() {
    let mut host = Host::with_queue(Options::default(), 4);
    let mut memory = buffer(&host.backing, PAGE);
    memory.write(0, &[5; 4096]).unwrap();
    let at = memory.iova().0;
    let first = |host: &Host, lba| host.nvme.blocks(1, lba, 1).unwrap()[0];
    assert_eq!(host.io(WRITE, at, 0, 0, 8).status, 0);
    assert_eq!(host.io(0x00, 0, 0, 0, 1).status, 0, "flush");
    assert_eq!(host.io(0x05, at, 0, 0, 8).status, 0, "compare");
    assert_eq!(host.io(0x0c, 0, 0, 0, 60000).status, 0, "verify knows no limit");
    assert_eq!(host.io(0x08, 0, 0, 2, 2).status, 0, "write zeroes");
    assert_eq!(host.io(0x05, at, 0, 0, 8).status, 0x285);
    assert_eq!([first(&host, 1), first(&host, 2), first(&host, 4)], [5, 0, 5]);
    memory.write(4, &2_u32.to_le_bytes()).unwrap();
    memory.write(8, &6_u64.to_le_bytes()).unwrap();
    assert_eq!(host.run(1, entry(0x09, 1, at, 0, [0, 4, 0])).status, 0, "deallocate");
    assert_eq!([first(&host, 5), first(&host, 6), first(&host, 7)], [5, 0, 0]);
    memory.write(8, &(2_u64 << 20).to_le_bytes()).unwrap();
    assert_eq!(host.run(1, entry(0x09, 1, at, 0, [0, 4, 0])).status, 0x80 | DNR);
    let without = Options {
        abilities: Abilities::empty(),
        ..Options::default()
    };
    let mut host = Host::with_queue(without, 4);
    for opcode in [0x05, 0x08, 0x09, 0x0c] {
        assert_eq!(host.io(opcode, at, 0, 0, 1).status, 1 | DNR);
    }
}

#[test]
fn its_own_memory_takes_data_and_lists() {
    let options = Options {
        buffer: 64 << 10,
        ..Options::default()
    };
    let mut host = Host::with_queue(options, 4);
    let own = host.backing.map_bar(2, 0..64 << 10).unwrap();
    let base = 0x40_0000_0000_u64;
    assert_eq!(host.registers.read_u32(0x3c), Some(0), "hidden until it is asked for");
    host.registers.write_u64(0x50, base | 3).unwrap();
    assert_eq!(host.registers.read_u32(0x3c).unwrap() >> 12, 16);
    for at in 0..512 {
        own.write_u8(at, 9).unwrap();
    }
    assert_eq!(host.io(WRITE, base, 0, 0, 1).status, 0);
    assert_eq!(host.nvme.blocks(1, 0, 1), Some(vec![9; 512]));
    assert_eq!(host.io(READ, base + 4096, 0, 0, 1).status, 0);
    assert_eq!(own.read_u64(4096), Some(0x0909_0909_0909_0909));
}

#[test]
fn its_own_memory_takes_submission_queues_whole() {
    let options = Options {
        buffer: 8192,
        ..Options::default()
    };
    let mut host = Host::with_queue(options, 4);
    let base = 0x40_0000_0000_u64;
    host.registers.write_u64(0x50, base | 3).unwrap();
    let numbers = |id: u32, entries: u32| id | (entries - 1) << 16;
    let refused = 0x12 | DNR;
    assert_eq!(host.admin(0x05, 0, base, 0, [numbers(2, 4), 1]).status, refused);
    assert_eq!(
        host.admin(0x01, 0, base + 4096, 0, [numbers(2, 65), 1 << 16 | 1])
            .status,
        refused
    );
    assert_eq!(
        host.admin(0x01, 0, base + 4096, 0, [numbers(2, 64), 1 << 16 | 1])
            .status,
        0
    );
    assert_eq!((host.nvme.queues_in_buffer(), host.nvme.mistakes().len()), (1, 0));
    // It takes no other address; a queue that is there is not lost.
    host.nvme
        .inject(crate::fake::nvme::When::Now, crate::fake::nvme::Fault::NeverTakesBuffer);
    assert_eq!(host.admin(0x0a, 0, 0, 0, [7, 0]).status, 0);
    assert_eq!(
        (host.nvme.queues_in_buffer(), host.registers.read_u32(0x58)),
        (1, Some(0))
    );
    host.registers.write_u64(0x50, 0).unwrap();
    assert_eq!((host.nvme.queues_in_buffer(), host.nvme.mistakes().len()), (1, 2));
}
