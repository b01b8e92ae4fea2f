//! Bring-up, and every way to the end.

use super::*;
use crate::fake::virtio::Fault;
use crate::virtio::spec::{Features, VENDOR};
use crate::virtio::{Block, BlockOptions, BlockQueue, Entropy, Kind, Request};
use crate::{Error, ErrorKind};
use vfio_core::Errno;
use vfio_core::fake::{Copier, Description, Machine, Plain, Region};

type Queue = BlockQueue<FakeBacking, DmaBuffer<Both>>;

fn open(device: Virtio) -> Result<(Block<FakeBacking>, Vec<Queue>), Error> {
    // A queue is shorter than it could be, so that its size has to be told.
    let options = BlockOptions {
        depth: 32,
        interrupts: true,
        ..BlockOptions::default()
    };
    Block::open(FakeBacking::new(device).unwrap(), options)
}

#[test]
fn a_device_that_bypasses_the_iommu_is_told_of_no_memory() {
    let device = Virtio::block(64).without(Features::ACCESS_PLATFORM.bits());
    let handle = device.handle();
    let error = open(device).unwrap_err();
    assert!(error.to_string().contains("iommu_platform=on"), "{error}");
    assert!(matches!(error.kind, ErrorKind::Unsupported(_)));
    assert_eq!(handle.mistakes(), Vec::<String>::new());
}

#[test]
fn what_is_not_the_device_is_refused() {
    let (net, legacy) = (Virtio::net(MAC), Virtio::block(64).without(Features::VERSION_1.bits()));
    for device in [net, legacy] {
        assert!(matches!(open(device).unwrap_err().kind, ErrorKind::Unsupported(_)));
    }
    let bare = Description::new(VENDOR, 0x1042).region(Region::bar(0, 4096));
    for backing in [
        FakeBacking::new(Plain::new(bare)).unwrap(),
        FakeBacking::new(Copier::new()).unwrap(),
    ] {
        let error = Entropy::open(backing, false).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}");
    }
    let backing = FakeBacking::new(Virtio::console()).unwrap();
    assert_eq!(Kind::of(&backing.config().unwrap()), Some(Kind::Console));
}

#[test]
fn a_device_that_does_not_come_up_says_why() {
    for fault in [
        Fault::NeverResets,
        Fault::RefusesFeatures,
        Fault::NoQueues,
        Fault::KeepsSize,
        Fault::QueuesStayOff,
        Fault::NoVectors,
        Fault::NotifyOutside,
        Fault::Restless,
        Fault::ShortConfiguration,
    ] {
        let result = open(Virtio::block(64).faulty(fault));
        match (fault, result) {
            // A device that was just made is in its reset state.
            (Fault::NeverResets, Ok(opened)) => drop(opened),
            (_, Ok(_)) => panic!("{fault:?} was not noticed"),
            (_, Err(error)) => assert!(
                matches!(error.kind, ErrorKind::Failed(_) | ErrorKind::Unsupported(_)),
                "{fault:?}: {error}"
            ),
        }
    }
}

#[test]
fn a_queue_that_gets_no_vector_says_so() {
    let error = open(Virtio::block(64).vectors(1)).unwrap_err();
    assert!(error.to_string().contains("poll it"), "{error}");
}

fn fill(queue: &mut Queue, backing: &FakeBacking) {
    for sector in 0..4 {
        queue
            .submit(Request::Read { sector }, Some(buffer(backing, &[0; 512])))
            .unwrap();
    }
    queue.kick();
}

#[test]
fn what_never_comes_back_is_given_back_once_the_device_has_stopped() {
    each(
        || Virtio::block(64).faulty(Fault::Mute),
        |backing, handle| {
            let (disk, mut queues) = Block::open(backing.clone(), BlockOptions::default()).unwrap();
            let queue = &mut queues[0];
            fill(queue, &backing);
            assert!(queue.pop_within(SHORT).unwrap().is_none());
            assert!(queue.take_back().is_err());
            disk.stop().unwrap();
            disk.stop().unwrap();
            assert!(!handle.is_running());
            assert_eq!(queue.take_back().unwrap().len(), 4);
            assert_eq!(queue.in_flight(), 0);
            // It is stopped, not broken.
            assert!(matches!(queue.pop().unwrap_err().kind, ErrorKind::Invalid(_)));
            assert!(queue.submit(Request::Flush, None).is_err());
        },
    );
}

#[test]
fn the_device_is_reset_before_anything_that_it_has_is_freed() {
    // The model would fault on memory that is gone: it is poked after each step.
    each(
        || Virtio::block(64),
        |backing, handle| {
            let (disk, mut queues) = Block::open(backing.clone(), BlockOptions::default()).unwrap();
            fill(&mut queues[0], &backing);
            drop(disk);
            drop(queues);
            backing.poke();
            assert!(!handle.is_running());
            let (disk, mut queues) = Block::open(
                backing.clone(),
                BlockOptions {
                    queues: 2,
                    ..BlockOptions::default()
                },
            )
            .unwrap();
            fill(&mut queues[1], &backing);
            queues.truncate(1);
            assert!(handle.is_running());
            backing.poke();
            fill(&mut queues[0], &backing);
            backing.poke();
            drop(queues);
            drop(disk);
            backing.poke();
        },
    );
}

#[test]
fn a_device_that_does_not_stop_is_made_quiet() {
    let device = Virtio::block(64).faulty(Fault::NeverResets);
    let backing = FakeBacking::new(device).unwrap();
    let (disk, mut queues) = Block::open(backing.clone(), BlockOptions::default()).unwrap();
    fill(&mut queues[0], &backing);
    disk.stop().unwrap();
    assert!(!backing.device().config().unwrap().bus_master().unwrap());
    assert_eq!(queues[0].take_back().unwrap().len(), 4);
    let machine = backing.machine().clone();
    drop((disk, queues, backing));
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn a_device_that_needs_a_reset_or_had_one_is_noticed_by_all_who_wait() {
    for (fault, interrupts) in [
        (Fault::NeedsReset, false),
        (Fault::NeedsReset, true),
        (Fault::ResetsItself, false),
        (Fault::ResetsItself, true),
    ] {
        each(
            || Virtio::block(64).faulty(fault),
            |backing, _| {
                let options = BlockOptions {
                    interrupts,
                    ..BlockOptions::default()
                };
                let (disk, mut queues) = Block::open(backing.clone(), options).unwrap();
                fill(&mut queues[0], &backing);
                let error = queues[0].pop_within(60 * SECOND).unwrap_err();
                assert!(matches!(error.kind, ErrorKind::Failed(_)), "{error}");
                assert!(disk.check().is_err());
                assert!(queues[0].submit(Request::Flush, None).is_err());
                disk.stop().unwrap();
                assert_eq!(queues[0].take_back().unwrap().len(), 4);
                drop((disk, queues));
            },
        );
    }
}

#[test]
fn one_that_is_asked_back_ends_what_it_has_and_one_that_is_gone_gives_it_back() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        let backing = FakeBacking::through(interface, Virtio::block(64)).unwrap();
        let (machine, bdf) = (backing.machine().clone(), backing.bdf().unwrap());
        let (disk, mut queues) = Block::open(backing.clone(), BlockOptions::default()).unwrap();
        let queue = &mut queues[0];
        fill(queue, &backing);
        machine.request_release(bdf);
        vfio_core::wait_any(&[backing.removal().event()], Some(60 * SECOND)).unwrap();
        assert!(queue.submit(Request::Flush, None).unwrap_err().error.is_gone());
        for _ in 0..4 {
            queue.pop_within(SECOND).unwrap().unwrap().result.unwrap();
        }
        drop((disk, queues, backing));
        assert_eq!(machine.leaks(), Vec::<String>::new());

        let backing = FakeBacking::through(interface, Virtio::block(64)).unwrap();
        let (machine, bdf) = (backing.machine().clone(), backing.bdf().unwrap());
        let (disk, mut queues) = Block::open(backing.clone(), BlockOptions::default()).unwrap();
        fill(&mut queues[0], &backing);
        machine.remove(bdf);
        assert!(queues[0].pop_within(60 * SECOND).unwrap_err().is_gone());
        disk.stop().unwrap();
        assert_eq!(queues[0].take_back().unwrap().len(), 4);
        drop((disk, queues, backing));
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}

#[test]
fn what_a_device_did_before_it_was_stopped_is_taken_once() {
    each(
        || Virtio::block(64),
        |backing, _| {
            let (disk, mut queues) = Block::open(backing.clone(), BlockOptions::default()).unwrap();
            let queue = &mut queues[0];
            fill(queue, &backing);
            backing.poke();
            assert!(queue.pop().unwrap().is_some());
            disk.stop().unwrap();
            assert!(queue.pop().unwrap().is_some());
            assert_eq!(queue.take_back().unwrap().len(), 2);
            assert!(matches!(queue.pop().unwrap_err().kind, ErrorKind::Invalid(_)));
            assert_eq!(queue.take_back().unwrap().len(), 0);
        },
    );
}

#[test]
fn whichever_call_fails_nothing_is_left() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        for n in 0.. {
            let bdf = "0000:01:00.0".parse().unwrap();
            let machine = Machine::builder()
                .device(bdf, pci::GroupId(1), Virtio::block(64))
                .build();
            machine.fail_nth(n, Errno::NOMEM);
            let used = FakeBacking::open(&machine, bdf, interface).and_then(|backing| {
                let options = BlockOptions {
                    interrupts: true,
                    ..BlockOptions::default()
                };
                let (disk, mut queues) = Block::open::<DmaBuffer<Both>>(backing, options)?;
                queues[0]
                    .submit(Request::Flush, None)
                    .map_err(|refused| refused.error)?;
                queues[0].kick();
                queues[0].pop_within(SECOND)?;
                disk.stop()
            });
            drop(used);
            assert_eq!(machine.leaks(), Vec::<String>::new(), "{interface:?}, call {n}");
            assert_eq!(machine.mistakes(), Vec::<String>::new(), "{interface:?}, call {n}");
            assert_eq!(machine.faults(), [], "{interface:?}, call {n}");
            if machine.failed().is_none() {
                break;
            }
        }
    }
}
