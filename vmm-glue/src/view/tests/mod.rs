//! Functions made by hand, and a guest's accesses to them.

mod bars;
mod fixtures;
mod interrupts;
mod lists;
mod resets;

use super::*;
use ::pci::ConfigSpace;

/// A function made by hand: an endpoint with these bytes in its image.
struct Made {
    image: Vec<u8>,
    device: Device,
    options: Presentation,
}

impl Made {
    fn new() -> Self {
        let mut made = Self {
            image: vec![0; 4096],
            device: Device {
                config: ConfigSpace::new(vec![]),
                bar_sizes: [0; 6],
                rom_size: 0,
            },
            options: Presentation::default(),
        };
        made.poke(0, &[0x86, 0x80, 0xCA, 0x10]);
        made
    }

    fn poke(&mut self, at: usize, bytes: &[u8]) {
        self.image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Adds a capability at the end of the list.
    fn with(mut self, at: u8, capability: &[u8]) -> Self {
        let mut link = 0x34;
        while self.image[link] != 0 {
            link = usize::from(self.image[link]) + 1;
        }
        self.poke(link, &[at]);
        self.poke(6, &[0x10]);
        self.poke(at.into(), capability);
        self
    }

    fn with_bar(mut self, number: usize, kind: u8, size: u64) -> Self {
        self.poke(0x10 + 4 * number, &[kind]);
        self.device.bar_sizes[number] = size;
        self
    }

    fn view(&self) -> ConfigView {
        let mut device = self.device.clone();
        device.config = ConfigSpace::new(self.image.clone());
        ConfigView::new(&device, &self.options).unwrap()
    }
}

const OWN: u8 = 0xEE;

/// As the guest reads; the function's own bytes are `OWN`.
fn read<const N: usize>(view: &ConfigView, offset: u16) -> [u8; N] {
    let mut bytes = [0; N];
    view.read(offset, &mut bytes, |own| own.fill(OWN));
    bytes
}

fn u16_at(view: &ConfigView, offset: u16) -> u16 {
    u16::from_le_bytes(read(view, offset))
}

fn u32_at(view: &ConfigView, offset: u16) -> u32 {
    u32::from_le_bytes(read(view, offset))
}

fn place(view: &mut ConfigView, bar: BarIndex, address: u64) -> Vec<Effect> {
    view.place(bar, address).into_iter().collect()
}

fn event(view: &mut ConfigView, event: BusEvent) -> Vec<Effect> {
    view.bus_event(event).into_iter().collect()
}

fn write16(view: &mut ConfigView, offset: u16, value: u16) -> Vec<Effect> {
    view.write(offset, &value.to_le_bytes()).into_iter().collect()
}

fn write32(view: &mut ConfigView, offset: u16, value: u32) -> Vec<Effect> {
    view.write(offset, &value.to_le_bytes()).into_iter().collect()
}

/// Power management, MSI with 64 bits and masks for 8 vectors, PCI Express with function level reset, MSI-X with 4 vectors in BAR 0.
fn usual() -> Made {
    let mut made = Made::new()
        .with(0x40, &[0x01, 0, 0xC3, 0xFF, 0x00, 0x41, 0, 0])
        .with(0x50, &[0x05, 0, 0x86, 0x01])
        .with(0x70, &[0x10, 0, 0x02, 0x00, 0x05, 0x80, 0x00, 0x10])
        .with(0xB0, &[0x11, 0, 0x03, 0x00, 0x00, 0x10, 0, 0, 0x00, 0x18, 0, 0])
        .with_bar(0, 0x04, 0x4000);
    made.poke(0x3D, &[1]);
    made
}

const WINDOWS: [Range<u64>; 2] = [0xC000_0000..0xC100_0000, 1 << 38..(1 << 38) + (1 << 32)];

fn windows() -> BusEvent {
    let [memory, prefetchable] = WINDOWS;
    BusEvent::Windows(Windows::new(memory, prefetchable))
}

fn is_nothing(effects: Effects) -> bool {
    effects.is_empty()
}
