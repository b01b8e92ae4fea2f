//! Vendor, device, subsystem and class identifiers (PCI Local Bus 3.0 §6.2.1, PCI Code and ID Assignment 1.15).

use std::fmt;

/// A vendor id, assigned by PCI-SIG. Prints as four hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VendorId(pub u16);

/// A device id, assigned by the vendor. Prints as four hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);

/// Subsystem vendor and device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubsystemId {
    /// Who made the board.
    pub vendor: VendorId,
    /// Which board.
    pub device: DeviceId,
}

/// The 24-bit class code: base class, subclass, programming interface. Prints as six hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassCode(pub u32);

impl ClassCode {
    /// Base class (0x02 network, 0x01 mass storage, 0x03 display, 0x06 bridge).
    #[must_use]
    pub const fn base(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// Subclass within the base class.
    #[must_use]
    pub const fn sub(self) -> u8 {
        self.0.to_be_bytes()[2]
    }

    /// Programming interface within the subclass.
    #[must_use]
    pub const fn interface(self) -> u8 {
        self.0.to_be_bytes()[3]
    }

    /// Whether this is a PCI-to-PCI bridge (root port, switch port or PCI bridge).
    #[must_use]
    pub const fn is_pci_bridge(self) -> bool {
        self.0 >> 8 == 0x0604
    }
}

impl fmt::Display for VendorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Display for SubsystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vendor, self.device)
    }
}

impl fmt::Display for ClassCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}
