//! What a controller does that it should not.

use super::{BOTH, Fake, default};
use crate::ErrorKind;
use crate::fake::nvme::{self, Fault, When};
use crate::nvme::Event;
use crate::nvme::spec::Opcode;
use proptest::prelude::*;
use std::time::Duration;
use vfio_core::Errno;

const LOG: When = When::Admin(Opcode::GET_LOG_PAGE.0);

#[test]
fn a_command_that_does_not_end_is_aborted() {
    for interface in BOTH {
        let fake = Fake::through(interface, default());
        let controller = fake.open().unwrap();
        let seen = controller.shared.epoch.current();
        fake.nvme.inject(LOG, Fault::Stuck);
        let error = controller.health().unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
        assert!(
            !controller.shared.epoch.current().is_reset_since(seen),
            "an abort was enough"
        );
        controller.health().unwrap();
        drop(controller);
        fake.leaves_nothing();
    }
}

#[test]
fn aborts_that_come_late_take_no_place_for_good() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    let seen = controller.shared.epoch.current();
    for _ in 0..40 {
        fake.nvme.inject(LOG, Fault::Stuck);
        fake.nvme.inject(When::Admin(Opcode::ABORT.0), Fault::Slow(2500));
        assert!(matches!(controller.health().unwrap_err().kind, ErrorKind::Timeout(_)));
    }
    controller.health().unwrap();
    assert!(!controller.shared.epoch.current().is_reset_since(seen));
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn a_command_that_is_lost_resets_the_controller_once() {
    for fault in [
        Fault::Lost,
        Fault::StalePhase,
        Fault::Fatal,
        Fault::UnknownId,
        Fault::WrongQueue,
    ] {
        let fake = Fake::new(default());
        let controller = fake.open().unwrap();
        let seen = controller.shared.epoch.current();
        fake.nvme.inject(LOG, fault);
        let error = controller.health().unwrap_err();
        assert!(
            matches!(error.kind, ErrorKind::Timeout(_) | ErrorKind::Failed(_)),
            "{fault:?}: {error}"
        );
        assert!(controller.shared.epoch.current().is_reset_since(seen), "{fault:?}");
        controller.health().unwrap();
        assert_eq!(controller.namespaces().unwrap(), [1]);
        drop(controller);
        fake.leaves_nothing();
    }
}

#[test]
fn a_second_completion_is_found_out_with_the_next_command() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    fake.nvme.inject(LOG, Fault::Duplicate);
    controller.health().unwrap();
    let seen = controller.shared.epoch.current();
    let next = controller.health();
    assert!(next.is_ok() || controller.shared.epoch.current().is_reset_since(seen));
    controller.health().unwrap();
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn a_controller_that_does_not_stop_is_reset_as_a_function() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    fake.nvme.inject(When::Now, Fault::NeverStops);
    fake.backing.poke();
    controller.reset().unwrap();
    controller.health().unwrap();
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn a_reset_of_the_function_is_tried_again_while_the_kernel_is_busy() {
    for fault in [Fault::Fatal, Fault::NeverStops] {
        let fake = Fake::new(default());
        let mut controller = Some(fake.open().unwrap());
        if fault == Fault::Fatal {
            // It goes on saying so when it is disabled.
            drop(controller.take());
        }
        fake.nvme.inject(When::Now, fault);
        fake.backing.poke();
        fake.backing.machine().fail_next("VFIO_DEVICE_RESET", Errno::AGAIN);
        match &controller {
            Some(controller) => controller.reset().unwrap(),
            None => controller = Some(fake.open().unwrap()),
        }
        assert!(fake.backing.machine().failed().is_some(), "{fault:?}");
        drop(controller);
        fake.leaves_nothing();
    }
}

#[test]
fn a_controller_that_does_not_come_back_is_given_up() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    fake.nvme.inject(When::Now, Fault::NeverReady);
    fake.backing.poke();
    assert!(matches!(controller.reset().unwrap_err().kind, ErrorKind::Timeout(_)));
    assert!(matches!(controller.health().unwrap_err().kind, ErrorKind::Failed(_)));
    assert!(controller.next_event(Duration::from_secs(1)).is_err());
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn a_shutdown_that_does_not_end_is_said_so_and_the_controller_stops() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    fake.nvme.inject(When::Now, Fault::NeverShutDown);
    fake.backing.poke();
    assert!(matches!(
        controller.shut_down().unwrap_err().kind,
        ErrorKind::Timeout(_)
    ));
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn registers_of_ones_for_a_while_are_waited_out() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    fake.nvme.inject(When::Now, Fault::AllOnes(Some(500)));
    fake.backing.poke();
    let error = controller.health().unwrap_err();
    assert!(!error.is_gone(), "{error}");
    controller.health().unwrap();
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn an_event_whose_log_page_is_refused_is_told() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    for (event, told) in [
        (nvme::Event::INVALID_DOORBELL, Event::Error(0)),
        (nvme::Event::new(1, 1, 2), Event::Other(0x0002_0101)),
        (nvme::Event::NAMESPACES, Event::NamespacesChanged(None)),
    ] {
        fake.nvme.inject(LOG, Fault::Status(nvme::Status(0x4002)));
        fake.nvme.report(event);
        assert_eq!(controller.next_event(Duration::from_millis(20)).unwrap(), Some(told));
    }
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn a_controller_that_refuses_to_tell_of_events_is_asked_again() {
    let fake = Fake::new(default());
    let request = When::Admin(Opcode::ASYNC_EVENT.0);
    fake.nvme.inject_always(request, Fault::Status(nvme::Status(0x4002)));
    let controller = fake.open().unwrap();
    let before = fake.nvme.counts().admin;
    assert_eq!(controller.next_event(Duration::from_secs(1)).unwrap(), None);
    assert!(fake.nvme.counts().admin - before < 40, "and not all the time");
    fake.nvme.heal();
    fake.nvme.report(nvme::Event::SANITIZED);
    assert_eq!(
        controller.next_event(Duration::from_secs(1)).unwrap(),
        Some(Event::Sanitize)
    );
    drop(controller);
    fake.leaves_nothing();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn garbage_is_read_without_harm(seed: u64) {
        let fake = Fake::new(nvme::Options { seed, ..default() });
        fake.nvme.inject_always(When::Admin(Opcode::IDENTIFY.0), Fault::Garbage);
        drop(fake.open());
        fake.nvme.heal();
        let controller = fake.open().unwrap();
        fake.nvme.inject_always(When::Admin(Opcode::IDENTIFY.0), Fault::Garbage);
        fake.nvme.inject_always(LOG, Fault::Garbage);
        drop(controller.namespace(1));
        drop(controller.namespaces());
        drop(controller.identifiers(1));
        drop(controller.controllers());
        drop(controller.secondary_controllers());
        drop(controller.primary_capabilities());
        drop(controller.error_log());
        drop(controller.changed_namespaces());
        drop(controller.reset());
        drop(controller);
        fake.leaves_nothing();
    }

    #[test]
    fn whatever_goes_wrong_every_command_ends_and_nothing_is_left(seed: u64, permille in 1..300_u32, calls in proptest::collection::vec(0..9_u8, 1..20)) {
        let fake = Fake::new(nvme::Options { seed, ..default() });
        let Ok(controller) = fake.open() else {
            panic!("it is well");
        };
        fake.nvme.chaos(seed, permille);
        for call in calls {
            let done = match call {
                0 => controller.identify().map(drop),
                1 => controller.namespace(1).map(drop),
                2 => controller.health().map(drop),
                3 => controller.reset(),
                4 => controller.next_event(Duration::from_millis(1)).map(drop),
                5 => controller.write_cache().map(drop),
                6 => controller.controllers().map(drop),
                7 => controller.abort(1, 1).map(drop),
                _ => controller.namespaces().map(drop),
            };
            drop(done);
        }
        drop(controller);
        let machine = fake.backing.machine().clone();
        drop(fake);
        prop_assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}
