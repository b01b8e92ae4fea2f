//! From a function to a controller that runs, and back.

use super::{BOTH, Fake, default, options};
use crate::ErrorKind;
use crate::fake::nvme::{Fault, Interrupts, Nvme, Options, When};
use crate::fake::{FakeBacking, Interface};
use crate::nvme::spec::Opcode;
use crate::nvme::{Controller, QueueOptions};
use iommu::buffer::{Both, DmaBuffer};
use vfio_core::Errno;
use vfio_core::fake::{Copier, Machine};

#[test]
fn a_controller_says_what_it_is_and_leaves_nothing() {
    for interface in BOTH {
        let fake = Fake::through(interface, default());
        let controller = fake.open().unwrap();
        assert_eq!(controller.identity().serial(), "FAKE0001");
        assert_eq!(controller.version().to_string(), "2.0");
        assert_eq!((controller.queues(), controller.vectors()), (4, 5));
        assert_eq!((controller.max_entries(), controller.max_transfer()), (1024, 512 << 10));
        assert_eq!(controller.namespaces().unwrap(), [1]);
        let namespace = controller.namespace(1).unwrap();
        assert_eq!((namespace.blocks, namespace.lba_bytes), (2 << 20, 512));
        assert!(controller.namespace(2).is_err());
        drop(controller);
        assert!(!fake.backing.device().config().unwrap().bus_master().unwrap());
        // It can be brought up again, as it was left.
        drop(fake.open().unwrap());
        fake.leaves_nothing();
    }
}

#[test]
fn only_what_is_asked_for_and_there_is_given() {
    let fake = Fake::new(Options {
        queues: 2,
        stride: 3,
        page_min: 1,
        ..default()
    });
    let asked = super::Options {
        vectors: 0,
        ..options()
    };
    let controller = Controller::new(fake.backing.clone(), &asked).unwrap();
    assert_eq!((controller.queues(), controller.vectors()), (2, 0));
    let queues: Vec<_> = (0..2)
        .map(|_| {
            controller
                .queue_pair::<DmaBuffer<Both>>(QueueOptions::default())
                .unwrap()
        })
        .collect();
    let more = controller.queue_pair::<DmaBuffer<Both>>(QueueOptions::default());
    assert!(matches!(more.unwrap_err().kind, ErrorKind::Unsupported(what) if what.contains('2')));
    drop((queues, controller));
    fake.leaves_nothing();
}

#[test]
fn without_interrupts_everything_is_polled() {
    for (interrupts, vectors) in [(Interrupts::None, 5), (Interrupts::Intx, 0)] {
        let fake = Fake::new(Options {
            interrupts,
            ..default()
        });
        let asked = super::Options { vectors, ..options() };
        let controller = Controller::new(fake.backing.clone(), &asked).unwrap();
        assert_eq!(controller.vectors(), 0);
        for _ in 0..2 {
            let masked = controller.admin.function().registers().read_u32(0x0c);
            assert_eq!(masked, Some(u32::MAX), "INTMS: nobody hears a pin");
            controller.reset().unwrap();
        }
        drop(controller);
        fake.leaves_nothing();
    }
}

#[test]
fn what_is_no_controller_is_not_touched() {
    let backing = FakeBacking::new(Copier::new()).unwrap();
    let error = Controller::new(backing.clone(), &options()).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}");
    assert!(!backing.device().config().unwrap().bus_master().unwrap());
}

#[test]
fn a_controller_that_is_never_ready_is_said_so() {
    for interface in BOTH {
        let fake = Fake::through(interface, default());
        fake.nvme.inject(When::Now, Fault::NeverReady);
        fake.backing.poke();
        let error = fake.open().unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
        assert_eq!(error.step, "CC.EN = 1");
        fake.leaves_nothing();
    }
}

#[test]
fn a_controller_that_fails_while_it_is_brought_up_is_said_so() {
    for when in [
        When::Now,
        When::NthAdmin(0),
        When::NthAdmin(1),
        When::NthAdmin(2),
        When::NthAdmin(3),
    ] {
        let fake = Fake::new(default());
        fake.nvme.inject(when, Fault::Fatal);
        let error = fake.open().unwrap_err();
        assert!(
            matches!(&error.kind, ErrorKind::Failed(why) if why.contains("CFS")),
            "{when:?}: {error}"
        );
        fake.leaves_nothing();
    }
}

#[test]
fn a_controller_without_what_is_optional_comes_up() {
    let fake = Fake::new(default());
    for opcode in [Opcode::SET_FEATURES, Opcode::DOORBELL_BUFFER] {
        fake.nvme
            .inject(When::Admin(opcode.0), Fault::Status(crate::fake::nvme::Status(0x4002)));
    }
    // Without queues it is of no use.
    assert!(matches!(fake.open().unwrap_err().kind, ErrorKind::Refused(_)));
    fake.leaves_nothing();
}

#[test]
fn whichever_call_of_the_kernel_fails_nothing_is_left() {
    for interface in BOTH {
        for n in 0.. {
            let bdf = "0000:01:00.0".parse().unwrap();
            let nvme = Nvme::new(default());
            let machine = Machine::builder().device(bdf, pci::GroupId(1), nvme.clone()).build();
            machine.fail_nth(n, Errno::NOMEM);
            let opened = FakeBacking::open(&machine, bdf, interface).and_then(|backing| {
                let controller = Controller::new(backing, &options())?;
                controller.namespace(1)?;
                controller.reset()?;
                controller.queue_pair::<DmaBuffer<Both>>(QueueOptions::default())
            });
            drop(opened);
            assert_eq!(machine.leaks(), Vec::<String>::new(), "{interface:?}, call {n}");
            assert_eq!(machine.mistakes(), Vec::<String>::new(), "{interface:?}, call {n}");
            if machine.failed().is_none() {
                break;
            }
        }
    }
}

#[test]
fn a_virtual_function_is_up_when_its_secondary_controller_is() {
    let nvme = Nvme::new(Options {
        functions: 4,
        ..default()
    });
    let physical = FakeBacking::through(Interface::Iommufd, nvme.clone()).unwrap();
    let virtual_function = FakeBacking::new(nvme.function(2).unwrap()).unwrap();
    let primary = Controller::new(physical, &options()).unwrap();
    let error = Controller::new(virtual_function.clone(), &options()).unwrap_err();
    assert!(
        matches!(&error.kind, ErrorKind::Failed(why) if why.contains("offline")),
        "{error}"
    );

    let resources = crate::nvme::Resources {
        queues: 3,
        interrupts: 2,
    };
    let entry = primary.bring_up_virtual_function(2, resources).unwrap();
    assert_eq!((entry.scid.get(), entry.nvq.get(), entry.nvi.get()), (2, 3, 2));
    let secondary = Controller::new(virtual_function, &options()).unwrap();
    assert_eq!(secondary.queues(), 2);
    assert_eq!(secondary.identity().cntlid.get(), 2);
    // And again, while it is driven: it stops.
    primary.bring_up_virtual_function(2, resources).unwrap();
    assert!(primary.bring_up_virtual_function(5, resources).is_err());
    assert!(primary.bring_up_virtual_function(0, resources).is_err());
    drop(secondary);
    assert_eq!(nvme.mistakes(), Vec::<String>::new());
}
