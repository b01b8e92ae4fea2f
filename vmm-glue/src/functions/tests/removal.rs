//! Removals that are waited for, asked for twice, or overtaken by the end of the machine.

use super::*;

#[test]
fn a_removal_waits_for_the_guest() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Type1, &[&[1]]).unwrap();
    std::thread::scope(|scope| {
        let removed = scope.spawn(|| bench.functions.remove(bdf(1), Duration::from_secs(30)));
        // As pciehp does once it has seen the button.
        while bench.config(0, 8, SLOT_CONTROL) >> 16 & 1 == 0 {
            std::thread::yield_now();
        }
        bench.set_power(1, false);
        removed.join().unwrap().unwrap();
    });
    drop(bench);
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

/// Until the button of a slot was pressed, and begins anew.
fn await_press(bench: &Bench, slot: u8) {
    while bench.config(0, slot << 3, SLOT_CONTROL) >> 16 & 1 == 0 {
        std::thread::yield_now();
    }
    bench.set_config(0, slot << 3, SLOT_CONTROL + 2, &[1, 0]);
}

#[test]
fn whoever_waits_for_a_slot_hears_that_it_is_empty_whoever_asked_last() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Iommufd, &[&[1]]).unwrap();
    std::thread::scope(|scope| {
        let removed = scope.spawn(|| bench.functions.remove(bdf(1), Duration::MAX));
        await_press(&bench, 1);
        let other = bench.functions.begin_removal(bdf(1)).unwrap();
        bench.set_power(1, false);
        removed.join().unwrap().unwrap();
        assert_eq!(other.emptied().try_read().unwrap(), Some(1));
        bench.functions.finish_removal(&other).unwrap();
    });
    assert!(bench.functions.list().is_empty());
}

#[test]
fn a_removal_ends_with_the_machine() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Iommufd, &[&[1]]).unwrap();
    std::thread::scope(|scope| {
        let removed = scope.spawn(|| bench.functions.remove(bdf(1), Duration::MAX));
        await_press(&bench, 1);
        bench.functions.stop().unwrap();
        removed.join().unwrap().unwrap();
    });
    drop(bench);
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn nothing_is_taken_in_once_the_machine_has_ended() {
    for way in BOTH {
        let machine = machine();
        let bench = Bench::new(&machine, way, &[&[1]]).unwrap();
        bench.functions.stop().unwrap();
        let pinned = machine.pinned();
        let error = bench
            .functions
            .add(vec![opened(&machine, way, 2).unwrap()])
            .unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
        assert!(bench.functions.begin_removal(bdf(1)).is_err());
        assert_eq!((bench.functions.list().len(), machine.pinned()), (0, pinned), "{way:?}");
    }
}

#[test]
fn a_function_that_has_failed_or_left_the_bus_is_no_reason_not_to_reboot() {
    for way in BOTH {
        let machine = machine();
        let bench = Bench::new(&machine, way, &[&[1], &[2], &[3]]).unwrap();
        machine.report_error(bdf(1));
        assert_eq!(bench.functions.take_notices().unwrap(), [(bdf(1), Notice::Failed)]);
        machine.remove(bdf(3));
        bench.functions.reset().unwrap();
        assert!(bench.copies(2), "{way:?}");
        bench.functions.eject(bdf(1)).unwrap();
        assert!(bench.functions.eject(bdf(1)).is_err(), "it is gone");
        let again = bench.functions.add(vec![opened(&machine, way, 1).unwrap()]);
        assert!(again.is_ok(), "it was closed: {again:?}");
    }
}

#[test]
fn a_function_that_the_kernel_wants_again_and_again_costs_nothing_more_and_stays_wanted() {
    let machine = machine();
    let Bench { functions, .. } = Bench::new(&machine, Way::Iommufd, &[&[1]]).unwrap();
    let functions = Arc::new(functions);
    let events = Arc::new(Events::new().unwrap());
    functions.listen(Arc::clone(&events)).unwrap();
    let dispatch = || events.dispatch(Some(Duration::ZERO)).unwrap();
    let listened_to = || format!("{events:?}").matches("Handler {").count();
    machine.request_release(bdf(1));
    dispatch();
    let once = listened_to();
    assert!(once > 0);
    for _ in 0..20 {
        machine.request_release(bdf(1));
        dispatch();
    }
    assert_eq!(listened_to(), once);
    let error = functions.remove(bdf(1), Duration::ZERO).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::TimedOut), "{error}");
    functions
        .root()
        .write(RoutingId(1 << 3), SLOT_CONTROL, &POWER_OFF.to_le_bytes());
    dispatch();
    assert!(functions.list().is_empty(), "the kernel still wanted it");
    assert_eq!(listened_to(), 0);
}

#[test]
fn nobody_waits_for_who_gives_the_guest_a_function_but_who_does_another() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Iommufd, &[&[1], &[2]]).unwrap();
    let (done, heard) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // As whoever maps all of the guest's memory, or resets a function.
        let space = bench.functions.space();
        let functions = &bench.functions;
        scope.spawn(move || {
            machine.report_error(bdf(1));
            let listed = functions.list().len();
            assert!(functions.refuses_balloon().is_some());
            functions.drop_silent_slots();
            let notices = functions.take_notices().unwrap();
            let removal = functions.begin_removal(bdf(2)).unwrap();
            functions.reset().unwrap();
            drop(removal);
            done.send((listed, notices)).unwrap();
        });
        let heard = heard.recv_timeout(Duration::from_secs(20));
        drop(space);
        assert_eq!(heard, Ok((2, vec![(bdf(1), Notice::Failed)])));
    });
}

#[test]
fn what_the_kernel_tells_is_heard_on_a_thread_of_its_own_until_the_machine_ends() {
    let machine = machine();
    let Bench { functions, .. } = Bench::new(&machine, Way::Iommufd, &[&[1]]).unwrap();
    let functions = Arc::new(functions);
    functions.serve().unwrap();
    functions.serve().unwrap();
    functions.add(vec![opened(&machine, Way::Iommufd, 2).unwrap()]).unwrap();
    // What has no power needs no consent.
    functions.root().write(RoutingId(2 << 3), SLOT_CONTROL, &[0, 0]);
    for number in [1, 2] {
        let removal = functions.begin_removal(bdf(number)).unwrap();
        machine.report_error(bdf(number));
        let emptied = removal.emptied().wait_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(emptied, Some(1), "it has failed, and was taken away");
        assert!(functions.begin_removal(bdf(number)).is_err());
    }
    functions.stop().unwrap();
    assert_eq!(Arc::strong_count(&functions), 1, "nobody listens any more");
    drop(functions);
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn nobody_gives_the_guest_a_function_while_those_that_it_has_are_begun_to_be_listened_to() {
    let machine = machine();
    let Bench { functions, .. } = Bench::new(&machine, Way::Iommufd, &[&[1]]).unwrap();
    let functions = Arc::new(functions);
    std::thread::scope(|scope| {
        let slots = functions.slots();
        let served = scope.spawn(|| functions.serve());
        while functions.listener.get().is_none() {
            std::thread::yield_now();
        }
        let may_add = functions.space.try_lock().is_ok();
        drop(slots);
        served.join().unwrap().unwrap();
        assert!(!may_add);
    });
    functions.stop().unwrap();
}

#[test]
fn a_button_is_pressed_for_who_was_asked_and_not_for_who_came_after() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Iommufd, &[&[1], &[]]).unwrap();
    let functions = &bench.functions;
    let removal = functions.begin_removal(bdf(1)).unwrap();
    functions.eject(bdf(1)).unwrap();
    while removal.emptied().try_read().unwrap().is_some() {}
    // Each slot holds somebody else.
    bench.set_power(1, false);
    for number in [2, 1] {
        functions
            .add(vec![opened(&machine, Way::Iommufd, number).unwrap()])
            .unwrap();
    }
    for slot in [1, 2] {
        bench.set_config(0, slot << 3, SLOT_CONTROL + 2, &[1, 0]);
    }
    assert!(functions.slots().asked(&removal).is_none());
    functions.press(&removal).unwrap();
    assert_eq!(removal.emptied().try_read().unwrap(), Some(1), "it is gone");
    for slot in [1, 2] {
        assert_eq!(bench.config(0, slot << 3, SLOT_CONTROL) >> 16 & 1, 0, "nobody asked");
    }
}

#[test]
fn memory_is_not_pinned_for_a_machine_that_has_ended() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Type1, &[]).unwrap();
    let functions = &bench.functions;
    let mut space = functions.space();
    let members = space.open_all(vec![opened(&machine, Way::Type1, 1).unwrap()]).unwrap();
    functions
        .status
        .is_ended
        .store(true, std::sync::atomic::Ordering::Release);
    space.map(&mut |_, _| ()).unwrap_err();
    assert_eq!((machine.pinned(), functions.refuses_balloon()), (0, None));
    space.close(members);
}

#[test]
fn nobody_who_asks_for_the_slots_waits_for_functions_that_are_reset() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Iommufd, &[&[1]]).unwrap();
    bench.set_config(0, 8, 4, &[6, 0]);
    let command = || bench.config(0, 8, 4) & 0xFFFF;
    assert_eq!(command(), 6);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    std::thread::scope(|scope| {
        let slots = bench.functions.slots();
        let reset = scope.spawn(|| bench.functions.reset());
        while command() == 6 && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let is_reset = command() != 6;
        drop(slots);
        reset.join().unwrap().unwrap();
        assert!(is_reset);
    });
}

#[test]
fn functions_that_come_in_one_slot_are_functions_of_one_device_and_leave_together() {
    for way in BOTH {
        let machine = machine();
        let bench = Bench::new(&machine, way, &[]).unwrap();
        let twice = [1, 1].map(|number| match opened(&machine, way, number) {
            Ok(opened) => opened,
            // A group opens once.
            Err(_) => Opened {
                bdf: bdf(number),
                file: File::SameGroup,
                token: None,
            },
        });
        let error = bench.functions.add(Vec::from(twice)).unwrap_err();
        assert!(error.to_string().contains("has it already"), "{way:?}: {error}");

        let both = vec![opened(&machine, way, 1).unwrap(), opened(&machine, way, 3).unwrap()];
        let added = bench.functions.add(both).unwrap();
        let guest: Vec<String> = added.iter().map(|listed| listed.guest.to_string()).collect();
        assert_eq!(guest, ["0000:01:00.0", "0000:01:00.1"], "{way:?}");
        bench.set_power(1, true);
        let multi_function = bench.config(1, 0, 0x0C) >> 16 & 0x80;
        assert_eq!((bench.config(1, 1, 0), multi_function), (0x0002_0001, 0x80), "{way:?}");
        // Asked of either, both leave.
        let removal = bench.functions.begin_removal(bdf(3)).unwrap();
        bench.set_power(1, false);
        bench.functions.finish_removal(&removal).unwrap();
        assert_eq!(bench.functions.list(), []);
        drop(bench);
        assert_eq!(machine.leaks(), Vec::<String>::new(), "{way:?}");
    }
}
