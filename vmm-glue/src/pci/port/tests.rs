use super::*;
use crate::interrupt::{Line, MsiMessage, Route};
use crate::pci::{Root, layout};

/// Register numbers of a port, as a guest finds them.
const COMMAND: u16 = 0x04;
const BRIDGE_CONTROL: u16 = 0x3E;
const LINK_CONTROL: u16 = 0x50;
const LINK_STATUS: u16 = 0x52;
const SLOT_CAPABILITIES: u16 = 0x54;
const SLOT_CONTROL: u16 = 0x58;
const SLOT_STATUS: u16 = 0x5A;
const MSI: u16 = 0x80;

const LINK_ACTIVE: u16 = 1 << 13;
const BUTTON: u16 = 1;
const PRESENCE: u16 = 1 << 3;
const PRESENT: u16 = 1 << 6;
const LINK_EVENT: u16 = 1 << 8;
const POWER_OFF: u16 = 1 << 10;
const ON: u16 = 1 << 8;
const BLINK: u16 = 2 << 8;
const OFF: u16 = 3 << 8;
/// What Linux asks for: button, link, interrupts.
const ENABLES: u16 = 1 | 1 << 5 | 1 << 12;

#[derive(Debug, Default)]
struct Messages(Mutex<Vec<MsiMessage>>);

impl Irqs for Messages {
    fn route(&self) -> Result<Box<dyn Route>> {
        Err(Error::new("route", ErrorKind::Unsupported("routes")))
    }

    fn line(&self, _: u32) -> Result<Box<dyn Line>> {
        Err(Error::new("line", ErrorKind::Unsupported("lines")))
    }

    fn signal(&self, message: MsiMessage) -> Result<()> {
        self.0.lock().unwrap().push(message);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Card(Mutex<Vec<BusEvent>>);

impl Card {
    fn told(&self) -> Vec<BusEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Function for Card {
    fn config_read(&self, _: u16, to: &mut [u8]) {
        to.fill(0x42);
    }

    fn config_write(&self, _: u16, _: &[u8]) {}

    fn bus_event(&self, event: BusEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// A machine with one slot, from the guest's side.
struct Guest {
    root: Arc<Root>,
    port: Arc<Port>,
    irqs: Arc<Messages>,
}

const WINDOWS: [std::ops::Range<u64>; 2] = [0xC000_0000..0xC020_0000, 1 << 38..(1 << 38) + (1 << 30)];

impl Guest {
    fn new() -> Self {
        let [memory, prefetchable] = WINDOWS;
        let options = PortOptions {
            device: 3,
            slot: 7,
            buses: [5, 5],
            windows: Windows::new(memory, prefetchable),
            limits: Windows::new(0xC000_0000..0xE000_0000, 1 << 38..1 << 39),
        };
        let irqs = Arc::new(Messages::default());
        let port = Port::new(options, Arc::clone(&irqs) as _);
        let root = Root::new(vec![Arc::clone(&port)]).unwrap();
        Self { root, port, irqs }
    }

    fn read(&self, offset: u16) -> u16 {
        let mut bytes = [0; 2];
        self.root.read(RoutingId::new(0, 3 << 3), offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn write(&self, offset: u16, value: u16) {
        self.root.write(RoutingId::new(0, 3 << 3), offset, &value.to_le_bytes());
    }

    /// The first byte of a function behind the port.
    fn below(&self, bus: u8, devfn: u8) -> u8 {
        let mut byte = [0];
        self.root.read(RoutingId::new(bus, devfn), 0, &mut byte);
        byte[0]
    }

    /// As Linux' drivers do when they find the port.
    fn start(&self) {
        self.write(COMMAND, 6);
        self.write(MSI + 4, 0x1000);
        self.write(MSI + 6, 0xFEE0);
        self.write(MSI + 0xC, 0x31);
        self.write(MSI + 2, self.read(MSI + 2) | 1);
        self.write(SLOT_STATUS, 0x1F);
        self.write(SLOT_CONTROL, self.read(SLOT_CONTROL) | ENABLES);
    }

    fn interrupts(&self) -> usize {
        let message = MsiMessage {
            address: 0xFEE0_1000,
            data: 0x31,
        };
        let sent = std::mem::take(&mut *self.irqs.0.lock().unwrap());
        assert!(sent.iter().all(|sent| *sent == message));
        sent.len()
    }

    /// Reads the events and clears them.
    fn events(&self) -> u16 {
        let status = self.read(SLOT_STATUS);
        self.write(SLOT_STATUS, status);
        status & !PRESENT
    }

    fn power(&self, set: u16) {
        let control = self.read(SLOT_CONTROL) & !(POWER_OFF | OFF);
        self.write(SLOT_CONTROL, control | set);
    }
}

fn card() -> (Arc<Card>, Vec<Numbered>) {
    let card = Arc::new(Card::default());
    (Arc::clone(&card), vec![(0, card)])
}

fn windows() -> BusEvent {
    let [memory, prefetchable] = WINDOWS;
    BusEvent::Windows(Windows::new(memory, prefetchable))
}

const NO_WINDOWS: BusEvent = BusEvent::Windows(Windows::NONE);

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
    assert!(guest.port.request_removal(|_| {}).is_err(), "it is empty");
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
    assert_eq!(card.told(), [BusEvent::Reset]);
    assert_eq!(guest.below(5, 0), 0xFF, "nothing answers during a reset");
    guest.write(BRIDGE_CONTROL, 1 << 6);
    guest.write(BRIDGE_CONTROL, 0);
    assert_eq!((card.told(), guest.below(5, 0)), (vec![], 0x42));
    guest.write(LINK_CONTROL, 1 << 4);
    assert_eq!(card.told(), [BusEvent::Down, NO_WINDOWS]);
    guest.write(LINK_CONTROL, 0);
    assert_eq!(card.told(), [BusEvent::Reset, windows()]);
    assert_eq!(guest.events(), LINK_EVENT);
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
        writes(&guest, last);
        assert_eq!(guest.interrupts(), 1, "{last}");
        writes(&guest, last.min(4));
        assert_eq!(guest.interrupts(), 0, "{last}");
    }
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
