//! Reset, errors, and the end of a function.

use super::{
    BAR0, Bench, COMMAND, EXPRESS, HELD, HERE, MASTER, MEMORY, Notice, RAISE_MSIX, WAYS, Way, bdf, description,
    message, raiser,
};
use crate::pci::{BusEvent, Function};
use std::time::Duration;
use vfio_core::EventSet;

#[test]
fn a_function_level_reset_is_one_reset_of_the_device_and_all_is_as_at_first() {
    for way in WAYS {
        let bench = Bench::running(way, raiser(description()));
        bench.set_vector(0, message(1), false);
        bench.enable_msix();
        bench.store(HERE + 0x20, 5);
        bench.machine.forget_calls();
        bench.write(EXPRESS + 8, 2, 1 << 15);
        assert_eq!(bench.count("VFIO_DEVICE_RESET"), 1, "{way:?}");
        assert_eq!((bench.read(COMMAND, 2), bench.read(BAR0, 4)), (0, 0));
        assert_eq!(bench.guest_has(), (0, 0, 0));
        assert!(!bench.attached.device().config().unwrap().bus_master().unwrap());
        bench.start();
        assert_eq!(bench.load(HERE + 0x20), 0, "the device was reset");
        bench.enable_msix();
        bench.store(HERE + RAISE_MSIX, 0);
        assert_eq!(bench.guest.delivered(), [], "the table is masked again");
    }
}

#[test]
fn a_function_without_a_reset_of_its_own_does_not_offer_one() {
    let bench = Bench::running(Way::Iommufd, raiser(description().without_reset()));
    bench.machine.forget_calls();
    bench.write(EXPRESS + 8, 2, 1 << 15);
    assert_eq!(bench.count("VFIO_DEVICE_RESET"), 0);
    assert_eq!(bench.read(COMMAND, 2), u64::from(MEMORY | MASTER), "nothing happened");
    bench.function.stop().unwrap();
}

#[test]
fn what_happens_to_its_bus_happens_to_the_function() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    bench.machine.forget_calls();
    bench.function.bus_event(BusEvent::Down);
    assert_eq!(bench.guest_has(), (0, 0, 0));
    assert!(!bench.attached.device().config().unwrap().bus_master().unwrap());
    bench.function.bus_event(BusEvent::Reset);
    assert_eq!(bench.count("VFIO_DEVICE_RESET"), 1);
    bench.start();
    assert_eq!(bench.guest_has(), (2, 0, 1));
    bench.function.reset();
    assert_eq!((bench.count("VFIO_DEVICE_RESET"), bench.guest_has()), (2, (0, 0, 0)));
}

#[test]
fn a_function_that_has_failed_is_stopped_and_one_that_is_wanted_back_is_not() {
    for way in WAYS {
        let bench = Bench::running(way, raiser(description()));
        let events = EventSet::new().unwrap();
        let duplicates = bench.function.notice_events().unwrap();
        for event in &duplicates {
            events.add(event, 1).unwrap();
        }
        assert_eq!(bench.function.take_notices().unwrap(), []);
        bench.machine.request_release(bdf(1));
        assert_eq!(
            events
                .wait(Some(Duration::from_secs(9)), |key| assert_eq!(key, 1))
                .unwrap(),
            1
        );
        assert_eq!(bench.function.take_notices().unwrap(), [Notice::Wanted]);
        assert_eq!(bench.guest_has(), (2, 0, 1), "it works on");
        bench.machine.report_error(bdf(1));
        assert_eq!(bench.function.take_notices().unwrap(), [Notice::Failed]);
        assert_eq!(bench.guest_has(), (0, 0, 0));
        assert_eq!((bench.read(0, 4), bench.load(HERE)), (u64::from(u32::MAX), u32::MAX));
        assert!(!bench.attached.device().config().unwrap().bus_master().unwrap());
    }
}

#[test]
fn a_function_that_is_stopped_holds_nothing_and_nothing_brings_it_back() {
    for way in WAYS {
        let bench = Bench::running(way, raiser(description()));
        bench.enable_msix();
        bench.set_vector(0, message(1), false);
        bench.machine.forget_calls();
        bench.function.stop().unwrap();
        assert_eq!(bench.count("VFIO_DEVICE_RESET"), 1);
        bench.function.stop().unwrap();
        assert_eq!(bench.count("VFIO_DEVICE_RESET"), 1, "{way:?}: once");
        bench.start();
        bench.function.reset();
        bench.function.bus_event(BusEvent::Reset);
        bench.enable_msix();
        assert_eq!(bench.guest_has(), (0, 0, 0));
        assert_eq!(bench.function.take_notices().unwrap(), []);
        // A processor may still be in it; the device closes all the same.
        let Bench {
            function,
            attached,
            groups,
            space,
            machine,
            ..
        } = bench;
        drop((attached, space, groups));
        assert_eq!(machine.leaks(), Vec::<String>::new());
        drop(function);
    }
}

#[test]
fn a_device_that_was_pulled_out_leaves_a_function_that_reads_as_ones() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    bench.machine.remove(bdf(1));
    let notices = bench.function.take_notices().unwrap();
    assert_eq!(notices, [Notice::Failed, Notice::Wanted]);
    assert_eq!(bench.read(0, 4), u64::from(u32::MAX));
    assert_eq!(bench.guest_has(), (0, 0, 0));
}

#[test]
fn a_processor_that_is_on_its_way_to_a_stopped_function_does_not_reach_the_device() {
    for way in WAYS {
        let bench = Bench::running(way, raiser(description()));
        bench.store(HERE + HELD, 7);
        let found = bench.bus.remove(HERE).unwrap();
        bench.function.stop().unwrap();
        let before = bench.count("pwrite");
        found.write(HELD, &9_u32.to_le_bytes());
        let mut read = [0; 4];
        found.read(HELD, &mut read);
        assert_eq!((read, bench.count("pwrite")), ([0xFF; 4], before));
        // It does not hold the device open either.
        let machine = bench.machine.clone();
        drop(bench);
        assert_eq!(machine.leaks(), Vec::<String>::new());
        drop(found);
    }
}
