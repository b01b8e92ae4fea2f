//! Cards come and go.

use super::*;

#[test]
fn a_card_that_was_there_at_the_start_answers_at_once() {
    let guest = Guest::new();
    let (card, functions) = card();
    guest.port.install(functions).unwrap();
    guest.start();
    assert_eq!((guest.interrupts(), guest.events()), (0, 0));
    assert_eq!(guest.read(SLOT_CONTROL) & (POWER_OFF | OFF), ON);
    assert_eq!(guest.read(SLOT_STATUS), PRESENT);
    assert_eq!(guest.read(LINK_STATUS) & LINK_ACTIVE, LINK_ACTIVE);
    assert_eq!(guest.below(5, 0), 0x42);
    assert_eq!(card.told(), [windows()], "it was not reset");
}

#[test]
fn a_card_is_plugged_in_with_one_interrupt_and_without_a_button() {
    let guest = Guest::new();
    guest.start();
    let (card, functions) = card();
    guest.port.insert(functions).unwrap();
    assert_eq!(guest.interrupts(), 1);
    assert_eq!(guest.events(), PRESENCE | LINK_EVENT);
    assert_eq!(guest.read(SLOT_STATUS), PRESENT);
    assert_eq!(guest.read(LINK_STATUS) & LINK_ACTIVE, LINK_ACTIVE);
    assert_eq!(guest.below(5, 0), 0xFF, "it has no power");
    assert_eq!(card.told(), []);
    guest.power(BLINK);
    assert_eq!(card.told(), [BusEvent::Reset, windows()]);
    assert_eq!(guest.below(5, 0), 0x42);
    guest.power(ON);
    assert_eq!(
        (guest.interrupts(), guest.events()),
        (0, 0),
        "the guest knows what it did"
    );
    let state = SlotState {
        is_present: true,
        is_powered: true,
        is_link_up: true,
        power: Indicator::On,
        attention: Indicator::Off,
    };
    assert_eq!(guest.port.state(), state);
    // It is not new any more: without power it has no link.
    guest.power(OFF | POWER_OFF);
    assert_eq!(guest.events(), LINK_EVENT);
    assert_eq!(guest.read(LINK_STATUS) & LINK_ACTIVE, 0);
}

#[test]
fn a_card_is_let_go_of_when_the_guest_has_switched_it_off() {
    let guest = Guest::new();
    guest.start();
    for _ in 0..20 {
        let (card, functions) = card();
        guest.port.insert(functions).unwrap();
        guest.power(ON);
        guest.events();
        guest.interrupts();
        let removed = Arc::new(Mutex::new(None));
        let note = Arc::clone(&removed);
        guest
            .port
            .request_removal(move |functions| *note.lock().unwrap() = Some(functions))
            .unwrap();
        assert_eq!((guest.interrupts(), guest.events()), (1, BUTTON));
        guest.power(BLINK);
        // A second press now would be taken for a change of mind.
        let note = Arc::clone(&removed);
        guest
            .port
            .request_removal(move |functions| *note.lock().unwrap() = Some(functions))
            .unwrap();
        assert_eq!((guest.interrupts(), guest.events()), (0, 0));
        assert!(removed.lock().unwrap().is_none());
        card.told();
        guest.power(BLINK | POWER_OFF);
        assert_eq!(card.told(), [BusEvent::Down]);
        assert_eq!(removed.lock().unwrap().take().unwrap().len(), 1);
        assert_eq!(guest.read(LINK_STATUS) & LINK_ACTIVE, 0);
        assert_eq!(guest.interrupts(), 1);
        assert_eq!(guest.events(), PRESENCE | LINK_EVENT);
        assert_eq!(guest.read(SLOT_STATUS), 0);
        guest.power(OFF | POWER_OFF);
        assert_eq!(guest.below(5, 0), 0xFF);
        assert_eq!(
            (guest.interrupts(), Arc::strong_count(&card)),
            (0, 1),
            "nobody holds it any more"
        );
    }
}

#[test]
fn a_slot_that_the_guest_switches_off_by_itself_keeps_its_card() {
    let guest = Guest::new();
    let (card, functions) = card();
    guest.port.install(functions).unwrap();
    guest.start();
    card.told();
    guest.power(OFF | POWER_OFF);
    assert_eq!(card.told(), [BusEvent::Down, NO_WINDOWS]);
    assert_eq!(guest.events(), LINK_EVENT);
    assert_eq!(guest.read(SLOT_STATUS), PRESENT);
    assert_eq!(guest.below(5, 0), 0xFF);
    guest.power(ON);
    assert_eq!(card.told(), [BusEvent::Reset, windows()]);
    assert_eq!(guest.events(), LINK_EVENT);
    // One that is off can be taken out at once.
    guest.power(OFF | POWER_OFF);
    let removed = Arc::new(Mutex::new(0));
    let note = Arc::clone(&removed);
    guest
        .port
        .request_removal(move |functions| *note.lock().unwrap() = functions.len())
        .unwrap();
    assert_eq!(*removed.lock().unwrap(), 1);
    assert_eq!(guest.events(), LINK_EVENT | PRESENCE, "no button was pressed");
    assert!(guest.port.request_removal(|_| {}).is_err(), "it is empty");
    // As can one that was never switched on.
    guest.port.insert(self::card().1).unwrap();
    let note = Arc::clone(&removed);
    guest
        .port
        .request_removal(move |functions| *note.lock().unwrap() += functions.len())
        .unwrap();
    assert_eq!(*removed.lock().unwrap(), 2);
    assert_eq!(guest.read(LINK_STATUS) & LINK_ACTIVE, 0);
}

#[test]
fn a_removal_can_be_taken_back() {
    let guest = Guest::new();
    let (_, functions) = card();
    guest.port.install(functions).unwrap();
    guest.start();
    assert!(!guest.port.cancel_removal());
    guest.port.request_removal(|_| panic!("it was taken back")).unwrap();
    assert_eq!(guest.events(), BUTTON);
    guest.power(BLINK);
    assert!(guest.port.cancel_removal());
    assert_eq!(guest.events(), BUTTON, "the guest is told by a second press");
    guest.power(OFF | POWER_OFF);
    assert!(guest.port.state().is_present);
    // A press that the guest has not seen yet is not to be seen.
    guest.power(ON);
    guest.events();
    guest.port.request_removal(|_| panic!("it was taken back")).unwrap();
    assert!(guest.port.cancel_removal());
    assert_eq!(guest.events(), 0);
}

#[test]
fn an_empty_slot_is_not_switched_on() {
    let guest = Guest::new();
    guest.start();
    guest.power(ON);
    let control = guest.read(SLOT_CONTROL);
    assert_eq!(
        control & (POWER_OFF | OFF),
        POWER_OFF | ON,
        "the indicator is the guest's"
    );
    guest.port.insert(card().1).unwrap();
    assert_eq!(guest.below(5, 0), 0xFF);
    guest.power(ON);
    assert_eq!(guest.below(5, 0), 0x42);
    // One that was emptied while it was on stays on until the guest has seen it.
    guest.port.eject();
    guest.write(SLOT_CONTROL, guest.read(SLOT_CONTROL));
    assert!(guest.port.state().is_powered);
    guest.power(OFF | POWER_OFF);
    guest.power(ON);
    assert!(!guest.port.state().is_powered);
}

#[test]
fn a_card_that_is_pulled_out_is_gone_before_the_guest_knows() {
    let guest = Guest::new();
    let (card, functions) = card();
    guest.port.install(functions).unwrap();
    guest.start();
    card.told();
    assert_eq!(guest.port.eject().len(), 1);
    assert_eq!(card.told(), [BusEvent::Down]);
    assert_eq!(guest.interrupts(), 1);
    assert_eq!(guest.events(), PRESENCE | LINK_EVENT);
    assert_eq!(guest.below(5, 0), 0xFF);
    assert!(guest.port.eject().is_empty());
    assert_eq!((guest.interrupts(), guest.events()), (0, 0));
    // The slot still has power: another card starts at once.
    let (card, functions) = self::card();
    guest.port.insert(functions).unwrap();
    assert_eq!(card.told(), [BusEvent::Reset, windows()]);
    assert_eq!(guest.below(5, 0), 0x42);
}

#[test]
fn the_bus_is_reset_and_the_link_disabled_by_the_guest() {
    let guest = Guest::new();
    let (card, functions) = card();
    guest.port.install(functions).unwrap();
    guest.start();
    card.told();
    guest.write(BRIDGE_CONTROL, 1 << 6);
    assert_eq!(card.told(), [BusEvent::Down, NO_WINDOWS]);
    assert_eq!(guest.below(5, 0), 0xFF, "nothing answers during a reset");
    guest.write(BRIDGE_CONTROL, 1 << 6);
    assert_eq!(card.told(), []);
    guest.write(BRIDGE_CONTROL, 0);
    assert_eq!(
        (card.told(), guest.below(5, 0)),
        (vec![BusEvent::BusReset, windows()], 0x42)
    );
    guest.write(LINK_CONTROL, 1 << 4);
    assert_eq!(card.told(), [BusEvent::Down, NO_WINDOWS]);
    guest.write(LINK_CONTROL, 0);
    assert_eq!(card.told(), [BusEvent::Reset, windows()]);
    assert_eq!(guest.events(), LINK_EVENT);
}

#[test]
fn only_sets_of_functions_that_can_be_found_are_plugged_in() {
    let port = Guest::new().port;
    let card = |number| (number, Arc::new(Card::default()) as Arc<dyn Function>);
    let says = |result: Result<()>| result.unwrap_err().to_string();
    assert_eq!(
        says(port.insert(vec![])),
        "plug a function in (slot 7): there is no function 0"
    );
    assert!(says(port.insert(vec![card(1)])).ends_with("there is no function 0"));
    assert!(says(port.insert(vec![card(0), card(0)])).ends_with("two functions have the same number"));
    assert!(!port.state().is_present);
    port.insert(vec![card(0), card(3)]).unwrap();
    assert!(says(port.insert(vec![card(0)])).ends_with("the slot is occupied"));
    assert!(says(port.install(vec![card(0)])).ends_with("the slot is occupied"));
}

#[test]
fn an_interrupt_is_sent_when_its_last_condition_comes_true() {
    // Each of the writes that let it come true, left to the end once.
    let writes = |guest: &Guest, which: usize| match which {
        0 => guest.write(COMMAND, 4),
        1 => guest.write(MSI + 2, guest.read(MSI + 2) | 1),
        2 => guest.write(MSI + 0x10, 0),
        3 => guest.write(SLOT_CONTROL, guest.read(SLOT_CONTROL) | 1 << 5),
        4 => guest.write(SLOT_CONTROL, guest.read(SLOT_CONTROL) | 1 << 12),
        _ => guest.port.insert(card().1).unwrap(),
    };
    for last in 0..6 {
        let guest = Guest::new();
        guest.write(MSI + 4, 0x1000);
        guest.write(MSI + 6, 0xFEE0);
        guest.write(MSI + 0xC, 0x31);
        guest.write(MSI + 0x10, 1);
        for which in (0..6).filter(|which| *which != last) {
            writes(&guest, which);
        }
        assert_eq!(guest.interrupts(), 0, "{last}");
        assert_eq!(
            guest.read(MSI + 0x14),
            u16::from(last == 2),
            "pending while it is masked"
        );
        writes(&guest, last);
        assert_eq!(guest.read(MSI + 0x14), 0);
        assert_eq!(guest.interrupts(), 1, "{last}");
        writes(&guest, last.min(4));
        assert_eq!(guest.interrupts(), 0, "{last}");
    }
}

#[test]
fn the_reset_of_the_machine_is_the_state_of_its_start() {
    let guest = Guest::new();
    let (card, functions) = card();
    guest.port.install(functions).unwrap();
    let image = |guest: &Guest| {
        let mut bytes = [0; 256];
        guest.root.read(RoutingId::new(0, 3 << 3), 0, &mut bytes);
        bytes
    };
    let before = image(&guest);
    guest.start();
    guest.write(0x18, 0x0900);
    guest.power(OFF | POWER_OFF);
    card.told();
    guest.port.reset();
    assert_eq!(image(&guest), before);
    assert_eq!(card.told(), [BusEvent::Reset, NO_WINDOWS]);
    assert_eq!(guest.below(5, 0), 0x42);
    // What was to go goes.
    let removed = Arc::new(Mutex::new(0));
    let note = Arc::clone(&removed);
    guest
        .port
        .request_removal(move |functions| *note.lock().unwrap() = functions.len())
        .unwrap();
    guest.port.reset();
    assert_eq!((*removed.lock().unwrap(), card.told()), (1, vec![BusEvent::Down]));
    assert!(!guest.port.state().is_present);
}
