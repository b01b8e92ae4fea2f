//! Enabling, disabling, shutting down, doorbells and interrupts.

use super::*;
use crate::fake::nvme::{Abilities, Interrupts};
use std::time::Duration;

#[test]
fn it_is_ready_after_a_while_and_no_more_when_disabled() {
    let mut host = Host::of(Options::default());
    assert_eq!(host.status(), 0);
    host.write(0x24, 0x0007_0007);
    assert!(host.enable());
    host.write(0x14, 0);
    assert_eq!(host.status(), 1, "it takes its time");
    host.poke(10);
    assert_eq!(host.status(), 0);
    assert!(host.enable(), "and again");
    host.write(0x14, 1 | 1 << 14);
    host.poke(1);
    assert_eq!(host.status() >> 2 & 3, 1);
    host.poke(10);
    assert_eq!(host.status() >> 2 & 3, 2);
    assert_eq!(host.nvme.mistakes(), Vec::<String>::new());
}

#[test]
fn what_it_cannot_be_enabled_with_is_its_failure() {
    for (offset, value) in [
        (0x24, 0),
        (0x28, 8),
        (0x30, 512),
        (0x14, 1 | 9 << 7),
        (0x14, 1 | 3 << 4),
    ] {
        let mut host = Host::of(Options::default());
        let queue = &host.queues[0];
        let (asq, acq) = (queue.submissions.iova().0, queue.completions.iova().0);
        host.write(0x24, 0x0007_0007);
        host.registers.write_u64(0x28, asq).unwrap();
        host.registers.write_u64(0x30, acq).unwrap();
        if offset != 0x14 {
            host.write(offset, value);
            host.write(0x14, 1);
        } else {
            host.write(0x14, value);
        }
        host.poke(10);
        assert_eq!(host.status(), 2, "{offset:#x}");
        host.write(0x14, 0);
        host.poke(10);
        assert_eq!(host.status(), 0);
        assert!(host.enable());
    }
}

#[test]
fn capabilities_are_those_of_its_options() {
    let options = Options {
        entries: 64,
        stride: 2,
        timeout: 9,
        page_min: 1,
        page_max: 3,
        ..Options::default()
    };
    let host = Host::of(options);
    let cap = host.registers.read_u64(0).unwrap();
    assert_eq!(cap & 0xffff, 63);
    assert_eq!(cap >> 16 & 1, 1);
    assert_eq!(cap >> 24 & 0xff, 9);
    assert_eq!(cap >> 32 & 0xf, 2);
    assert_eq!(cap >> 37 & 1, 1);
    assert_eq!((cap >> 48 & 0xf, cap >> 52 & 0xf), (1, 3));
    assert_eq!(host.registers.read_u32(4).unwrap(), u32::try_from(cap >> 32).unwrap());
}

#[test]
fn queues_go_round_and_nothing_is_posted_without_room() {
    let mut host = Host::with_queue(Options::default(), 4);
    let memory = buffer(&host.backing, 4096);
    for round in 0..10 {
        for _ in 0..3 {
            host.push(1, entry(READ, 1, memory.iova().0, 0, [0, 0, 0]));
        }
        host.ring(1);
        host.poke(5);
        for _ in 0..3 {
            let found = host.pop(1).unwrap();
            assert_eq!((found.status, found.queue), (0, 1), "{round}");
        }
        assert_eq!(host.pop(1), None);
        host.poke(1);
    }
    // Three more than the completion queue holds, which are not taken.
    for _ in 0..3 {
        host.push(1, entry(READ, 1, memory.iova().0, 0, [0, 0, 0]));
    }
    host.ring(1);
    host.poke(5);
    for _ in 0..3 {
        host.push(1, entry(READ, 1, memory.iova().0, 0, [0, 0, 0]));
    }
    host.ring(1);
    host.poke(5);
    let found = (0..6).map(|_| {
        host.poke(5);
        host.pop(1).unwrap().status
    });
    assert_eq!(found.collect::<Vec<_>>(), [0; 6]);
    assert_eq!(host.nvme.mistakes(), Vec::<String>::new());
}

#[test]
fn doorbells_that_cannot_be_are_told_of() {
    for (offset, value, information) in [(0x1010, 1, 0), (0x1000, 8, 1), (0x1004, 5, 1), (0x1ff8, 0, 0)] {
        let mut host = Host::ready(Options::default());
        host.push(0, entry(0x0c, 0, 0, 0, [0; 3]));
        host.ring(0);
        host.poke(3);
        assert_eq!(host.pop(0), None);
        host.write(offset, value);
        host.poke(3);
        let found = host.pop(0).unwrap();
        assert_eq!(found.result, information << 8 | 1 << 16, "{offset:#x}");
        assert_eq!(host.nvme.mistakes().len(), 1);
    }
}

#[test]
fn each_kind_of_interrupt_comes() {
    for interrupts in [Interrupts::Msix(4), Interrupts::Msi(4), Interrupts::Intx] {
        let options = Options {
            interrupts,
            ..Options::default()
        };
        let mut host = Host::ready(options);
        let vectors = host.backing.vectors(4).unwrap();
        host.push(0, entry(0x0a, 0, 0, 0, [1, 0, 0]));
        host.ring(0);
        let woken = host
            .backing
            .wait(vectors.event(0).unwrap(), Some(Duration::from_secs(1)));
        assert_eq!(woken.unwrap(), crate::Woken::Signalled, "{interrupts:?}");
        assert!(host.pop(0).is_some());
        host.poke(2);
        vectors.acknowledge(0).unwrap();
        let woken = host
            .backing
            .wait(vectors.event(0).unwrap(), Some(Duration::from_millis(1)));
        assert_eq!(woken.unwrap(), crate::Woken::TimedOut, "{interrupts:?}");
    }
}

#[test]
fn shadow_doorbells_are_seen_until_it_sleeps_and_then_the_event_index_says_where_to_ring() {
    let mut host = Host::with_queue(Options::default(), 8);
    let (shadow, events) = (buffer(&host.backing, 4096), buffer(&host.backing, 4096));
    let found = host.admin(0x7c, 0, shadow.iova().0, events.iova().0, [0, 0]);
    assert_eq!(found.status, 0);
    let memory = buffer(&host.backing, 4096);
    let mut is_rung = false;
    for at in 1..100_u32 {
        host.push(1, entry(READ, 1, memory.iova().0, 0, [0, 0, 0]));
        let (old, new) = ((at - 1) % 8, at % 8);
        assert_eq!(host.queues[1].tail, new);
        shadow
            .atomic_u32(8)
            .unwrap()
            .store(new, std::sync::atomic::Ordering::Relaxed);
        let event = events.atomic_u32(8).unwrap().load(std::sync::atomic::Ordering::Relaxed);
        let must_ring = event == old;
        if must_ring {
            host.ring(1);
            is_rung = true;
        }
        host.poke(3);
        let own = &mut host.queues[1];
        assert!(own.look().is_some(), "{at}");
        own.head = (own.head + 1) % own.size;
        own.phase ^= own.head == 0;
        let head = own.head;
        shadow
            .atomic_u32(12)
            .unwrap()
            .store(head, std::sync::atomic::Ordering::Relaxed);
        let event = events
            .atomic_u32(12)
            .unwrap()
            .load(std::sync::atomic::Ordering::Relaxed);
        if (head + 8 - 1) % 8 == event {
            host.write(0x100c, head);
        }
    }
    assert!(is_rung);
    assert_eq!(host.nvme.mistakes(), Vec::<String>::new());
    let admin = Options {
        abilities: Abilities::empty(),
        ..Options::default()
    };
    assert_eq!(Host::ready(admin).admin(0x7c, 0, 0, 0, [0, 0]).status, 1 | DNR);
}
