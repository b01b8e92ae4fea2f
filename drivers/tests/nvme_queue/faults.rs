//! What a controller should not do, by name.

use crate::{Bench, Queue, both, one};
use drivers::fake::nvme::{Fault, Options, When};
use drivers::nvme::spec::{Opcode, Status};
use drivers::nvme::{Command, Policy, QueueOptions};
use drivers::{Backing, ErrorKind, Presence};
use std::time::Duration;
use vfio_core::Errno;

const READ: u8 = Opcode::READ.0;
const WRITE: u8 = Opcode::WRITE.0;

fn quick() -> QueueOptions {
    QueueOptions {
        timeout: Duration::from_millis(20),
        can_replay: true,
        ..QueueOptions::default()
    }
}

/// Waits until the queue says that it cannot go on.
fn broken(queue: &mut Queue) -> ErrorKind {
    for _ in 0..100 {
        match queue.wait(Some(Duration::from_secs(1))) {
            Ok(_) => {}
            Err(error) => return error.kind,
        }
    }
    panic!("it goes on")
}

/// As many commands as come back, and their statuses.
fn drain(queue: &mut Queue) -> Vec<u16> {
    let mut statuses = Vec::new();
    while queue.outstanding() != 0 {
        statuses.push(one(queue).status.code());
    }
    statuses
}

#[test]
fn a_controller_that_breaks_the_rules_is_reset_and_every_request_comes_back() {
    both(|interface| {
        for fault in [
            Fault::UnknownId,
            Fault::Duplicate,
            Fault::StalePhase,
            Fault::WrongQueue,
            Fault::Lost,
            Fault::Stuck,
            Fault::Fatal,
        ] {
            for policy in [Policy::Fail, Policy::Replay] {
                let bench = Bench::new(interface, Options::default());
                let namespace = bench.controller.namespace(1).unwrap();
                let mut queue: Queue = bench.queue(quick());
                bench.nvme.inject(When::NthIo(3), fault);
                for lba in 0..8 {
                    queue
                        .write(&namespace, lba, 1, bench.filled(&[lba as u8 + 1; 512]))
                        .unwrap();
                }
                queue.ring();
                let mut statuses = Vec::new();
                let kind = loop {
                    match queue.wait(Some(Duration::from_secs(1))) {
                        Ok(Some(completion)) => statuses.push(completion.status.code()),
                        Ok(None) => break None,
                        Err(error) => break Some(error.kind),
                    }
                    if statuses.len() == 8 {
                        break None;
                    }
                };
                match (fault, kind) {
                    // An abort is enough for it.
                    (Fault::Stuck, None) => assert_eq!(
                        statuses
                            .iter()
                            .filter(|code| **code == Status::ABORT_REQUESTED.0)
                            .count(),
                        1
                    ),
                    // The second of two comes after all is done.
                    (Fault::Duplicate, None) => assert_eq!(statuses, [0; 8]),
                    (_, Some(ErrorKind::Failed(_) | ErrorKind::Timeout(_))) => {
                        assert!(queue.submit(&Command::flush(&namespace), None).is_err());
                        queue.recover(policy).unwrap();
                        statuses.extend(drain(&mut queue));
                    }
                    (fault, kind) => panic!("{fault:?}: {kind:?}"),
                }
                assert_eq!(statuses.len(), 8, "{fault:?}");
                if policy == Policy::Replay && fault != Fault::Stuck {
                    assert_eq!(statuses, [0; 8], "{fault:?}");
                    let blocks = bench.nvme.blocks(1, 0, 8).unwrap();
                    assert!(
                        blocks
                            .iter()
                            .zip(0..)
                            .all(|(byte, at): (&u8, usize)| usize::from(*byte) == at / 512 + 1)
                    );
                }
                queue.recover(policy).unwrap();
                queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
                assert_eq!(one(&mut queue).status, Status::SUCCESS);
                drop(queue);
                bench.end();
            }
        }
    });
}

#[test]
fn what_the_specification_allows_is_borne() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let mut queue: Queue = bench.queue(quick());
    for fault in [Fault::InParts, Fault::Slow(50), Fault::WrongHead] {
        bench.nvme.inject(When::Io(READ), fault);
        queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
        assert_eq!(one(&mut queue).status, Status::SUCCESS, "{fault:?}");
    }
    bench.nvme.inject(
        When::Io(READ),
        Fault::Status(drivers::fake::nvme::Status(Status::UNRECOVERED_READ.0)),
    );
    queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
    assert_eq!(one(&mut queue).status.code(), Status::UNRECOVERED_READ.0);
    drop(queue);
    bench.end();
}

#[test]
fn dma_where_nothing_is_mapped_is_the_commands_error_and_no_more() {
    both(|interface| {
        let bench = Bench::new(interface, Options::default());
        let namespace = bench.controller.namespace(1).unwrap();
        let mut queue: Queue = bench.queue(quick());
        bench.nvme.inject(When::Io(WRITE), Fault::WrongPage(1));
        queue.write(&namespace, 0, 16, bench.filled(&[1; 8192])).unwrap();
        assert!(!one(&mut queue).status.is_success());
        assert_eq!(bench.backing.machine().faults().len(), 1);
        queue.write(&namespace, 0, 16, bench.filled(&[1; 8192])).unwrap();
        assert_eq!(one(&mut queue).status, Status::SUCCESS);
    });
}

#[test]
fn all_queues_are_recovered_after_one_has_failed() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let mut queues: Vec<Queue> = (0..3).map(|_| bench.queue(quick())).collect();
    let ids: Vec<u16> = queues.iter().map(Queue::id).collect();
    bench.nvme.inject_always(When::Io(READ), Fault::Lost);
    for queue in &mut queues {
        queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
        queue.ring();
    }
    broken(&mut queues[0]);
    bench.nvme.heal();
    queues[0].recover(Policy::Fail).unwrap();
    for queue in &mut queues[1..] {
        let refused = queue.submit(&Command::flush(&namespace), None).unwrap_err();
        assert!(matches!(refused.error.kind, ErrorKind::Failed(_)), "{}", refused.error);
        assert!(matches!(broken(queue), ErrorKind::Failed(_)));
        queue.recover(Policy::Fail).unwrap();
    }
    for (queue, before) in queues.iter_mut().zip(ids) {
        assert_ne!(queue.id(), before, "its owner may not have known, and rung");
        assert_eq!(drain(queue), [Status::ABORTED_BY_HOST.0]);
        queue.write(&namespace, 0, 1, bench.filled(&[1; 512])).unwrap();
        assert_eq!(one(queue).status, Status::SUCCESS);
    }
    drop(queues);
    bench.end();
}

#[test]
fn a_device_that_is_asked_back_ends_what_it_has_and_takes_no_more() {
    both(|interface| {
        let bench = Bench::new(
            interface,
            Options {
                latency: 100..200,
                ..Options::default()
            },
        );
        let namespace = bench.controller.namespace(1).unwrap();
        let mut queue: Queue = bench.queue(quick());
        for lba in 0..4 {
            queue.read(&namespace, lba, 1, bench.buffer(512)).unwrap();
        }
        bench.backing.machine().request_release(bench.backing.bdf().unwrap());
        let event = [bench.backing.removal().event()];
        vfio_core::wait_any(&event, Some(Duration::from_secs(60))).unwrap();
        queue.check().unwrap();
        let refused = queue.read(&namespace, 9, 1, bench.buffer(512)).unwrap_err();
        assert!(matches!(refused.error.kind, ErrorKind::Gone));
        drop(refused);
        assert_eq!(drain(&mut queue), [0; 4]);
        assert!(matches!(queue.wait(Some(Duration::from_secs(1))), Err(error) if error.is_gone()));
        assert!(queue.recover(Policy::Replay).unwrap_err().is_gone());
        drop(queue);
        bench.end();
    });
}

#[test]
fn a_device_that_is_pulled_out_gives_every_request_back_as_gone() {
    both(|interface| {
        let bench = Bench::new(interface, Options::default());
        bench.nvme.inject_always(When::Io(READ), Fault::Lost);
        let namespace = bench.controller.namespace(1).unwrap();
        let mut queue: Queue = bench.queue(quick());
        for lba in 0..4 {
            queue.read(&namespace, lba, 1, bench.buffer(512)).unwrap();
        }
        queue.ring();
        bench.backing.machine().remove(bench.backing.bdf().unwrap());
        assert!(matches!(broken(&mut queue), ErrorKind::Gone));
        assert!(queue.recover(Policy::Replay).unwrap_err().is_gone());
        assert_eq!(drain(&mut queue), [Status::HOST_PATHING.0; 4]);
        assert!(matches!(broken(&mut queue), ErrorKind::Gone));
        assert_eq!(bench.backing.presence(), Presence::Gone);
        assert!(queue.submit(&Command::flush(&namespace), None).is_err());
        let machine = bench.backing.machine().clone();
        drop((queue, bench));
        assert_eq!(machine.leaks(), Vec::<String>::new());
    });
}

#[test]
fn a_queue_is_dropped_with_its_commands_outstanding() {
    both(|interface| {
        for fault in [None, Some(Fault::Fatal), Some(Fault::NeverStops), Some(Fault::Lost)] {
            let bench = Bench::new(
                interface,
                Options {
                    latency: 50..100,
                    ..Options::default()
                },
            );
            let namespace = bench.controller.namespace(1).unwrap();
            let mut queue: Queue = bench.queue(quick());
            for lba in 0..20 {
                queue.write(&namespace, lba, 1, bench.filled(&[7; 512])).unwrap();
            }
            queue.ring();
            if let Some(fault) = fault {
                bench.nvme.inject(When::Now, fault);
            }
            bench.backing.poke();
            let (machine, nvme) = (bench.backing.machine().clone(), bench.nvme.clone());
            drop(queue);
            drop(bench);
            assert_eq!(machine.leaks(), Vec::<String>::new(), "{fault:?}");
            assert_eq!(machine.mistakes(), Vec::<String>::new(), "{fault:?}");
            assert!(machine.faults().is_empty(), "{fault:?}: memory went before the queue");
            assert_eq!(nvme.mistakes(), Vec::<String>::new(), "{fault:?}");
        }
    });
}

#[test]
fn no_command_comes_back_twice_from_a_controller_that_does_not_run_again() {
    both(|interface| {
        let bench = Bench::new(interface, Options::default());
        let namespace = bench.controller.namespace(1).unwrap();
        let mut queue: Queue = bench.queue(quick());
        bench.nvme.inject(When::NthIo(0), Fault::Duplicate);
        bench.nvme.inject(When::NthIo(2), Fault::Duplicate);
        let tags: Vec<_> = (0..3)
            .map(|lba| queue.read(&namespace, lba, 1, bench.buffer(512)).unwrap())
            .collect();
        queue.ring();
        for _ in 0..100 {
            bench.backing.poke();
        }
        let mut found = vec![one(&mut queue).tag];
        assert!(queue.wait(None).is_err());
        bench.nvme.inject(When::Now, Fault::NeverReady);
        assert!(queue.recover(Policy::Fail).is_err());
        while let Ok(Some(completion)) = queue.pop() {
            assert!(completion.payload.is_some());
            found.push(completion.tag);
        }
        assert_eq!(found, tags);
        let machine = bench.backing.machine().clone();
        drop((queue, bench));
        assert_eq!(machine.leaks(), Vec::<String>::new());
    });
}

#[test]
fn who_pops_does_not_wait_long_for_an_abort() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let mut queue: Queue = bench.queue(quick());
    bench.nvme.inject(When::Io(READ), Fault::Stuck);
    bench.nvme.inject_always(When::Admin(Opcode::ABORT.0), Fault::Lost);
    queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
    let begin = bench.backing.now();
    assert!(matches!(broken(&mut queue), ErrorKind::Timeout(_)));
    assert!(bench.backing.now() - begin < Duration::from_secs(3));
    queue.recover(Policy::Replay).unwrap();
    assert_eq!(drain(&mut queue), [0]);
    drop(queue);
    bench.end();
}

#[test]
fn whichever_call_fails_nothing_is_left() {
    both(|interface| {
        for n in 0.. {
            let bench = Bench::new(interface, Options::default());
            let machine = bench.backing.machine().clone();
            let namespace = bench.controller.namespace(1).unwrap();
            machine.fail_nth(n, Errno::NOMEM);
            let made = bench.controller.queue_pair(quick());
            if let Ok(mut queue) = made {
                let queue: &mut Queue = &mut queue;
                queue.submit(&Command::flush(&namespace), None).unwrap();
                drop(one(queue));
            }
            let failed = machine.failed();
            assert_eq!(bench.nvme.mistakes(), Vec::<String>::new(), "call {n}");
            drop(bench);
            assert_eq!(machine.leaks(), Vec::<String>::new(), "call {n}");
            assert_eq!(machine.mistakes(), Vec::<String>::new(), "call {n}");
            if failed.is_none() {
                break;
            }
        }
    });
}

#[test]
fn after_a_reset_as_many_queues_recover_as_there_can_be() {
    for policy in [Policy::Fail, Policy::Replay] {
        let bench = Bench::usual();
        let namespace = bench.controller.namespace(1).unwrap();
        let all = bench.controller.queues();
        let mut queues: Vec<Queue> = (0..all).map(|_| bench.queue(quick())).collect();
        for queue in &mut queues {
            queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
        }
        for _ in 0..2 {
            bench.controller.reset().unwrap();
            for queue in &mut queues {
                queue.recover(policy).unwrap();
                drain(queue);
                queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
            }
        }
        for queue in &mut queues {
            assert_eq!(drain(queue), [0]);
        }
        drop(queues);
        bench.end();
    }
}

#[test]
fn what_has_come_back_and_is_not_popped_is_not_late() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let mut queue: Queue = bench.queue(quick());
    for lba in 0..4 {
        queue.read(&namespace, lba, 1, bench.buffer(512)).unwrap();
    }
    queue.ring();
    bench.backing.poke();
    let before = bench.nvme.counts().admin;
    for _ in 0..40 {
        for _ in 0..300 {
            bench.backing.idle();
        }
        queue.check().unwrap();
    }
    assert_eq!(bench.nvme.counts().admin, before, "nothing was aborted");
    assert_eq!(drain(&mut queue), [0; 4]);
    drop(queue);
    bench.end();
}

#[test]
fn a_controller_that_somebody_else_has_reset_is_found_out_before_commands_are_late() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let mut queue: Queue = bench.queue(QueueOptions::default());
    bench.nvme.inject(When::Io(READ), Fault::Lost);
    queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
    queue.ring();
    bench.backing.poke();
    bench.nvme.inject(When::Now, Fault::AllOnes(Some(5)));
    bench.backing.poke();
    let error = queue.wait(Some(Duration::from_secs(1))).unwrap_err();
    assert!(
        matches!(&error.kind, ErrorKind::Failed(why) if why.contains("RDY")),
        "{error}"
    );
    queue.recover(Policy::Fail).unwrap();
    assert_eq!(drain(&mut queue), [Status::ABORTED_BY_HOST.0]);
    drop(queue);
    bench.end();
}
