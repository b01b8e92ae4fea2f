//! Random commands of all sizes, shapes and depths, and what the namespace and the buffers hold after each of them.

use crate::{Bench, Queue, both, one};
use drivers::Backing;
use drivers::fake::Interface;
use drivers::fake::nvme::{Abilities, Interrupts, NamespaceOptions, Options};
use drivers::nvme::spec::Status;
use drivers::nvme::{Command, Completion, DataForm, Interrupt, Part, QueueOptions, Registered};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_core::{Access, Memory, MemoryOptions};

const BLOCKS: u64 = 4096;
const LEN: usize = 8 << 20;

fn registered(bench: &Bench) -> (Arc<Memory>, Registered) {
    let memory = Arc::new(Memory::new(LEN, MemoryOptions::default()).unwrap());
    let held: Arc<Memory> = Arc::clone(&memory);
    let registered = Registered::new(bench.backing.space(), held, Access::READ | Access::WRITE).unwrap();
    (memory, registered)
}

#[derive(Debug, Clone)]
struct Step {
    is_write: bool,
    lba: u64,
    blocks: u32,
    /// In the memory, as units of 4 bytes: data at any offset of a page.
    at: usize,
    byte: u8,
    pops: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let blocks = prop_oneof![1..9_u32, 1..256_u32];
    let step = (any::<bool>(), 0..BLOCKS, blocks, 0..LEN / 4, any::<u8>(), any::<bool>());
    let step = step.prop_map(|(is_write, lba, blocks, at, byte, pops)| Step {
        is_write,
        lba,
        blocks,
        at: at * 4,
        byte,
        pops,
    });
    prop::collection::vec(step, 1..60)
}

fn options() -> impl Strategy<Value = (Interface, Options, QueueOptions)> {
    let interface = prop_oneof![Just(Interface::Iommufd), Just(Interface::Type1)];
    let form = prop_oneof![Just(DataForm::Shortest), Just(DataForm::Prp), Just(DataForm::Sgl)];
    let interrupt = prop_oneof![
        Just(Interrupt::Off),
        Just(Interrupt::Vector(1)),
        Just(Interrupt::Adaptive {
            vector: 1,
            poll: std::time::Duration::from_micros(50)
        })
    ];
    let interrupts = prop_oneof![
        Just(Interrupts::Msix(3)),
        Just(Interrupts::Msi(2)),
        Just(Interrupts::Intx)
    ];
    (
        interface,
        form,
        interrupt,
        interrupts,
        1..40_u16,
        1..30_u64,
        (0..4_u8, 0..3_u8, any::<bool>(), any::<u64>()),
    )
        .prop_map(
            |(interface, form, interrupt, interrupts, depth, latency, (stride, page_min, shadow, seed))| {
                let mut abilities = Abilities::all();
                abilities.set(Abilities::DOORBELL_BUFFERS, shadow);
                let interrupt = match interrupt {
                    _ if interrupts != Interrupts::Intx => interrupt,
                    Interrupt::Off => Interrupt::Off,
                    _ => Interrupt::Vector(0),
                };
                let controller = Options {
                    entries: 41,
                    latency: 1..latency + 1,
                    abilities,
                    stride,
                    page_min,
                    interrupts,
                    seed,
                    namespaces: vec![NamespaceOptions {
                        blocks: BLOCKS,
                        format: 0,
                        extended: false,
                    }],
                    ..Options::default()
                };
                let queue = QueueOptions {
                    depth,
                    form,
                    interrupt,
                    ..QueueOptions::default()
                };
                (interface, controller, queue)
            },
        )
}

/// What is expected of commands that are outstanding, by their tags.
type Expected = BTreeMap<u16, (Step, Vec<u8>)>;

fn check(completion: Completion<Part>, expected: &mut Expected, memory: &Memory) {
    let (step, bytes) = expected.remove(&completion.tag.cid()).expect("its own command");
    assert_eq!(completion.status, Status::SUCCESS, "{step:?}");
    let mut found = vec![0; bytes.len()];
    memory
        .read(completion.payload.unwrap().range().start, &mut found)
        .unwrap();
    assert!(found == bytes, "{step:?}");
}

fn pop(queue: &mut Queue<Part>, expected: &mut Expected, memory: &Memory) {
    check(one(queue), expected, memory);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn blocks_hold_what_was_written_last((interface, controller, options) in options(), steps in steps()) {
        let bench = Bench::new(interface, controller);
        let namespace = bench.controller.namespace(1).unwrap();
        let (memory, registered) = registered(&bench);
        let mut queue: Queue<Part> = bench.queue(options);
        let mut disk = vec![0_u8; BLOCKS as usize * 512];
        let mut expected = Expected::new();
        for step in steps {
            let blocks = step.blocks.min((BLOCKS - step.lba) as u32).min((queue.transfer_bytes() / 512) as u32);
            let len = blocks as usize * 512;
            let at = step.at.min(LEN - len);
            // Commands that are outstanding may be done in any order: what overlaps one waits for it.
            let overlaps = |(other, bytes): &(Step, Vec<u8>)| {
                let is_near = |a: usize, alen: usize, b: usize, blen: usize| a < b + blen && b < a + alen;
                is_near(step.lba as usize * 512, len, other.lba as usize * 512, bytes.len()) || is_near(at, len, other.at, bytes.len())
            };
            while queue.is_full() || expected.values().any(overlaps) {
                pop(&mut queue, &mut expected, &memory);
            }
            let place = step.lba as usize * 512..step.lba as usize * 512 + len;
            let command = if step.is_write {
                let bytes: Vec<u8> = (0..len).map(|at| step.byte.wrapping_add((at / 3) as u8)).collect();
                memory.write(at, &bytes).unwrap();
                disk[place.clone()].copy_from_slice(&bytes);
                Command::write(&namespace, step.lba, blocks)
            } else {
                memory.fill(at, len, step.byte).unwrap();
                Command::read(&namespace, step.lba, blocks)
            };
            let part = registered.part(at..at + len).unwrap();
            let tag = queue.submit(&command, Some(part)).unwrap();
            expected.insert(tag.cid(), (Step { at, ..step.clone() }, disk[place].to_vec()));
            if step.pops {
                pop(&mut queue, &mut expected, &memory);
            }
        }
        while !expected.is_empty() {
            pop(&mut queue, &mut expected, &memory);
        }
        prop_assert!(bench.nvme.blocks(1, 0, BLOCKS).unwrap() == disk);
        drop((queue, registered));
        bench.end();
    }
}

#[test]
fn pieces_are_gathered_and_scattered() {
    both(|interface| {
        for form in [DataForm::Shortest, DataForm::Sgl] {
            let bench = Bench::new(interface, Options::default());
            let namespace = bench.controller.namespace(1).unwrap();
            let (memory, registered) = registered(&bench);
            let mut queue: Queue<Vec<Part>> = bench.queue(QueueOptions {
                form,
                ..QueueOptions::default()
            });
            // Odd pieces, which together are blocks.
            let pieces = [(5, 100), (4096, 4000), (8197, 3), (20000, 12281)];
            let bytes: Vec<u8> = (0..16384_u32).map(|at| (at % 253) as u8).collect();
            let mut rest = &bytes[..];
            for (at, len) in pieces {
                let (piece, after) = rest.split_at(len);
                memory.write(at, piece).unwrap();
                rest = after;
            }
            let parts = |base: usize| pieces.map(|(at, len)| registered.part(base + at..base + at + len).unwrap());
            queue.write(&namespace, 7, 32, parts(0).into()).unwrap();
            assert_eq!(one(&mut queue).status, Status::SUCCESS);
            assert_eq!(bench.nvme.blocks(1, 7, 32).unwrap(), bytes);
            queue.read(&namespace, 7, 32, parts(1 << 20).into()).unwrap();
            assert_eq!(one(&mut queue).status, Status::SUCCESS);
            let mut found = Vec::new();
            for (at, len) in pieces {
                let mut piece = vec![0; len];
                memory.read((1 << 20) + at, &mut piece).unwrap();
                found.extend(piece);
            }
            assert_eq!(found, bytes);
            drop((queue, registered));
            bench.end();
        }
    });
}

#[test]
fn registered_memory_is_found_by_its_addresses() {
    let bench = Bench::usual();
    let (memory, registered) = registered(&bench);
    let address = vfio_core::StableMemory::address(&*memory).addr();
    let part = registered.part_at(address + 4096, 512).unwrap();
    assert_eq!(part.range(), 4096..4608);
    assert_eq!(Some(part.iova()), bench.backing.space().lookup(address + 4096, 512));
    assert!(registered.part_at(address - 1, 2).is_none());
    assert!(registered.part_at(address, LEN + 1).is_none());
    assert!(registered.part(0..0).is_none());
    drop(registered);
    assert_eq!(
        bench.backing.space().lookup(address, 1).map(drop),
        Some(()),
        "a part holds the mapping"
    );
    drop(part);
    assert_eq!(bench.backing.space().lookup(address, 1), None);
    bench.end();
}
