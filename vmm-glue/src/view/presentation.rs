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
    reason = "four choices, none of which depends on another"
)]
pub struct Presentation {
    /// Capabilities that the guest does not see, neither in the lists nor by offset.
    pub hidden: BTreeSet<CapabilityId>,
    /// Another vendor and device identifier than the image's. VFs have none of their own.
    pub identity: Option<(u16, u16)>,
    /// The device has other functions.
    pub is_multi_function: bool,
    /// INTx can be delivered. Otherwise there is no interrupt pin.
    pub has_intx: bool,
    /// The holder can reset the function. Otherwise it says that it has no function level reset.
    pub is_resettable: bool,
    /// All 64-bit BARs are shown as prefetchable, so that they find room above 4 GiB. PCI Express reads no more than was asked for, so that
    /// it does no harm behind a root port (PCIe 6.0 §7.5.1.2.1, implementation note).
    pub are_wide_bars_prefetchable: bool,
}

impl Default for Presentation {
    /// Hides what is the host's affair or has no meaning in the guest: sharing and resizing of the function (SR-IOV, ARI, resizable BARs),
    /// address translation (ATS, PRI, PASID), and the physical link.
    fn default() -> Self {
        Self {
            hidden: HIDDEN.into_iter().collect(),
            identity: None,
            is_multi_function: false,
            has_intx: true,
            is_resettable: true,
            are_wide_bars_prefetchable: false,
        }
    }
}

impl Presentation {
    /// Shows a capability that is hidden otherwise.
    #[must_use]
    pub fn show(mut self, id: CapabilityId) -> Self {
        self.hidden.remove(&id);
        self
    }

    /// Hides a capability.
    #[must_use]
    pub fn hide(mut self, id: CapabilityId) -> Self {
        self.hidden.insert(id);
        self
    }
}

const HIDDEN: [CapabilityId; 31] = [
    // Says where addresses are, in the host.
    CapabilityId::ENHANCED_ALLOCATION,
    CapabilityId::HOT_PLUG,
    CapabilityId::SLOT_ID,
    CapabilityId::SRIOV,
    CapabilityId::MRIOV,
    CapabilityId::SIOV,
    CapabilityId::ARI,
    CapabilityId::RESIZABLE_BAR,
    CapabilityId::VF_RESIZABLE_BAR,
    CapabilityId::ATS,
    CapabilityId::PRI,
    CapabilityId::PASID,
    CapabilityId::TPH,
    CapabilityId::MULTICAST,
    CapabilityId::DPC,
    CapabilityId::LTR,
    CapabilityId::L1_SUBSTATES,
    CapabilityId::PTM,
    CapabilityId::SECONDARY_PCIE,
    CapabilityId::DATA_LINK_FEATURE,
    CapabilityId::PHYSICAL_LAYER_16,
    CapabilityId::PHYSICAL_LAYER_32,
    CapabilityId::PHYSICAL_LAYER_64,
    CapabilityId::PHYSICAL_LAYER_128,
    CapabilityId::LANE_MARGINING,
    CapabilityId::RC_LINK_DECLARATION,
    CapabilityId::RC_INTERNAL_LINK,
    CapabilityId::RCEC_ENDPOINT_ASSOCIATION,
    CapabilityId::RCRB_HEADER,
    CapabilityId::DOE,
    CapabilityId::IDE,
];
