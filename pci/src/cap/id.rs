//! Identifiers of capabilities and their names (PCI Code and ID Assignment 1.15 §2 and §3; `include/uapi/linux/pci_regs.h`).

use crate::{Describe, Value};
use std::fmt;

/// Which capability: the two lists have separate identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CapabilityId {
    /// In the list that starts in the header.
    Standard(u8),
    /// In the list that starts at offset 256.
    Extended(u16),
}

impl CapabilityId {
    /// Whether it belongs to the extended list.
    #[must_use]
    pub const fn is_extended(self) -> bool {
        matches!(self, Self::Extended(_))
    }
}

impl Describe for CapabilityId {
    fn describe(&self) -> Value {
        match self {
            Self::Standard(id) => Value::hex(*id, 2),
            Self::Extended(id) => Value::hex(*id, 4),
        }
    }
}

impl fmt::Display for CapabilityId {
    /// Its name, or its number where it has none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "unknown capability {}", self.describe()),
        }
    }
}

macro_rules! identifiers {
    ($($list:ident { $($number:literal $constant:ident $name:literal,)* })*) => {
        impl CapabilityId {
            $($(
                #[doc = concat!($name, ".")]
                pub const $constant: Self = Self::$list($number);
            )*)*

            /// Its name; `None` for an identifier that is not assigned or not known here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $($(Self::$list($number) => Some($name),)*)*
                    _ => None,
                }
            }
        }
    };
}

identifiers! {
    Standard {
        0x00 NULL "Null",
        0x01 POWER_MANAGEMENT "Power Management",
        0x02 AGP "AGP",
        0x03 VPD "Vital Product Data",
        0x04 SLOT_ID "Slot Identification",
        0x05 MSI "MSI",
        0x06 COMPACT_PCI_HOT_SWAP "CompactPCI Hot Swap",
        0x07 PCI_X "PCI-X",
        0x08 HYPER_TRANSPORT "HyperTransport",
        0x09 VENDOR_SPECIFIC "Vendor Specific",
        0x0a DEBUG_PORT "Debug Port",
        0x0b COMPACT_PCI_CONTROL "CompactPCI Central Resource Control",
        0x0c HOT_PLUG "PCI Hot-Plug",
        0x0d BRIDGE_SUBSYSTEM "Bridge Subsystem ID",
        0x0e AGP_8X "AGP 8x",
        0x0f SECURE_DEVICE "Secure Device",
        0x10 EXPRESS "PCI Express",
        0x11 MSI_X "MSI-X",
        0x12 SATA "SATA Data/Index",
        0x13 ADVANCED_FEATURES "Advanced Features",
        0x14 ENHANCED_ALLOCATION "Enhanced Allocation",
        0x15 FLATTENING_PORTAL_BRIDGE "Flattening Portal Bridge",
    }
    Extended {
        0x0000 EXTENDED_NULL "Null",
        0x0001 AER "Advanced Error Reporting",
        0x0002 VIRTUAL_CHANNEL "Virtual Channel",
        0x0003 SERIAL_NUMBER "Device Serial Number",
        0x0004 POWER_BUDGETING "Power Budgeting",
        0x0005 RC_LINK_DECLARATION "Root Complex Link Declaration",
        0x0006 RC_INTERNAL_LINK "Root Complex Internal Link Control",
        0x0007 RCEC_ENDPOINT_ASSOCIATION "Root Complex Event Collector Endpoint Association",
        0x0008 MULTI_FUNCTION_VC "Multi-Function Virtual Channel",
        0x0009 VIRTUAL_CHANNEL_WITH_MFVC "Virtual Channel (with MFVC)",
        0x000a RCRB_HEADER "RCRB Header",
        0x000b VSEC "Vendor-Specific Extended",
        0x000c CONFIGURATION_ACCESS "Configuration Access Correlation",
        0x000d ACS "ACS",
        0x000e ARI "ARI",
        0x000f ATS "ATS",
        0x0010 SRIOV "SR-IOV",
        0x0011 MRIOV "MR-IOV",
        0x0012 MULTICAST "Multicast",
        0x0013 PRI "Page Request",
        0x0015 RESIZABLE_BAR "Resizable BAR",
        0x0016 DYNAMIC_POWER_ALLOCATION "Dynamic Power Allocation",
        0x0017 TPH "TPH Requester",
        0x0018 LTR "Latency Tolerance Reporting",
        0x0019 SECONDARY_PCIE "Secondary PCI Express",
        0x001a PROTOCOL_MULTIPLEXING "Protocol Multiplexing",
        0x001b PASID "PASID",
        0x001c LN_REQUESTER "LN Requester",
        0x001d DPC "Downstream Port Containment",
        0x001e L1_SUBSTATES "L1 PM Substates",
        0x001f PTM "Precision Time Measurement",
        0x0020 MPHY "PCI Express over M-PHY",
        0x0021 FRS_QUEUEING "FRS Queueing",
        0x0022 READINESS_TIME "Readiness Time Reporting",
        0x0023 DVSEC "Designated Vendor-Specific",
        0x0024 VF_RESIZABLE_BAR "VF Resizable BAR",
        0x0025 DATA_LINK_FEATURE "Data Link Feature",
        0x0026 PHYSICAL_LAYER_16 "Physical Layer 16.0 GT/s",
        0x0027 LANE_MARGINING "Lane Margining at the Receiver",
        0x0028 HIERARCHY_ID "Hierarchy ID",
        0x0029 NPEM "Native PCIe Enclosure Management",
        0x002a PHYSICAL_LAYER_32 "Physical Layer 32.0 GT/s",
        0x002b ALTERNATE_PROTOCOL "Alternate Protocol",
        0x002c SFI "System Firmware Intermediary",
        0x002d SHADOW_FUNCTIONS "Shadow Functions",
        0x002e DOE "Data Object Exchange",
        0x002f DEVICE_3 "Device 3",
        0x0030 IDE "Integrity and Data Encryption",
        0x0031 PHYSICAL_LAYER_64 "Physical Layer 64.0 GT/s",
        0x0032 FLIT_LOGGING "Flit Logging",
        0x0033 FLIT_PERFORMANCE "Flit Performance Measurement",
        0x0034 FLIT_ERROR_INJECTION "Flit Error Injection",
        0x0035 STREAMLINED_VIRTUAL_CHANNEL "Streamlined Virtual Channel",
        0x0036 MMIO_REGISTER_BLOCK_LOCATOR "MMIO Register Block Locator",
        0x0037 NOP_FLIT "NOP Flit",
        0x0038 SIOV "Scalable I/O Virtualization",
        0x0039 PHYSICAL_LAYER_128 "Physical Layer 128.0 GT/s",
        0x003a CAPTURED_DATA "Captured Data",
    }
}
