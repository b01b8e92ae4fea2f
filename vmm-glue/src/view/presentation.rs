//! What the guest's view of a function is made from.

use pci::{CapabilityId, ConfigSpace};
use std::collections::BTreeSet;

/// A function as its holder sees it. Nothing in it is trusted.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its configuration space.
    pub config: ConfigSpace,
    /// The size of each BAR in bytes, by the number of its (first) register; 0 where there is none.
    pub bar_sizes: [u64; 6],
    /// The size of the expansion ROM in bytes, or 0.
    pub rom_size: u64,
}

/// How a function is shown to the guest.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "five choices, none of which depends on another"
)]
pub struct Presentation {
    /// Capabilities that the guest sees. Of others nothing is there, neither in the lists nor by offset.
    pub shown: BTreeSet<CapabilityId>,
    /// What is behind the header and in no capability.
    pub unlisted: Unlisted,
    /// Another vendor and device identifier than the image's. VFs have none of their own.
    pub identity: Option<(u16, u16)>,
    /// The device has other functions.
    pub is_multi_function: bool,
    /// The next function of the device for guests that go by ARI, where that is shown; 0 for the last one.
    pub next_function: u8,
    /// INTx can be delivered. Otherwise there is no interrupt pin.
    pub has_intx: bool,
    /// The holder can reset the function. Otherwise it says that it has no function level reset.
    pub is_resettable: bool,
    /// The registers of vendors' capabilities can be written, whatever that does. They can always be read.
    pub are_vendor_registers_writable: bool,
    /// All 64-bit BARs are shown as prefetchable, so that they find room above 4 GiB. PCI Express reads no more than was asked for, so that
    /// it does no harm behind a root port (PCIe 6.0 §7.5.1.2.1, implementation note).
    pub are_wide_bars_prefetchable: bool,
}

/// Registers of the device's own in configuration space that no capability contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// They read as zeros, and writes are lost.
    Hidden,
    /// They are the function's own; some drivers of older devices need them.
    Shown,
}

impl Default for Presentation {
    /// Hides what is the host's affair or has no meaning in the guest: sharing and resizing of the function (SR-IOV, ARI, resizable BARs),
    /// address translation (ATS, PRI, PASID), the physical link, and what is not listed.
    fn default() -> Self {
        Self {
            shown: SHOWN.into_iter().collect(),
            unlisted: Unlisted::Hidden,
            identity: None,
            is_multi_function: false,
            next_function: 0,
            has_intx: true,
            is_resettable: true,
            are_vendor_registers_writable: false,
            are_wide_bars_prefetchable: false,
        }
    }
}

impl Presentation {
    /// Shows a capability that is hidden otherwise. What is in it is the function's own, and what the host has set there, such as the addresses of
    /// virtual functions, is seen. One whose length is not known here is shown up to the next one.
    #[must_use]
    pub fn show(mut self, id: CapabilityId) -> Self {
        self.shown.insert(id);
        self
    }

    /// Hides a capability.
    #[must_use]
    pub fn hide(mut self, id: CapabilityId) -> Self {
        self.shown.remove(&id);
        self
    }
}

/// What a driver works with. Capabilities that are not known here are not shown either.
const SHOWN: [CapabilityId; 13] = [
    CapabilityId::POWER_MANAGEMENT,
    CapabilityId::VPD,
    CapabilityId::MSI,
    CapabilityId::PCI_X,
    CapabilityId::VENDOR_SPECIFIC,
    CapabilityId::EXPRESS,
    CapabilityId::MSI_X,
    CapabilityId::SATA,
    CapabilityId::ADVANCED_FEATURES,
    CapabilityId::AER,
    CapabilityId::SERIAL_NUMBER,
    CapabilityId::VSEC,
    CapabilityId::DVSEC,
];
