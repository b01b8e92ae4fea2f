//! The host bridge's own function, 0:0.0.

use super::registers::Registers;

/// What a generic PCI Express host bridge calls itself; Red Hat's identifiers, which guests know.
const VENDOR_DEVICE: u32 = 0x0008_1B36;
/// Host bridge, in the upper 24 bits; revision 0.
const CLASS: u32 = 0x0600_0000;

/// It has a header and nothing else: what it forwards is in the ACPI tables.
pub(super) fn registers() -> Registers {
    let mut registers = Registers::new();
    registers.set(0x00, VENDOR_DEVICE.to_le_bytes());
    registers.set(0x08, CLASS.to_le_bytes());
    registers
}
