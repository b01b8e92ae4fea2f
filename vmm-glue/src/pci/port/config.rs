//! Configuration space of a root port: type 1 header, PCI Express capability with slot, MSI (PCIe 6.0 §7.5.1.3, §7.5.3, §7.7.1).

use crate::interrupt::MsiMessage;
use crate::pci::Windows;
use crate::pci::registers::Registers;
use std::ops::Range;

/// What a generic root port calls itself; Red Hat's identifiers, which guests know.
const VENDOR_DEVICE: u32 = 0x000C_1B36;
/// Bridge between PCI buses, in the upper 24 bits; revision 0.
const CLASS: u32 = 0x0604_0000;

const COMMAND: u8 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const BUSES: u8 = 0x18;
const MEMORY: u8 = 0x20;
const PREFETCHABLE: u8 = 0x24;
const PREFETCHABLE_UPPER: u8 = 0x28;
const BRIDGE_CONTROL: u8 = 0x3E;
const SECONDARY_BUS_RESET: u16 = 1 << 6;

const EXPRESS: u8 = 0x40;
const LINK_CAPABILITIES: u8 = EXPRESS + 0x0C;
const LINK_CONTROL: u8 = EXPRESS + 0x10;
const LINK_DISABLE: u16 = 1 << 4;
const LINK_STATUS: u8 = EXPRESS + 0x12;
/// 16 GT/s, 16 lanes. What is behind it is as fast as it is.
const LINK: u16 = 16 << 4 | 4;
const LINK_ACTIVE: u16 = 1 << 13;
const SLOT_CAPABILITIES: u8 = EXPRESS + 0x14;
const SLOT_CONTROL: u8 = EXPRESS + 0x18;
const SLOT_STATUS: u8 = EXPRESS + 0x1A;
const DEVICE_CONTROL_2: u8 = EXPRESS + 0x28;
const ARI_FORWARDING: u16 = 1 << 5;

/// Slot Control: what the guest asks to be told of, at the places of the events in Slot Status.
const HOT_PLUG_INTERRUPT: u16 = 1 << 5;
const POWER_OFF: u16 = 1 << 10;
const INDICATOR_ON: u16 = 1;
const INDICATOR_OFF: u16 = 3;

/// Slot Status: events.
pub(super) const BUTTON_PRESSED: u16 = 1 << 0;
pub(super) const PRESENCE_CHANGED: u16 = 1 << 3;
pub(super) const LINK_CHANGED: u16 = 1 << 8;
const EVENTS: u16 = BUTTON_PRESSED | PRESENCE_CHANGED | LINK_CHANGED;
const PRESENT: u16 = 1 << 6;

const MSI: u8 = 0x80;
const MSI_ENABLE: u16 = 1;

/// Its registers.
#[derive(Debug)]
pub(super) struct Config(Registers);

impl Config {
    /// As firmware leaves them, with an empty slot. `port` is a number for the link, `slot` what is printed on the slot.
    pub(super) fn new(port: u8, slot: u16, buses: [u8; 2], windows: &Windows) -> Self {
        let mut config = Self(Registers::new());
        config.header(buses, windows);
        config.express(port, slot);
        config.msi();
        config
    }

    fn header(&mut self, [secondary, subordinate]: [u8; 2], windows: &Windows) {
        let registers = &mut self.0;
        registers.set(0x00, VENDOR_DEVICE.to_le_bytes());
        // Memory, bus master, parity, system errors, no INTx. There are no I/O windows.
        registers.let_write(COMMAND, 0x0546_u16.to_le_bytes());
        registers.set(0x06, 0x0010_u16.to_le_bytes());
        registers.let_clear(0x06, 0xF900_u16.to_le_bytes());
        registers.set(0x08, CLASS.to_le_bytes());
        registers.let_write(0x0C, [0xFF]);
        registers.set(0x0E, [0x01]);
        registers.set(BUSES, [0, secondary, subordinate]);
        registers.let_write(BUSES, [0xFF; 3]);
        registers.let_clear(0x1E, 0xF900_u16.to_le_bytes());
        registers.let_write(MEMORY, 0xFFF0_FFF0_u32.to_le_bytes());
        // The lowest bits say that the window has 64 bits.
        registers.set(PREFETCHABLE, 0x0001_0001_u32.to_le_bytes());
        registers.let_write(PREFETCHABLE, 0xFFF0_FFF0_u32.to_le_bytes());
        registers.let_write(PREFETCHABLE_UPPER, [0xFF; 8]);
        registers.set(0x34, [EXPRESS]);
        registers.let_write(0x3C, [0xFF]);
        registers.let_write(BRIDGE_CONTROL, (0x0003 | SECONDARY_BUS_RESET).to_le_bytes());
        self.set_window(MEMORY, None, &windows.memory());
        self.set_window(PREFETCHABLE, Some(PREFETCHABLE_UPPER), &windows.prefetchable());
    }

    /// Base and limit in units of 1 MiB; a window that is none has its base above its limit.
    fn set_window(&mut self, at: u8, upper: Option<u8>, window: &Range<u64>) {
        let (base, limit) = match window.end.checked_sub(1) {
            Some(last) if !window.is_empty() => (window.start, last),
            _ => (0xFFF0_0000, 0),
        };
        let [base, limit] = [base, limit].map(u64::to_le_bytes);
        let kind = self.0.get::<1>(at)[0] & 0x0F;
        self.0
            .set(at, [base[2] & 0xF0 | kind, base[3], limit[2] & 0xF0 | kind, limit[3]]);
        if let Some(upper) = upper {
            let [.., a, b, c, d] = base;
            let [.., e, f, g, h] = limit;
            self.0.set(upper, [a, b, c, d, e, f, g, h]);
        }
    }

    fn express(&mut self, port: u8, slot: u16) {
        let registers = &mut self.0;
        // Version 2, root port, with a slot.
        registers.set(EXPRESS, [0x10, MSI, 0x42, 0x01]);
        // Errors as PCIe 1.1 has them ("role-based"); payloads as large as those of any function.
        registers.set(EXPRESS + 0x04, 0x8005_u32.to_le_bytes());
        // Relaxed ordering, no snoop, reads of 512 bytes.
        registers.set(EXPRESS + 0x08, 0x2810_u16.to_le_bytes());
        registers.let_write(EXPRESS + 0x08, 0x78FF_u16.to_le_bytes());
        registers.let_clear(EXPRESS + 0x0A, [0x0F]);
        let [number, ..] = port.to_le_bytes();
        // Data link layer activity is reported.
        let [low, high] = LINK.to_le_bytes();
        registers.set(LINK_CAPABILITIES, [low, high, 0x10, number]);
        // Disable, common clock, extended synch; it does not save power.
        registers.let_write(LINK_CONTROL, 0x00D0_u16.to_le_bytes());
        registers.set(LINK_STATUS, LINK.to_le_bytes());
        // Attention button, power controller, both indicators, hot-plug; commands complete at once, without notice.
        let slot = u32::from(slot & 0x1FFF) << 19;
        registers.set(SLOT_CAPABILITIES, (slot | 0x0004_005B).to_le_bytes());
        let off = POWER_OFF | INDICATOR_OFF << 8 | INDICATOR_OFF << 6;
        registers.set(SLOT_CONTROL, off.to_le_bytes());
        registers.let_write(SLOT_CONTROL, 0x17FF_u16.to_le_bytes());
        registers.let_clear(SLOT_STATUS, EVENTS.to_le_bytes());
        registers.let_write(EXPRESS + 0x1C, [0x0F]);
        registers.set(EXPRESS + 0x24, ARI_FORWARDING.to_le_bytes());
        registers.let_write(DEVICE_CONTROL_2, ARI_FORWARDING.to_le_bytes());
        // 2.5 to 16 GT/s.
        registers.set(EXPRESS + 0x2C, [0x1E]);
        registers.set(EXPRESS + 0x30, [0x04]);
        registers.let_write(EXPRESS + 0x30, [0x0F]);
    }

    /// One vector, 64-bit addresses, with a mask.
    fn msi(&mut self) {
        let registers = &mut self.0;
        registers.set(MSI, [0x05, 0x00, 0x80, 0x01]);
        registers.let_write(MSI + 0x02, MSI_ENABLE.to_le_bytes());
        registers.let_write(MSI + 0x04, [0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        registers.let_write(MSI + 0x10, [0x01]);
    }

    pub(super) fn read(&self, offset: u16, to: &mut [u8]) {
        self.0.read(offset, to);
    }

    pub(super) fn write(&mut self, offset: u16, from: &[u8]) {
        self.0.write(offset, from);
    }

    /// The buses that lie behind it.
    pub(super) fn buses(&self) -> [u8; 2] {
        self.0.get(BUSES + 1)
    }

    pub(super) fn is_bus_reset(&self) -> bool {
        self.0.u16(BRIDGE_CONTROL) & SECONDARY_BUS_RESET != 0
    }

    pub(super) fn is_link_disabled(&self) -> bool {
        self.0.u16(LINK_CONTROL) & LINK_DISABLE != 0
    }

    pub(super) fn is_link_active(&self) -> bool {
        self.0.u16(LINK_STATUS) & LINK_ACTIVE != 0
    }

    pub(super) fn is_ari(&self) -> bool {
        self.0.u16(DEVICE_CONTROL_2) & ARI_FORWARDING != 0
    }

    pub(super) fn is_powered(&self) -> bool {
        self.0.u16(SLOT_CONTROL) & POWER_OFF == 0
    }

    /// Attention and power indicator, as Slot Control codes them.
    pub(super) fn indicators(&self) -> [u16; 2] {
        let control = self.0.u16(SLOT_CONTROL);
        [control >> 6 & 3, control >> 8 & 3]
    }

    /// Power and its indicator, as the guest would set them.
    pub(super) fn set_power(&mut self, is_on: bool) {
        let on = if is_on {
            INDICATOR_ON << 8
        } else {
            POWER_OFF | INDICATOR_OFF << 8
        };
        self.0.change(SLOT_CONTROL, POWER_OFF | 3 << 8, on);
    }

    pub(super) fn set_present(&mut self, is_present: bool) {
        self.0
            .change(SLOT_STATUS, PRESENT, if is_present { PRESENT } else { 0 });
    }

    pub(super) fn set_link_active(&mut self, is_active: bool) {
        self.0
            .change(LINK_STATUS, LINK_ACTIVE, if is_active { LINK_ACTIVE } else { 0 });
    }

    /// Power off, whatever its indicator shows.
    pub(super) fn keep_off(&mut self) {
        self.0.change(SLOT_CONTROL, 0, POWER_OFF);
    }

    /// Takes an event back that the guest has not cleared. Says whether there was one.
    pub(super) fn take_event(&mut self, event: u16) -> bool {
        let was_there = self.0.u16(SLOT_STATUS) & event != 0;
        self.0.change(SLOT_STATUS, event, 0);
        was_there
    }

    /// Something happened that the guest may want to know.
    pub(super) fn add_events(&mut self, events: u16) {
        self.0.change(SLOT_STATUS, 0, events);
    }

    /// The message to send when it appears: every condition of PCIe 6.0 §6.7.3.4 holds. Where only the vector's mask is in the way, it is pending.
    pub(super) fn message(&mut self) -> Option<MsiMessage> {
        let control = self.0.u16(SLOT_CONTROL);
        let is_wanted = control & HOT_PLUG_INTERRUPT != 0 && self.0.u16(SLOT_STATUS) & Self::wanted(control) != 0;
        let is_on = self.0.u16(MSI + 0x02) & MSI_ENABLE != 0 && self.0.u16(COMMAND) & COMMAND_BUS_MASTER != 0;
        let is_masked = self.0.u32(MSI + 0x10) & 1 != 0;
        let is_due = is_wanted && is_on;
        self.0.set(MSI + 0x14, [u8::from(is_due && is_masked)]);
        (is_due && !is_masked).then(|| MsiMessage {
            address: u64::from_le_bytes(self.0.get(MSI + 0x04)),
            data: u32::from(self.0.u16(MSI + 0x0C)),
        })
    }

    /// Events at the places of Slot Status that Slot Control asks for. That of the link has another place there.
    fn wanted(control: u16) -> u16 {
        let link = if control & 1 << 12 != 0 { LINK_CHANGED } else { 0 };
        control & (BUTTON_PRESSED | PRESENCE_CHANGED) | link
    }

    /// What the bridge forwards, by its own registers.
    pub(super) fn windows(&self) -> Windows {
        if self.0.u16(COMMAND) & COMMAND_MEMORY == 0 {
            return Windows::NONE;
        }
        let [base, limit] = [0, 2].map(|at| u64::from(self.0.u16(MEMORY + at) & 0xFFF0) << 16);
        let memory = base..limit + (1 << 20);
        let [base, limit] = [0, 2].map(|at| {
            let upper = self.0.u32(PREFETCHABLE_UPPER + 2 * at);
            u64::from(upper) << 32 | u64::from(self.0.u16(PREFETCHABLE + at) & 0xFFF0) << 16
        });
        let prefetchable = base..limit.saturating_add(1 << 20);
        Windows::new(memory, prefetchable)
    }
}
