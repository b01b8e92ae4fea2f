//! The header of an endpoint, as the guest sees it (PCIe 6.0 §7.5.1.1 and §7.5.1.2).

use super::patches::Patches;
use super::{Device, Presentation};
use pci::ConfigSpace;

const COMMAND: u16 = 0x04;
/// Memory, bus master, parity, system errors, no INTx. There is no I/O.
const COMMAND_WRITABLE: u16 = 0x0546;
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
pub(super) const COMMAND_BUS_MASTER: u16 = 1 << 2;
pub(super) const COMMAND_NO_INTX: u16 = 1 << 10;
const HEADER_TYPE: u16 = 0x0E;
const MULTI_FUNCTION: u8 = 1 << 7;
const PIN: u16 = 0x3D;

/// Why a function cannot be given to a guest.
pub(super) fn refusal(config: &ConfigSpace) -> Option<&'static str> {
    match config.u8(HEADER_TYPE) {
        None => Some("its configuration space ends within the header"),
        Some(_) if config.bytes().len() < 64 => Some("its configuration space ends within the header"),
        Some(0xFF) => Some("it does not answer"),
        Some(kind) if kind & !MULTI_FUNCTION != 0 => Some("it is a bridge"),
        Some(_) => None,
    }
}

/// All but BARs and the pointer to the capabilities.
pub(super) fn patch(device: &Device, options: &Presentation, patches: &mut Patches) {
    patches.keep(0, 4);
    if let Some((vendor, id)) = options.identity {
        patches.set(0, &vendor.to_le_bytes());
        patches.set(2, &id.to_le_bytes());
    }
    patches.fix(COMMAND, &[0; 2]);
    patches.let_write(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
    // Of the status register, errors are the function's own, and cleared there.
    patches.protect(0x06, 1);
    patches.keep(0x08, 4);
    let multi_function = if options.is_multi_function { MULTI_FUNCTION } else { 0 };
    // Cache line size, no latency timer, type, no self test.
    patches.fix(0x0C, &[0, 0, multi_function, 0]);
    patches.let_write(0x0C, &[0xFF]);
    patches.blank(0x28, 4);
    patches.keep(0x2C, 4);
    patches.blank(0x34, 8);
    patches.keep(0x3C, 4);
    // 1 to 4 are pins; firmware's notes on lines are the host's.
    let pin = device
        .config
        .u8(PIN)
        .filter(|pin| options.has_intx && (1..=4).contains(pin));
    patches.fix(0x3C, &[0, pin.unwrap_or(0)]);
    patches.let_write(0x3C, &[0xFF]);
    if pin.is_none() {
        // Interrupt Status.
        patches.fix_bits(0x06, 1 << 3, 0);
    }
}

pub(super) fn command(patches: &Patches) -> u16 {
    patches.u16(COMMAND)
}

pub(super) fn pin(patches: &Patches) -> Option<u8> {
    let [pin] = patches.get(PIN);
    (pin != 0).then_some(pin)
}
