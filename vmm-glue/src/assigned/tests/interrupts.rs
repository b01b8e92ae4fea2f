//! Interrupts reach the guest while, and as, the guest wants them.

use super::{
    Bench, COMMAND, GSI, HERE, MASTER, MEMORY, MSI, MSIX, NO_INTX, RAISE_INTX, RAISE_MSI, RAISE_MSIX, WAYS, Way,
    description, message, raiser,
};
use crate::interrupt::MsiMessage;
use vfio_core::fake::{Description, Region};

const PENDING: u64 = HERE + 0x8000 + 8 * 16;

#[test]
fn a_vector_is_delivered_once_the_guest_has_unmasked_it() {
    for way in WAYS {
        for description in [description(), description().without_dynamic_msix()] {
            let bench = Bench::running(way, raiser(description));
            bench.enable_msix();
            assert_eq!(bench.guest.routes(), 0, "nothing is routed of what is masked");
            bench.set_vector(5, message(50), false);
            assert_eq!(bench.guest.routes(), 1);
            for vector in [5, 4] {
                bench.store(HERE + RAISE_MSIX, vector);
            }
            assert_eq!(bench.guest.delivered(), [message(50)], "{way:?}");
            bench.set_vector(2, message(20), false);
            bench.store(HERE + RAISE_MSIX, 2);
            bench.store(HERE + RAISE_MSIX, 5);
            let mut delivered = bench.guest.delivered();
            delivered.sort_by_key(|message| message.data);
            assert_eq!(delivered, [message(20), message(50)]);
            bench.set_vector(2, message(21), false);
            bench.store(HERE + RAISE_MSIX, 2);
            assert_eq!(bench.guest.delivered(), [message(21)], "its new message");
        }
    }
}

#[test]
fn what_comes_while_a_vector_is_masked_is_pending_and_delivered_once() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    bench.enable_msix();
    bench.set_vector(3, message(30), false);
    let entry = HERE + 0x8000 + 16 * 3;
    bench.store(entry + 12, 1);
    assert_eq!(bench.load(PENDING), 0);
    for _ in 0..2 {
        bench.store(HERE + RAISE_MSIX, 3);
    }
    assert_eq!((bench.guest.delivered(), bench.load(PENDING)), (vec![], 1 << 3));
    bench.store(entry + 12, 0);
    assert_eq!((bench.guest.delivered(), bench.load(PENDING)), (vec![message(30)], 0));
    // The mask of all vectors.
    bench.write(MSIX + 2, 2, 0b11 << 14);
    bench.store(HERE + RAISE_MSIX, 3);
    assert_eq!((bench.guest.delivered(), bench.load(PENDING)), (vec![], 1 << 3));
    bench.write(MSIX + 2, 2, 0b10 << 14);
    assert_eq!(bench.guest.delivered(), [message(30)]);
}

#[test]
fn the_devices_own_pending_bits_are_shown() {
    let bench = Bench::running(Way::Iommufd, raiser(description()).register(0, 0x8080, 8, 0b1000_0001));
    bench.enable_msix();
    assert_eq!(bench.load(PENDING), 0b1000_0001);
}

#[test]
fn what_the_device_writes_in_place_of_an_interrupt_is_nothing() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    bench.enable_msix();
    let elsewhere = MsiMessage {
        address: 0x10_0000,
        data: 7,
    };
    bench.set_vector(0, elsewhere, false);
    bench.store(HERE + RAISE_MSIX, 0);
    assert_eq!((bench.guest.delivered(), bench.guest.routes()), (vec![], 0));
    bench.set_vector(0, message(1), false);
    bench.set_vector(0, elsewhere, false);
    bench.store(HERE + RAISE_MSIX, 0);
    assert_eq!(bench.guest.delivered(), []);
}

#[test]
fn msi_has_as_many_vectors_as_the_guest_enables() {
    for way in WAYS {
        let bench = Bench::running(way, raiser(description()));
        bench.write(MSI + 4, 4, 0xFEE0_1000);
        bench.write(MSI + 8, 4, 0);
        bench.write(MSI + 12, 2, 0x40);
        bench.write(MSI + 2, 2, 1 | 1 << 4);
        for vector in 0..4 {
            bench.store(HERE + RAISE_MSI, vector);
        }
        assert_eq!(bench.guest.delivered(), [message(0x40), message(0x41)], "{way:?}");
        bench.write(MSI + 12, 2, 0x50);
        bench.store(HERE + RAISE_MSI, 1);
        assert_eq!(bench.guest.delivered(), [message(0x51)]);
        bench.write(MSI + 2, 2, 0);
        bench.store(HERE + RAISE_MSI, 0);
        assert_eq!((bench.guest.delivered(), bench.guest.routes()), (vec![], 0));
    }
}

#[test]
fn a_line_is_asserted_until_the_device_is_served_and_the_guest_says_so() {
    for way in WAYS {
        let bench = Bench::running(way, raiser(description()));
        assert_eq!(bench.guest.lines(), 1);
        bench.store(HERE + RAISE_INTX, 1);
        assert!(bench.guest.is_asserted(GSI), "{way:?}");
        bench.guest.end_interrupt(GSI);
        bench.machine.settle();
        assert!(bench.guest.is_asserted(GSI), "the device was not served");
        bench.store(HERE + RAISE_INTX, 0);
        bench.guest.end_interrupt(GSI);
        bench.machine.settle();
        assert!(!bench.guest.is_asserted(GSI));
    }
}

#[test]
fn a_function_interrupts_in_one_way_at_a_time() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    bench.set_vector(0, message(9), false);
    bench.enable_msix();
    assert_eq!((bench.guest.lines(), bench.guest.routes()), (0, 1));
    bench.store(HERE + RAISE_INTX, 1);
    assert!(!bench.guest.is_asserted(GSI));
    bench.store(HERE + RAISE_INTX, 0);
    bench.write(MSIX + 2, 2, 0);
    assert_eq!((bench.guest.lines(), bench.guest.routes()), (1, 0), "back to the line");
    bench.write(COMMAND, 2, (MEMORY | MASTER | NO_INTX).into());
    bench.store(HERE + RAISE_INTX, 1);
    assert!(!bench.guest.is_asserted(GSI), "the guest has switched it off");
    bench.write(COMMAND, 2, (MEMORY | MASTER).into());
    assert!(bench.guest.is_asserted(GSI), "and on again, while it is asserted");
    bench.write(COMMAND, 2, 0);
    assert_eq!(bench.guest.lines(), 0, "nobody uses it");
}

#[test]
fn a_vector_that_cannot_be_enabled_can_be_tried_again() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    bench.enable_msix();
    bench.machine.fail_next("VFIO_DEVICE_SET_IRQS", vfio_core::Errno::NOMEM);
    bench.set_vector(1, message(1), false);
    bench.store(HERE + RAISE_MSIX, 1);
    assert_eq!(bench.guest.delivered(), []);
    bench.set_vector(1, message(1), true);
    bench.set_vector(1, message(1), false);
    bench.store(HERE + RAISE_MSIX, 1);
    assert_eq!(bench.guest.delivered(), [message(1)]);
}

#[test]
fn where_not_all_vectors_can_be_had_more_are_when_they_are_used_and_none_is_lost() {
    let bar = Region::bar(0, 64 << 10);
    let description = Description::new(1, 2)
        .region(bar)
        .msix(8, 0, 0x8000)
        .without_dynamic_msix();
    let bench = Bench::running(Way::Iommufd, raiser(description));
    bench.machine.fail_next("VFIO_DEVICE_SET_IRQS", vfio_core::Errno::NOSPC);
    bench.enable_msix();
    assert!(bench.machine.failed().is_some());
    bench.set_vector(0, message(10), false);
    bench.store(HERE + RAISE_MSIX, 0);
    assert_eq!(bench.guest.delivered(), [message(10)]);
    bench.set_vector(5, message(15), false);
    let spurious = bench.guest.delivered();
    assert!(spurious.contains(&message(10)), "what may have come meanwhile");
    for vector in [0, 5] {
        bench.store(HERE + RAISE_MSIX, vector);
    }
    assert_eq!(bench.guest.delivered(), [message(10), message(15)]);
    // It cannot have still more: what it has stays.
    bench.machine.fail_next("VFIO_DEVICE_SET_IRQS", vfio_core::Errno::NOSPC);
    bench.set_vector(7, message(17), false);
    drop(bench.guest.delivered());
    for vector in [0, 5, 7] {
        bench.store(HERE + RAISE_MSIX, vector);
    }
    assert_eq!(bench.guest.delivered(), [message(10), message(15)]);
}

#[test]
fn vectors_that_change_together_cost_one_table_of_kvm() {
    const TABLE: u64 = HERE + 0x8000;
    let bar = Region::bar(0, 128 << 10);
    let many = || Description::new(1, 2).region(bar.clone()).msix(2048, 0, 0x8000);
    for description in [many(), many().without_dynamic_msix()] {
        let bench = Bench::running(Way::Iommufd, raiser(description));
        let counted = |what: &dyn Fn()| {
            let calls = || {
                let of_kvm = ["KVM_SET_GSI_ROUTING", "KVM_IRQFD"].map(|call| bench.guest.count(call));
                let [tables, events] = of_kvm;
                [tables, events, bench.count("VFIO_DEVICE_SET_IRQS")]
            };
            let before = calls();
            what();
            let after = calls();
            [0, 1, 2].map(|call| after[call] - before[call])
        };
        let set_all = |data: u32| (0..2048).for_each(|vector| bench.set_vector(vector, message(data), false));
        set_all(7);
        assert_eq!(bench.guest.routes(), 0, "not enabled");
        let [tables, events, vectors] = counted(&|| bench.enable_msix());
        assert_eq!([tables, events], [1, 2048]);
        assert!(vectors <= 2049, "{vectors}");
        let mask = || bench.write(MSIX + 2, 2, 0b11 << 14);
        assert_eq!(counted(&mask), [0, 2048, 0], "the mask of all");
        assert_eq!(counted(&|| set_all(9)), [0, 0, 0], "nobody hears of what is masked");
        assert_eq!(counted(&|| bench.write(MSIX + 2, 2, 0b10 << 14)), [1, 2048, 0]);
        assert_eq!(counted(&|| bench.write(MSIX + 2, 2, 0b10 << 14)), [0, 0, 0]);
        assert_eq!(counted(&|| bench.store(TABLE + 8, 10)), [1, 0, 0], "one message");
        for mask in [1, 0, 1] {
            assert_eq!(counted(&|| bench.store(TABLE + 12, mask)), [0, 1, 0], "one mask");
        }
        bench.store(TABLE + 8, 11);
        assert_eq!(
            counted(&|| bench.store(TABLE + 12, 0)),
            [1, 1, 0],
            "with another message"
        );
        assert_eq!(counted(&|| bench.store(TABLE + 12, 0)), [0, 0, 0]);
        bench.store(HERE + RAISE_MSIX, 0);
        bench.store(HERE + RAISE_MSIX, 2047);
        assert_eq!(bench.guest.delivered(), [message(11), message(9)]);
    }
}

#[test]
fn of_a_table_that_kvm_refuses_each_message_has_a_chance_of_its_own() {
    let bench = Bench::running(Way::Iommufd, raiser(description()));
    for vector in 0..4 {
        bench.set_vector(vector, message(40), false);
    }
    // Four routes, then the table.
    bench.guest.fail_nth(4);
    bench.enable_msix();
    assert_eq!(bench.guest.failed(), Some("KVM_SET_GSI_ROUTING"));
    bench.store(HERE + RAISE_MSIX, 2);
    assert_eq!(bench.guest.delivered(), [message(40)]);
    bench.set_vector(2, message(42), true);
    bench.set_vector(2, message(42), false);
    bench.store(HERE + RAISE_MSIX, 2);
    assert_eq!(bench.guest.delivered(), [message(42)]);
}
