//! A machine with one slot, driven as Linux drives it.

mod hotplug;
mod registers;

use super::*;
use crate::interrupt::{Line, MsiMessage, Route};
use crate::pci::Root;

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

    fn set(&self, _: &[(&dyn Route, MsiMessage)]) -> Result<()> {
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
