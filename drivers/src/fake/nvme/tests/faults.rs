//! Each fault does what its name says.

use super::*;
use crate::fake::nvme::{Fault, Status, When};

fn with_fault(fault: Fault) -> (Host, u16) {
    let mut host = Host::with_queue(Options::default(), 8);
    let memory = buffer(&host.backing, 4096);
    host.nvme.inject(When::NthIo(0), fault);
    let id = host.push(1, entry(READ, 1, memory.iova().0, 0, [0; 3]));
    host.ring(1);
    host.poke(3);
    (host, id)
}

#[test]
fn a_completion_can_be_of_nobody_come_twice_or_name_what_is_not_there() {
    let (mut host, id) = with_fault(Fault::UnknownId);
    assert_ne!(host.pop(1).unwrap().id, id);
    let (mut host, id) = with_fault(Fault::Duplicate);
    assert_eq!((host.pop(1).unwrap().id, host.pop(1).unwrap().id), (id, id));
    let (mut host, id) = with_fault(Fault::WrongQueue);
    let found = host.pop(1).unwrap();
    assert_eq!((found.id, found.queue), (id, 2));
    let (mut host, id) = with_fault(Fault::WrongHead);
    let found = host.pop(1).unwrap();
    assert_eq!((found.id, found.head), (id, 9));
    let (mut host, id) = with_fault(Fault::Status(Status::READ_ERROR));
    let found = host.pop(1).unwrap();
    assert_eq!((found.id, found.status), (id, 0x281));
}

#[test]
fn a_completion_can_be_written_wrong() {
    let (mut host, _) = with_fault(Fault::StalePhase);
    assert_eq!(host.pop(1), None);
    assert_eq!(
        bytes::<8>(&host.queues[1].completions, 8)[0],
        1,
        "its head pointer is there"
    );
    // The second poke after the doorbell does the command, so the third wrote the other half.
    for (fault, early) in [(Fault::InParts, false), (Fault::PhaseFirst, true)] {
        let mut host = Host::with_queue(Options::default(), 8);
        host.nvme.inject(When::Io(READ), fault);
        let memory = buffer(&host.backing, 4096);
        host.push(1, entry(READ, 1, memory.iova().0, 0, [0; 3]));
        host.ring(1);
        host.poke(2);
        assert_eq!(host.queues[1].look().is_some(), early, "{fault:?}");
        host.poke(1);
        assert!(host.pop(1).is_some());
    }
}

#[test]
fn a_stuck_command_is_aborted_and_a_lost_one_is_not_found() {
    for (fault, result) in [(Fault::Stuck, 0), (Fault::Lost, 1)] {
        let (mut host, id) = with_fault(fault);
        host.poke(100);
        assert_eq!(host.pop(1), None);
        let found = host.admin(0x08, 0, 0, 0, [1 | u32::from(id) << 16, 0]);
        assert_eq!((found.status, found.result), (0, result));
        assert_eq!(host.pop(1).map(|found| found.status), (result == 0).then_some(7));
    }
    let (mut host, _) = with_fault(Fault::Slow(50));
    assert_eq!(host.pop(1), None);
    host.poke(50);
    assert!(host.pop(1).is_some());
}

#[test]
fn a_controller_that_has_failed_does_nothing_until_it_is_reset() {
    let (mut host, _) = with_fault(Fault::Fatal);
    assert_eq!(host.status(), 3);
    assert_eq!(host.pop(1), None);
    host.write(0x14, 0);
    host.poke(10);
    assert_eq!(host.status(), 0);
    host.queues.truncate(1);
    assert!(host.enable());
    host.create(1, 4);
}

#[test]
fn a_life_cycle_can_hang() {
    let mut host = Host::of(Options::default());
    host.nvme.inject(When::Now, Fault::NeverReady);
    assert!(!host.enable());
    host.poke(1000);
    assert_eq!(host.status(), 0);
    let mut host = Host::ready(Options::default());
    host.nvme.inject(When::Now, Fault::NeverStops);
    host.nvme.inject(When::Now, Fault::NeverShutDown);
    host.write(0x14, 1 | 1 << 14);
    host.poke(1000);
    assert_eq!(host.status(), 1 | 1 << 2);
    host.write(0x14, 0);
    host.poke(1000);
    assert_eq!(host.status() & 1, 1);
    host.backing.reset().unwrap();
    assert_eq!(host.status(), 0);
    assert!(host.enable());
}

#[test]
fn registers_of_ones_come_back_as_after_a_reset_or_never() {
    for (pokes, after) in [(Some(10), 0), (None, u32::MAX)] {
        let host = Host::ready(Options::default());
        host.nvme.inject(When::Now, Fault::AllOnes(pokes));
        host.poke(1);
        assert_eq!(host.status(), u32::MAX);
        host.poke(20);
        assert_eq!(host.status(), after);
        host.nvme.heal();
        host.poke(1);
        assert_eq!(host.status(), 0);
    }
}

#[test]
fn what_is_read_can_be_garbage_or_meet_a_page_that_is_not_there() {
    let mut host = Host::ready(Options::default());
    let good = host.identify(1, 0).unwrap();
    host.nvme.inject(When::Admin(6), Fault::Garbage);
    assert_ne!(host.identify(1, 0).unwrap(), good);
    assert_eq!(host.identify(1, 0).unwrap(), good);
    host.nvme.inject_always(When::Admin(6), Fault::WrongPage(0));
    for count in 1..3 {
        assert_eq!(host.identify(1, 0), Err(4));
        assert_eq!(host.backing.machine().faults().len(), count);
    }
}

#[test]
fn queues_that_are_not_mapped_are_the_end_of_the_controller() {
    let mut host = Host::with_queue(Options::default(), 4);
    let memory = buffer(&host.backing, 4096);
    host.push(1, entry(READ, 1, memory.iova().0, 0, [0; 3]));
    let queue = host.queues.pop().unwrap();
    drop(queue);
    host.write(0x1008, 1);
    host.poke(3);
    assert!(host.nvme.is_fatal());
    assert_eq!(host.status() & 2, 2);
}

#[test]
fn chaos_is_the_same_every_time() {
    let run = |seed| {
        let mut host = Host::with_queue(Options::default(), 64);
        host.nvme.chaos(seed, 300);
        let memory = buffer(&host.backing, 4096);
        for _ in 0..60 {
            host.push(1, entry(READ, 1, memory.iova().0, 0, [0; 3]));
        }
        host.ring(1);
        host.poke(100);
        (0..64)
            .map(|at| bytes::<16>(&host.queues[1].completions, 16 * at))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
