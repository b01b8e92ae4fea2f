//! Resets and power states.

use super::*;

const FLR: u16 = 1 << 15;
const DEVICE_CONTROL: u16 = 0x78;
const POWER: u16 = 0x44;

/// All that can be set is set.
fn busy(made: &Made) -> ConfigView {
    let mut view = made.view();
    event(&mut view, windows());
    place(&mut view, BarIndex::Bar(0), 0xC000_0000);
    write16(&mut view, 4, 6);
    write16(&mut view, 0xB2, 1 << 15);
    let msix = view.msix_mut().unwrap();
    assert_eq!(msix.write(0, 0x1000 + 8, &[5, 0, 0, 0, 0, 0, 0, 0]), Some(0));
    view.set_pending(1, true);
    assert!(is_nothing(view.write(0x0C, &[0x10])));
    view
}

fn assert_fresh(view: &ConfigView, made: &Made) {
    let fresh = made.view();
    for offset in (0..4096).step_by(4) {
        assert_eq!(read::<4>(view, offset), read(&fresh, offset), "{offset:#x}");
    }
    let mut table = [[0; 8]; 2];
    assert!(view.msix().unwrap().read(0, 0x1008, &mut table[0]));
    assert!(view.msix().unwrap().read(0, 0x1800, &mut table[1]));
    assert_eq!(table, [[0, 0, 0, 0, 1, 0, 0, 0], [0; 8]]);
}

#[test]
fn a_function_level_reset_is_the_hosts_to_do_after_all_is_off() {
    let made = usual();
    let mut view = busy(&made);
    let effects = write16(&mut view, DEVICE_CONTROL, FLR | 0x1234);
    assert_eq!(
        effects,
        [Effect::Bars, Effect::Command(0), Effect::Interrupts, Effect::Reset]
    );
    assert_fresh(&view, &made);
    // By its upper byte.
    let mut view = busy(&made);
    assert!(
        view.write(DEVICE_CONTROL + 1, &[0x80])
            .iter()
            .any(|effect| effect == Effect::Reset)
    );
    // By four bytes.
    let mut view = busy(&made);
    assert!(write32(&mut view, DEVICE_CONTROL, FLR.into()).contains(&Effect::Reset));
}

#[test]
fn the_rest_of_device_control_is_the_functions() {
    let mut view = usual().view();
    let effects = write16(&mut view, DEVICE_CONTROL, 0x2910);
    let [Effect::Forward(forward)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(
        (forward.offset(), forward.bytes()),
        (DEVICE_CONTROL, [0x10, 0x29].as_slice())
    );
    assert_eq!(u16_at(&view, DEVICE_CONTROL), 0x6EEE, "the reset bit reads as zero");
}

#[test]
fn a_function_that_cannot_be_reset_does_not_say_that_it_can() {
    let mut made = usual();
    assert_eq!(u32_at(&made.view(), 0x74), 0x1000_8005);
    made.options.is_resettable = false;
    let mut view = made.view();
    assert_eq!(u32_at(&view, 0x74), 0x8005);
    let effects = write16(&mut view, DEVICE_CONTROL, FLR);
    let [Effect::Forward(forward)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(forward.bytes(), [0, 0], "and the bit is not forwarded");
    // Nor one whose own capability does not.
    made.options.is_resettable = true;
    made.poke(0x77, &[0]);
    assert!(!write16(&mut made.view(), DEVICE_CONTROL, FLR).contains(&Effect::Reset));
}

#[test]
fn advanced_features_reset_a_conventional_function() {
    let made = Made::new().with(0x40, &[0x13, 0, 6, 3, 0, 1]);
    let mut view = made.view();
    assert_eq!(read(&view, 0x40), [0x13, 0, 6, 3]);
    assert_eq!(
        read(&view, 0x44),
        [0, OWN],
        "transactions pending are the function's word"
    );
    assert_eq!(view.write(0x44, &[1]).into_iter().collect::<Vec<_>>(), [Effect::Reset]);
    assert!(is_nothing(view.write(0x44, &[0xFE])));
    let made = Made::new().with(0x40, &[0x13, 0, 6, 1, 0, 1]);
    assert!(is_nothing(made.view().write(0x44, &[1])));
}

#[test]
fn the_bus_resets_and_takes_power_away() {
    let made = usual();
    let mut view = busy(&made);
    let effects = event(&mut view, BusEvent::Reset);
    assert_eq!(
        effects,
        [Effect::Bars, Effect::Command(0), Effect::Interrupts, Effect::Reset]
    );
    assert_fresh(&view, &made);
    let mut view = busy(&made);
    let effects = event(&mut view, BusEvent::Down);
    assert_eq!(effects, [Effect::Bars, Effect::Command(0), Effect::Interrupts]);
    assert_eq!(view.interrupts(), Interrupts::None);
    assert!(is_nothing(view.bus_event(BusEvent::Down)));
    // Accesses that were under way have no effect on what is reached.
    write16(&mut view, 4, 6);
    place(&mut view, BarIndex::Bar(0), 0xC000_0000);
    assert_eq!(view.decoded().count(), 0);
    let effects = event(&mut view, BusEvent::Reset);
    assert_eq!(effects, [Effect::Command(0), Effect::Interrupts, Effect::Reset]);
    assert_fresh(&view, &made);
}

#[test]
fn a_sleeping_function_is_reached_only_by_its_configuration() {
    let made = usual();
    let mut view = busy(&made);
    let sleep = write16(&mut view, POWER, 3);
    assert_eq!(
        sleep,
        [Effect::Bars, Effect::Interrupts, Effect::Power(PowerStateCode::D3HOT)]
    );
    assert_eq!((view.interrupts(), view.decoded().count()), (Interrupts::None, 0));
    assert_eq!(u16_at(&view, POWER), 0x000B);
    assert_eq!(write16(&mut view, DEVICE_CONTROL, 0x2810), [], "nothing is forwarded");
    let wake = write16(&mut view, POWER, 0);
    assert_eq!(
        wake,
        [Effect::Power(PowerStateCode::D0), Effect::Bars, Effect::Interrupts]
    );
    assert_eq!((view.interrupts(), view.decoded().count()), (Interrupts::Msix, 1));
    write16(&mut view, POWER, 3);
    let effects: Vec<_> = view.reset().into_iter().collect();
    assert_eq!(effects[0], Effect::Power(PowerStateCode::D0));
    assert_eq!(effects.last(), Some(&Effect::Reset));
    assert_fresh(&view, &made);
}

#[test]
fn states_that_are_not_supported_are_not_entered() {
    let mut view = usual().view();
    assert_eq!(
        u16_at(&view, 0x42),
        0x0003,
        "neither D1 nor D2 nor power management events"
    );
    for state in [1, 2] {
        assert_eq!(write16(&mut view, POWER, state), []);
        assert_eq!(u16_at(&view, POWER), 0x0008);
    }
    write16(&mut view, POWER, 3);
    assert_eq!(write16(&mut view, POWER, 2), []);
    assert_eq!((view.power(), u16_at(&view, POWER)), (PowerStateCode::D3HOT, 0x000B));
    assert_eq!(write16(&mut view, POWER, 0xFFF7), [], "all else is read-only");
    assert_eq!(u16_at(&view, POWER), 0x000B);
}
