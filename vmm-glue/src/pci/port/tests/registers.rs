//! What a guest finds, and what is forwarded as it says.

use super::*;
use crate::pci::layout;

#[test]
fn a_guest_finds_a_hot_plug_slot_with_button_power_and_indicators() {
    let guest = Guest::new();
    let mut bytes = [0; 4096];
    guest.root.read(RoutingId::new(0, 3 << 3), 0, &mut bytes);
    let space = pci::ConfigSpace::new(bytes.to_vec());
    assert!(space.capabilities().end.is_complete() && space.extended_capabilities().end.is_complete());
    let express = space.find::<pci::cap::Express>().unwrap().unwrap();
    assert_eq!(express.flags.port_type(), pci::cap::PortType::ROOT_PORT);
    assert!(express.flags.slot_implemented());
    let slot = express.slot_capabilities.unwrap();
    assert!(slot.attention_button() && slot.power_controller() && slot.hot_plug() && slot.no_command_completed());
    assert!(slot.power_indicator() && slot.attention_indicator() && !slot.hot_plug_surprise() && !slot.mrl_sensor());
    assert_eq!((slot.slot_number(), slot.interlock()), (7, false));
    assert_eq!(guest.read(SLOT_CAPABILITIES + 2) >> 3, 7);
    let link = express.link_capabilities.unwrap();
    assert!(link.dll_active_reporting() && !link.bandwidth_notification());
    let control = express.slot_control.unwrap();
    assert!(control.power_off(), "an empty slot is off");
    let msi = space.find::<pci::cap::Msi>().unwrap().unwrap();
    assert!(msi.control.address_64() && msi.control.per_vector_masking());
    let pci::HeaderKind::Bridge(bridge) = space.header().unwrap().kind else {
        panic!("a port is a bridge")
    };
    assert_eq!((bridge.secondary_bus, bridge.subordinate_bus), (5, 5));
}

#[test]
fn what_firmware_has_placed_is_in_the_registers() {
    let guest = Guest::new();
    let words: Vec<u16> = (0x20..0x30).step_by(2).map(|offset| guest.read(offset)).collect();
    assert_eq!(words, [0xC000, 0xC010, 0x0001, 0x3FF1, 0x0040, 0, 0x0040, 0]);
    assert_eq!(
        guest.port.windows(),
        Windows::NONE,
        "nothing is forwarded to an empty slot"
    );
    let (card, functions) = card();
    guest.port.install(functions).unwrap();
    guest.write(COMMAND, 2);
    assert_eq!(card.told(), [windows()]);
    // I/O windows are probed so, and are not there.
    guest.write(0x1C, 0xE0F0);
    assert_eq!(guest.read(0x1C), 0);
}

#[test]
fn a_port_without_a_window_forwards_nothing() {
    let options = PortOptions {
        device: 1,
        slot: 1,
        buses: [1, 1],
        windows: Windows::NONE,
        limits: Windows::new(0..u64::MAX, 0..u64::MAX),
    };
    let port = Port::new(options, Arc::new(Messages::default()));
    let (card, functions) = card();
    port.install(functions).unwrap();
    port.config_write(COMMAND, &[6, 0]);
    assert_eq!((port.windows(), card.told()), (Windows::NONE, vec![]));
}

#[test]
fn functions_learn_what_is_forwarded_to_them() {
    let guest = Guest::new();
    let (card, functions) = card();
    guest.port.install(functions).unwrap();
    guest.write(COMMAND, 6);
    assert_eq!(card.told(), [windows()]);
    guest.write(COMMAND, 6);
    assert_eq!(card.told(), [], "nothing has changed");
    // Over RAM, up to the end of what may be forwarded.
    guest.write(0x20, 0x1000);
    guest.write(0x22, 0xFFF0);
    let all = Windows::new(0xC000_0000..0xE000_0000, WINDOWS[1].clone());
    assert_eq!(card.told(), [BusEvent::Windows(all)], "the first write was no change");
    guest.write(0x22, 0x0FF0);
    // Up to the end of all addresses.
    for offset in [0x26, 0x2C, 0x2E] {
        guest.write(offset, 0xFFFF);
    }
    let all = Windows::new(0..0, 1 << 38..1 << 39);
    assert_eq!(card.told().last(), Some(&BusEvent::Windows(all)));
    guest.write(COMMAND, 4);
    assert_eq!(card.told().last(), Some(&NO_WINDOWS));
}

#[test]
fn buses_are_where_the_guest_puts_them() {
    let guest = Guest::new();
    let (_, functions) = card();
    guest.port.install(functions).unwrap();
    guest.write(0x18, 0x0900);
    guest.write(0x1A, 0x000A);
    assert_eq!(
        (guest.below(5, 0), guest.below(9, 0), guest.below(10, 0)),
        (0xFF, 0x42, 0xFF)
    );
    // One device only.
    assert_eq!(guest.below(9, 8), 0xFF);
    guest.write(0x18, 0x0000);
    assert_eq!(guest.below(0, 0), 0x36, "bus 0 stays where it is: the host bridge");
    guest.write(0x18, 0xFF00);
    assert_eq!(guest.below(0xFF, 0), 0xFF, "the last bus is before the first");
}

#[test]
fn functions_above_seven_need_ari() {
    let guest = Guest::new();
    let cards: Vec<Numbered> = [0, 7, 8, 255]
        .map(|number| (number, Arc::new(Card::default()) as _))
        .into();
    guest.port.install(cards).unwrap();
    let answering = || {
        (0..=255)
            .filter(|devfn| guest.below(5, *devfn) == 0x42)
            .collect::<Vec<u8>>()
    };
    assert_eq!(answering(), [0, 7]);
    guest.write(0x68, 1 << 5);
    assert_eq!(answering(), [0, 7, 8, 255]);
}

#[test]
fn writes_of_every_width_hit_their_bits_and_no_others() {
    let guest = Guest::new();
    guest.start();
    guest.port.insert(card().1).unwrap();
    let id = RoutingId::new(0, 3 << 3);
    // Four bytes of which the upper two clear events: none of them here.
    let control = guest.read(SLOT_CONTROL);
    guest.root.write(id, SLOT_CONTROL, &u32::from(control).to_le_bytes());
    assert_eq!(guest.read(SLOT_STATUS), PRESENT | PRESENCE | LINK_EVENT);
    guest.root.write(id, SLOT_STATUS + 1, &[1]);
    assert_eq!(guest.read(SLOT_STATUS), PRESENT | PRESENCE);
    guest.root.write(id, SLOT_CONTROL, &[0, 0, 0xFF, 0xFF]);
    assert_eq!((guest.read(SLOT_CONTROL), guest.read(SLOT_STATUS)), (0, PRESENT));
    guest.write(SLOT_CONTROL, 0xFFFF);
    assert_eq!(guest.read(SLOT_CONTROL), 0x17FF);
}

#[test]
fn a_plan_and_a_port_agree() {
    let need = layout::Need {
        index: pci::BarIndex::Bar(0),
        len_bytes: 1 << 34,
        is_64: true,
        is_prefetchable: true,
    };
    let apertures = Windows::new(0xC000_0000..0xE000_0000, 1 << 36..1 << 40);
    let plans = layout::plan(apertures, layout::Room::default(), &[vec![], vec![vec![need]]]).unwrap();
    for (plan, device) in plans.into_iter().zip(1..) {
        let options = PortOptions {
            device,
            slot: device.into(),
            buses: plan.buses,
            windows: plan.windows,
            limits: apertures,
        };
        let port = Port::new(options, Arc::new(Messages::default()));
        port.install(card().1).unwrap();
        port.config_write(COMMAND, &[6, 0]);
        assert_eq!(port.windows(), plan.windows);
        assert!(port.leads_to(device) && !port.leads_to(device + 1));
    }
}
