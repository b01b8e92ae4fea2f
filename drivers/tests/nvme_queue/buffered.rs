//! Submission queues in the controller's own memory.

use crate::{Bench, Queue, both, bytes_of, one};
use drivers::ErrorKind;
use drivers::fake::Interface;
use drivers::fake::nvme::{Abilities, Fault, Options, When};
use drivers::nvme::spec::Status;
use drivers::nvme::{Policy, QueueOptions};
use std::time::Duration;

fn device() -> Options {
    Options {
        buffer: 64 << 10,
        ..Options::default()
    }
}

fn buffered(depth: u16) -> QueueOptions {
    QueueOptions {
        depth,
        submission_in_buffer: true,
        can_replay: true,
        timeout: Duration::from_millis(20),
        ..QueueOptions::default()
    }
}

#[test]
fn commands_reach_the_controller_through_its_memory() {
    both(|interface| {
        for abilities in [Abilities::all(), Abilities::all() - Abilities::DOORBELL_BUFFERS] {
            let bench = Bench::new(interface, Options { abilities, ..device() });
            let namespace = bench.controller.namespace(1).unwrap();
            // 8 entries, which are gone round several times.
            let mut queue: Queue = bench.queue(buffered(7));
            let usual: Queue = bench.queue(QueueOptions::default());
            assert_eq!((bench.nvme.queues_in_buffer(), bench.nvme.queues()), (1, (2, 2)));
            for round in 0..5_u8 {
                for lba in 0..7 {
                    let bytes = [round ^ lba as u8; 512];
                    queue.write(&namespace, lba, 1, bench.filled(&bytes)).unwrap();
                }
                for _ in 0..7 {
                    assert_eq!(one(&mut queue).status, Status::SUCCESS);
                }
                for lba in 0..7 {
                    assert_eq!(bench.nvme.blocks(1, lba, 1).unwrap(), [round ^ lba as u8; 512]);
                }
            }
            // With a list of pages in memory.
            let bytes: Vec<u8> = (0..32768_u32).map(|at| ((at * 7) >> 3) as u8).collect();
            bench.nvme.set_blocks(1, 64, &bytes).unwrap();
            queue.read(&namespace, 64, 64, bench.buffer(32768)).unwrap();
            assert_eq!(bytes_of(&one(&mut queue).payload.unwrap()), bytes);
            drop((queue, usual));
            bench.end();
        }
    });
}

#[test]
fn the_buffer_outlives_resets_of_controller_and_function() {
    both(|interface| {
        // The last has the function reset, after which the controller knows of no buffer.
        for fault in [Fault::Lost, Fault::Fatal, Fault::AllOnes(Some(100)), Fault::NeverStops] {
            let bench = Bench::new(interface, device());
            let namespace = bench.controller.namespace(1).unwrap();
            let mut queue: Queue = bench.queue(buffered(16));
            bench.nvme.inject(When::NthIo(3), fault);
            for lba in 0..8 {
                queue
                    .write(&namespace, lba, 1, bench.filled(&[lba as u8; 512]))
                    .unwrap();
            }
            queue.ring();
            if fault == Fault::NeverStops {
                bench.backing.poke();
                bench.controller.reset().unwrap();
            }
            let mut back = 0;
            while queue.outstanding() != 0 {
                match queue.wait(Some(Duration::from_secs(1))) {
                    Ok(completion) => {
                        assert_eq!(completion.unwrap().status, Status::SUCCESS, "{fault:?}");
                        back += 1;
                    }
                    Err(_) => queue.recover(Policy::Replay).unwrap(),
                }
            }
            assert_eq!((back, bench.nvme.queues_in_buffer()), (8, 1), "{fault:?}");
            for lba in 0..8 {
                assert_eq!(bench.nvme.blocks(1, lba, 1).unwrap(), [lba as u8; 512]);
            }
            drop(queue);
            bench.end();
        }
    });
}

#[test]
fn queues_share_the_buffer_while_there_is_room() {
    let bench = Bench::new(Interface::Iommufd, device());
    // 32 KiB each.
    let first: Queue = bench.queue(buffered(511));
    let second: Queue = bench.queue(buffered(511));
    let refused = bench
        .controller
        .queue_pair::<crate::DmaBuffer<crate::Both>>(buffered(1));
    let error = refused.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}");
    assert!(bench.controller.memory_buffer(1).is_err());
    drop(first);
    // The number that it had taken is free, too.
    let third: Queue = bench.queue(buffered(100));
    let data = bench.controller.memory_buffer(16 << 10).unwrap();
    assert_eq!(bench.nvme.queues_in_buffer(), 2);
    drop((second, third, data));
    let all = bench.controller.memory_buffer(64 << 10);
    drop(all.unwrap());
    bench.end();
}

#[test]
fn a_buffer_that_takes_no_queues_is_no_place_for_one() {
    let bench = Bench::new(
        Interface::Iommufd,
        Options {
            // Data both ways, and nothing else.
            buffer_told: Some((2, 16 << 12 | 0x18)),
            ..device()
        },
    );
    let refused = bench
        .controller
        .queue_pair::<crate::DmaBuffer<crate::Both>>(buffered(8));
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("CMBSZ.SQS"), "{error}");
    assert!(bench.controller.memory_buffer(64 << 10).is_ok());
    bench.end();
}
