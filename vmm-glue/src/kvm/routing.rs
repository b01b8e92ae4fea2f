//! Which interrupt number stands for what (`KVM_SET_GSI_ROUTING`). No calls.

use crate::interrupt::MsiMessage;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};

/// Pins of the I/O APIC, which are the first numbers.
pub(super) const PINS: u32 = 24;

/// The numbers beyond the pins, in use or not. Taking one, giving it back and changing it are O(1); [`entries`](Self::entries) is O(n) for n numbers.
#[derive(Debug)]
pub(super) struct Table {
    routes: Vec<Route>,
    /// Numbers that were given back.
    free: Vec<u32>,
    /// How many numbers KVM takes, those of the pins among them.
    limit: u32,
}

/// What a number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// No message yet, or no more.
    Silent,
    Message(MsiMessage),
}

impl Table {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            routes: Vec::new(),
            free: Vec::new(),
            limit,
        }
    }

    /// A number that nobody has.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(gsi) = self.free.pop() {
            return Some(gsi);
        }
        let gsi = gsi(self.routes.len()).filter(|gsi| *gsi < self.limit)?;
        self.routes.push(Route::Silent);
        Some(gsi)
    }

    /// Only what was [taken](Self::take), and once.
    pub(super) fn give_back(&mut self, gsi: u32) {
        if let Some(route) = self.at(gsi) {
            *route = Route::Silent;
            self.free.push(gsi);
        }
    }

    /// Lets numbers stand for messages. Says what those that have changed stood for, in their order.
    pub(super) fn set(&mut self, changes: impl Iterator<Item = (u32, MsiMessage)>) -> Vec<(u32, Route)> {
        let mut former = Vec::new();
        for (gsi, message) in changes {
            if let Some(route) = self.at(gsi) {
                let message = Route::Message(message);
                let before = std::mem::replace(route, message);
                if before != message {
                    former.push((gsi, before));
                }
            }
        }
        former
    }

    /// Takes [`set`](Self::set) back.
    pub(super) fn restore(&mut self, former: Vec<(u32, Route)>) {
        for (gsi, before) in former.into_iter().rev() {
            if let Some(route) = self.at(gsi) {
                *route = before;
            }
        }
    }

    fn at(&mut self, gsi: u32) -> Option<&mut Route> {
        self.routes.get_mut(usize::try_from(gsi.checked_sub(PINS)?).ok()?)
    }

    /// All of it, as it replaces what KVM has: the pins stand for themselves, the first ones at the older controllers too.
    pub(super) fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let pins = (0..PINS).map(|pin| chip(pin, KVM_IRQCHIP_IOAPIC, pin));
        let older = (0..16).map(|pin| {
            let controller = if pin < 8 {
                KVM_IRQCHIP_PIC_MASTER
            } else {
                KVM_IRQCHIP_PIC_SLAVE
            };
            chip(pin, controller, pin % 8)
        });
        let messages = (PINS..).zip(&self.routes).filter_map(|(gsi, route)| match route {
            Route::Message(message) => {
                let [low, high] = halves(message.address);
                let mut entry = entry(gsi, KVM_IRQ_ROUTING_MSI);
                entry.u.msi = kvm_irq_routing_msi {
                    address_lo: low,
                    address_hi: high,
                    data: message.data,
                    ..kvm_irq_routing_msi::default()
                };
                Some(entry)
            }
            Route::Silent => None,
        });
        pins.chain(older).chain(messages).collect()
    }
}

/// The halves of an address.
pub(super) fn halves(address: u64) -> [u32; 2] {
    [address & 0xFFFF_FFFF, address >> 32].map(|half| u32::try_from(half).unwrap_or(u32::MAX))
}

fn gsi(place: usize) -> Option<u32> {
    u32::try_from(place).ok()?.checked_add(PINS)
}

fn entry(gsi: u32, type_: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_,
        ..kvm_irq_routing_entry::default()
    }
}

fn chip(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = entry(gsi, KVM_IRQ_ROUTING_IRQCHIP);
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: MsiMessage = MsiMessage {
        address: 0xFEE0_1004,
        data: 0x4021,
    };

    #[test]
    fn numbers_begin_behind_the_pins_and_are_used_again() {
        let mut table = Table::new(26);
        assert_eq!([table.take(), table.take(), table.take()], [Some(24), Some(25), None]);
        assert_eq!(table.set([(25, MESSAGE)].into_iter()), [(25, Route::Silent)]);
        assert_eq!(table.entries().len(), 41, "only what delivers something");
        table.give_back(25);
        assert_eq!(table.entries().len(), 40);
        assert_eq!(table.take(), Some(25));
        assert_eq!(table.entries().len(), 40, "nothing of its former owner");
        assert_eq!(
            table.set([(7, MESSAGE), (26, MESSAGE)].into_iter()),
            [],
            "a pin, and nobody's"
        );
    }

    #[test]
    fn what_does_not_change_is_no_change_and_a_change_can_be_taken_back() {
        let mut table = Table::new(30);
        let numbers: Vec<u32> = (0..3).filter_map(|_| table.take()).collect();
        let other = MsiMessage { data: 7, ..MESSAGE };
        let all = |message| numbers.iter().map(move |gsi| (*gsi, message));
        assert_eq!(table.set(all(MESSAGE)).len(), 3);
        assert_eq!(table.set(all(MESSAGE)), []);
        let before = format!("{table:?}");
        // One of them twice.
        let former = table.set([(24, other), (25, other), (24, MsiMessage::default())].into_iter());
        assert_eq!(former.len(), 3);
        table.restore(former);
        assert_eq!(format!("{table:?}"), before);
    }
}
