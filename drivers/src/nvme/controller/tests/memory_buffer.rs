//! The controller memory buffer: found, enabled, given out by pages.

use super::{BOTH, Fake, default};
use crate::fake::nvme::{Fault, Options, When};
use crate::nvme::memory::Memory;
use crate::nvme::memory_buffer::Buffer;
use crate::nvme::shared::Admin;
use crate::nvme::{Command, QueueOptions, QueuePair};
use crate::{Backing, ErrorKind};
use proptest::prelude::*;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn with_buffer() -> Options {
    Options {
        buffer: MIB,
        ..default()
    }
}

#[test]
fn data_goes_by_the_memory_of_the_controller() {
    for interface in BOTH {
        let fake = Fake::through(interface, with_buffer());
        let controller = fake.open().unwrap();
        let buffer = controller.memory_buffer(64 << 10).unwrap();
        let part = buffer.part(8192..8192 + 512).unwrap();
        let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(512).collect();
        part.write(&pattern).unwrap();
        assert!(part.write(&[0; 513]).is_none() && buffer.part(1..9).is_none() && buffer.part(0..2 << 20).is_none());
        let namespace = controller.namespace(1).unwrap();
        let mut queue = controller.queue_pair(QueueOptions::default()).unwrap();
        queue.submit(&Command::write(&namespace, 3, 1), Some(part)).unwrap();
        let done = queue.wait(None).unwrap().unwrap();
        assert!(done.status.is_success(), "{}", done.status);
        assert_eq!(fake.nvme.blocks(1, 3, 1).unwrap(), pattern);
        let mut read = vec![0; 13];
        done.payload.unwrap().read(&mut read).unwrap();
        assert_eq!(read, pattern[..13]);
        drop((queue, buffer, controller));
        fake.leaves_nothing();
    }
}

#[test]
fn a_controller_without_a_buffer_is_not_asked_for_one() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    let queue: crate::Result<QueuePair<_, crate::nvme::Part>> = controller.queue_pair(QueueOptions {
        submission_in_buffer: true,
        ..QueueOptions::default()
    });
    for error in [controller.memory_buffer(512).unwrap_err(), queue.unwrap_err()] {
        assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}");
        assert!(error.to_string().contains("CAP.CMBS"), "{error}");
    }
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn a_buffer_that_takes_no_address_is_given_up() {
    let fake = Fake::new(with_buffer());
    let controller = fake.open().unwrap();
    fake.nvme.inject(When::Now, Fault::NeverTakesBuffer);
    fake.backing.poke();
    let error = controller.memory_buffer(512).unwrap_err();
    assert!(
        matches!(&error.kind, ErrorKind::Failed(text) if text.contains("CMBSTS")),
        "{error}"
    );
    assert_eq!(control(&fake), 0);
    fake.nvme.heal();
    // It is looked for again.
    let buffer = controller.memory_buffer(512).unwrap();
    assert_eq!(control(&fake) & 3, 3);
    // And once it was there, a controller that does not take it any more is of no use.
    fake.nvme.inject(When::Now, Fault::NeverTakesBuffer);
    fake.backing.poke();
    assert!(matches!(controller.reset().unwrap_err().kind, ErrorKind::Failed(_)));
    drop((buffer, controller));
    fake.leaves_nothing();
}

#[test]
fn an_address_that_somebody_else_has_told_is_forgotten() {
    for is_used in [false, true] {
        let fake = Fake::new(with_buffer());
        fake.backing.start().unwrap();
        let registers = fake.backing.map_bar(0, 0..0x1000).unwrap();
        registers.write_u64(0x50, 0x10_0003).unwrap();
        let controller = fake.open().unwrap();
        assert_eq!(control(&fake), 0);
        if is_used {
            drop(controller.memory_buffer(1).unwrap());
            assert!(control(&fake) >= 1 << 32 && control(&fake) & 3 == 3);
        }
        drop((controller, registers));
        fake.leaves_nothing();
    }
}

#[test]
fn pages_are_given_out_once_and_come_back() {
    for page_min in [0, 1] {
        let fake = Fake::new(Options {
            page_min,
            ..with_buffer()
        });
        let controller = fake.open().unwrap();
        let page = 4096 << page_min;
        let whole = controller.memory_buffer(1 << 20).unwrap();
        let first = crate::nvme::Payload::segment(&whole, 0).unwrap().0;
        let error = controller.memory_buffer(1).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}");
        let part = whole.part(8..16).unwrap();
        drop(whole);
        assert!(controller.memory_buffer(1).is_err(), "a part holds all of it");
        drop(part);
        let mut pages: Vec<_> = (0..(1 << 20) / page)
            .map(|_| controller.memory_buffer(page).unwrap())
            .collect();
        let mut starts: Vec<_> = pages
            .iter()
            .map(|page| crate::nvme::Payload::segment(page, 0).unwrap().0.0 - first.0)
            .collect();
        starts.sort_unstable();
        let expected: Vec<_> = (0..MIB).step_by(page).collect();
        assert_eq!(starts, expected);
        assert!(controller.memory_buffer(1).is_err());
        pages.swap_remove(3);
        assert!(controller.memory_buffer(1).is_ok());
        // What the controller may still reach does not come back.
        let buffer = Admin::memory_buffer(&*controller.admin).unwrap();
        Memory::of_controller(buffer.take(page).unwrap()).leak();
        assert!(controller.memory_buffer(1).is_err());
        drop((pages, buffer, controller));
        fake.leaves_nothing();
    }
}

/// CMBMSC as it is.
fn control(fake: &Fake) -> u64 {
    let registers = fake.backing.map_bar(0, 0..0x1000).unwrap();
    registers.read_u64(0x50).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_said_of_a_buffer_it_lies_in_its_bar_or_is_refused(
        bar in 0..8_u32,
        offset in prop_oneof![0..300_u32, 0..1_u32 << 20],
        flags in 0..8_u32,
        unit in prop_oneof![Just(0), 0..16_u32],
        len in prop_oneof![0..300_u32, 0..1_u32 << 20],
        takes_queues: bool,
    ) {
        let size = len << 12 | unit << 8 | 0x1c | u32::from(takes_queues);
        let fake = Fake::new(Options {
            buffer_told: Some((offset << 12 | flags << 3 | bar, size)),
            ..with_buffer()
        });
        let controller = fake.open().unwrap();
        let found: crate::Result<Arc<Buffer>> = Admin::memory_buffer(&*controller.admin);
        let start = (u64::from(offset) * 4096) << (4 * unit.min(6));
        // BAR 2 is the buffer's; BAR 0 may hold one too, behind the registers and the doorbells.
        let room = match bar {
            0 => 0x2000..fake.backing.bar_len(0).unwrap(),
            2 => 0..MIB,
            _ => 0..0,
        };
        let can_be = unit <= 6 && len != 0 && room.contains(&start);
        prop_assert_eq!(found.is_ok(), can_be, "{:?}", found);
        match found {
            Ok(buffer) => {
                let told = (u64::from(len) * 4096) << (4 * unit);
                let there = told.min(room.end - start);
                let all = buffer.take(usize::try_from(there).unwrap()).unwrap();
                let last = usize::try_from(there).unwrap() - 8;
                // The fake has no memory in BAR 0, and says so when somebody writes there.
                if bar == 2 {
                    prop_assert!(all.write_u64(last, 1).is_some() && all.write_u64(last + 1, 1).is_none());
                    drop(all);
                    let queue: crate::Result<QueuePair<_, crate::nvme::Part>> = controller.queue_pair(QueueOptions {
                        depth: 60,
                        submission_in_buffer: true,
                        ..QueueOptions::default()
                    });
                    prop_assert_eq!(queue.is_ok(), takes_queues, "{:?}", queue);
                }
            }
            Err(error) => {
                let is_said = matches!(error.kind, ErrorKind::Unsupported(_) | ErrorKind::Failed(_) | ErrorKind::Kernel(_));
                prop_assert!(is_said, "{error}");
                prop_assert_eq!(control(&fake), 0);
            }
        }
        controller.reset().unwrap();
        drop(controller);
        fake.leaves_nothing();
    }
}
