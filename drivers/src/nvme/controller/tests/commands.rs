//! Admin commands and events of a controller that is well.

use super::{BOTH, Fake, default};
use crate::ErrorKind;
use crate::fake::nvme;
use crate::nvme::spec::Opcode;
use crate::nvme::spec::log::Effects;
use crate::nvme::{Coalescing, Event, EventConfiguration, Sensor, fid};
use std::time::Duration;

#[test]
fn log_pages_are_read() {
    for interface in BOTH {
        let fake = Fake::through(interface, default());
        let controller = fake.open().unwrap();
        let health = controller.health().unwrap();
        assert!(health.temperature.get() > 200, "kelvin");
        assert!(health.warnings().is_empty());
        assert!(controller.error_log().unwrap().is_empty());
        assert!(controller.firmware_slots().unwrap().active().is_some());
        assert_eq!(controller.changed_namespaces().unwrap(), Some(Vec::new()));
        if let Ok(commands) = controller.commands() {
            assert!(commands.admin(Opcode::IDENTIFY).contains(Effects::SUPPORTED));
        }
        drop(controller);
        fake.leaves_nothing();
    }
}

#[test]
fn features_are_what_they_were_set_to() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    let coalescing = Coalescing::new().with_threshold(7).with_time(2);
    controller.set_interrupt_coalescing(coalescing).unwrap();
    assert_eq!(controller.interrupt_coalescing().unwrap(), coalescing);
    controller.set_coalesced(1, false).unwrap();
    controller.set_write_cache(false).unwrap();
    assert!(!controller.write_cache().unwrap());
    let sensor = Sensor {
        number: 0,
        is_lower: false,
    };
    controller.set_temperature_threshold(sensor, 333).unwrap();
    assert_eq!(controller.temperature_threshold(sensor).unwrap(), 333);
    let arbitration = controller.arbitration().unwrap().with_burst(3);
    controller.set_arbitration(arbitration).unwrap();
    assert_eq!(controller.arbitration().unwrap(), arbitration);
    assert!(
        controller
            .event_configuration()
            .unwrap()
            .contains(EventConfiguration::NAMESPACES)
    );
    let refused = controller.set_feature(fid::NUMBER_OF_QUEUES, 0, false);
    assert!(matches!(refused.unwrap_err().kind, ErrorKind::Invalid(_)));
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn an_event_is_told_once_and_again_when_it_comes_again() {
    for interface in BOTH {
        let fake = Fake::through(interface, default());
        let controller = fake.open().unwrap();
        let (now, soon) = (Duration::ZERO, Duration::from_millis(50));
        assert_eq!(controller.next_event(now).unwrap(), None);
        assert_eq!(controller.next_event(soon).unwrap(), None);
        for blocks in [1000, 2000] {
            let before = controller.namespace(1).unwrap();
            assert!(fake.nvme.resize(1, blocks));
            let event = controller.next_event(soon).unwrap();
            assert_eq!(event, Some(Event::NamespacesChanged(Some(vec![1]))));
            let after = controller.namespace(1).unwrap();
            assert_eq!(after.blocks, blocks);
            assert_ne!(before.changes, after.changes, "what was known is not true any more");
            assert_eq!(controller.next_event(soon).unwrap(), None);
        }
        fake.nvme.report(nvme::Event::new(1, 1, 2));
        assert!(matches!(
            controller.next_event(soon).unwrap(),
            Some(Event::Health(1, _))
        ));
        fake.nvme.report(nvme::Event::new(0, 3, 1));
        assert_eq!(controller.next_event(soon).unwrap(), Some(Event::Error(3)));
        // Also after a reset.
        controller.reset().unwrap();
        fake.nvme.report(nvme::Event::new(1, 2, 2));
        assert!(matches!(
            controller.next_event(soon).unwrap(),
            Some(Event::Health(2, _))
        ));
        drop(controller);
        fake.leaves_nothing();
    }
}

#[test]
fn many_threads_ask_at_a_time() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert_eq!(controller.identify().unwrap().serial(), "FAKE0001");
                }
            });
        }
    });
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn after_a_shutdown_nothing_is_done() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    controller.shut_down().unwrap();
    controller.shut_down().unwrap();
    assert!(matches!(controller.health().unwrap_err().kind, ErrorKind::Failed(_)));
    assert!(controller.reset().is_err());
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn a_controller_that_is_asked_back_takes_nothing_new() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    let bdf = crate::Backing::bdf(&fake.backing).unwrap();
    fake.backing.machine().request_release(bdf);
    let told = [crate::Backing::removal(&fake.backing).event()];
    assert_eq!(vfio_core::wait_any(&told, Some(Duration::from_secs(60))).unwrap(), [0]);
    assert!(controller.health().unwrap_err().is_gone());
    assert!(controller.next_event(Duration::from_secs(1)).unwrap_err().is_gone());
    drop(controller);
    fake.leaves_nothing();
}
