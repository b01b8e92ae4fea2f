//! Commands and queues belong to one run of the controller: from one reset to the next.

use super::{Fake, default, options};
use crate::fake::nvme;
use crate::nvme::epoch::State;
use crate::nvme::spec::{Opcode, Sqe};
use crate::nvme::{Controller, QueueOptions};
use crate::{Backing, ErrorKind};
use iommu::buffer::{Both, DmaBuffer};
use std::time::Duration;

#[test]
fn a_command_of_a_run_that_is_over_is_not_executed() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    let admin = &controller.shared.admin;
    let run = controller.shared.epoch.current();
    let abort = Sqe::new(Opcode::ABORT, 0).with_cdw10(0xfff_0000);
    admin.execute(run, abort).unwrap();
    controller.reset().unwrap();
    fake.backing.poke();
    let before = fake.nvme.counts().admin;
    for opcode in [
        Opcode::CREATE_CQ,
        Opcode::CREATE_SQ,
        Opcode::DELETE_SQ,
        Opcode::DELETE_CQ,
        Opcode::ABORT,
    ] {
        let error = admin.execute(run, Sqe::new(opcode, 0).with_cdw10(1)).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Failed(_)), "{error}");
    }
    fake.backing.poke();
    assert_eq!(fake.nvme.counts().admin, before);
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn a_queue_that_is_dropped_during_a_reset_does_not_end_it() {
    // The reset takes long: the queue is dropped in the middle of it.
    let fake = Fake::new(nvme::Options {
        ready: 2000,
        ..default()
    });
    let controller = fake.open().unwrap();
    let mut queue = Some(
        controller
            .queue_pair::<DmaBuffer<Both>>(QueueOptions::default())
            .unwrap(),
    );
    std::thread::scope(|scope| {
        let reset = scope.spawn(|| controller.reset());
        while controller.shared.epoch.current().state() != State::Resetting && !reset.is_finished() {
            std::thread::yield_now();
        }
        drop(queue.take());
        reset.join().unwrap().unwrap();
    });
    controller.health().unwrap();
    drop(
        controller
            .queue_pair::<DmaBuffer<Both>>(QueueOptions::default())
            .unwrap(),
    );
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn a_function_that_has_gone_during_a_reset_does_not_run_after_it() {
    let fake = Fake::new(nvme::Options {
        ready: 2000,
        ..default()
    });
    let controller = fake.open().unwrap();
    std::thread::scope(|scope| {
        let reset = scope.spawn(|| controller.reset());
        while controller.shared.epoch.current().state() != State::Resetting && !reset.is_finished() {
            std::thread::yield_now();
        }
        // As one hears who reads a register of an I/O queue's.
        controller.shared.admin.gone();
        // One that was over before that has succeeded; what counts is that none brings the function back.
        drop(reset.join().unwrap());
    });
    assert_eq!(controller.shared.epoch.current().state(), State::Gone);
    assert!(controller.health().unwrap_err().is_gone());
    assert!(controller.reset().unwrap_err().is_gone());
    drop(controller);
    drop(fake);
}

#[test]
fn commands_of_many_threads_end_when_the_controller_is_reset_again_and_again() {
    let fake = Fake::new(nvme::Options {
        latency: 5..50,
        ..default()
    });
    let options = super::Options {
        admin_timeout: Duration::from_secs(5),
        ..options()
    };
    let controller = Controller::new(fake.backing.clone(), &options).unwrap();
    let begin = fake.backing.now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let queue = controller.queue_pair::<DmaBuffer<Both>>(QueueOptions::default());
                    drop((queue, controller.health()));
                }
            });
        }
        for _ in 0..20 {
            controller.reset().unwrap();
        }
    });
    assert!(
        fake.backing.now() - begin < Duration::from_secs(4),
        "none was waited for in vain"
    );
    controller.health().unwrap();
    assert_eq!(fake.nvme.queues(), (0, 0));
    drop(controller);
    fake.leaves_nothing();
}
