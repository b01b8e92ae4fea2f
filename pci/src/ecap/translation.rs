//! Address translation by devices: ATS (PCIe 6.0 §10.5.1), page requests (§10.5.2), PASID (§7.8.9).
//!
//! None of the three has a file in sysfs: whether they are enabled can only be read here.

use crate::register::{bits, register, structure};
use crate::{Describe, Value};

structure! {
    /// Address Translation Services: the function can cache translations of the IOMMU.
    #[doc(alias = "PCI_EXT_CAP_ID_ATS")]
    pub struct Ats = ATS {
        /// What it can do.
        0x04 capability: AtsCapability,
        /// What it does.
        0x06 control: AtsControl,
    }
}

register! {
    /// ATS capability register.
    pub struct AtsCapability: u16 {
        /// How many invalidations the function can queue.
        invalidate_queue_depth: QueueDepth = 5,
        /// Untranslated addresses are always aligned to 4 KiB.
        page_aligned_request: bool = 1,
        /// Invalidations across PASIDs are understood.
        global_invalidate: bool = 1,
        /// Translation requests may be ordered relaxed.
        relaxed_ordering: bool = 1,
        .. u8 = 8,
    }
}

register! {
    /// ATS control register.
    pub struct AtsControl: u16 {
        /// Smallest translation unit.
        smallest_translation_unit "smallest_translation_unit_bytes": TranslationUnit = 5,
        __: u16 = 10,
        /// ATS is enabled.
        enable: bool = 1,
    }
}

/// Depth of the invalidate queue, stored in 5 bits: 0 stands for 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth(pub u8);

bits!(QueueDepth: u8);

impl QueueDepth {
    /// 1 to 32.
    #[must_use]
    pub const fn requests(self) -> u8 {
        if self.0 == 0 { 32 } else { self.0 }
    }
}

impl Describe for QueueDepth {
    fn describe(&self) -> Value {
        self.requests().describe()
    }
}

/// Smallest translation unit, stored as its logarithm less 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TranslationUnit(pub u8);

bits!(TranslationUnit: u8);

impl TranslationUnit {
    /// 4096 and up, a power of two.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        4096 << (self.0 & 0x1f)
    }
}

impl Describe for TranslationUnit {
    fn describe(&self) -> Value {
        Value::Size(self.bytes())
    }
}

structure! {
    /// Page Request Interface: the function can ask for pages that are not there.
    #[doc(alias = "PCI_EXT_CAP_ID_PRI")]
    pub struct Pri = PRI {
        /// Control.
        0x04 control: PriControl,
        /// Status.
        0x06 status: PriStatus,
        /// How many outstanding requests the function supports.
        0x08 outstanding_capacity: u32,
        /// How many it may have.
        0x0c outstanding_allocation: u32,
    }
}

register! {
    /// Page request control register.
    pub struct PriControl: u16 {
        /// Page requests are enabled.
        enable: bool = 1,
        /// Start over; reads as zero.
        reset: bool = 1,
        .. u16 = 14,
    }
}

register! {
    /// Page request status register.
    pub struct PriStatus: u16 {
        /// A response said that requests fail for good.
        response_failure: bool = 1,
        /// A response did not belong to any request.
        unexpected_group_index: bool = 1,
        __: u8 = 6,
        /// No request is outstanding.
        stopped: bool = 1,
        __: u8 = 6,
        /// Responses carry the PASID of the request.
        response_pasid_required: bool = 1,
    }
}

structure! {
    /// Process address space identifiers: the function can address several address spaces.
    #[doc(alias = "PCI_EXT_CAP_ID_PASID")]
    pub struct Pasid = PASID {
        /// What it can do.
        0x04 capability: PasidCapability,
        /// What it does.
        0x06 control: PasidControl,
    }
}

register! {
    /// PASID capability register.
    pub struct PasidCapability: u16 {
        __: u8 = 1,
        /// Requests can ask for execute permission.
        execute_permission: bool = 1,
        /// Requests can be privileged.
        privileged_mode: bool = 1,
        /// Translated requests can carry a PASID.
        translated_requests: bool = 1,
        __: u8 = 4,
        /// Number of bits of a PASID.
        max_width_bits: u8 = 5,
        .. u8 = 3,
    }
}

register! {
    /// PASID control register.
    pub struct PasidControl: u16 {
        /// PASIDs are enabled.
        enable: bool = 1,
        /// Requests may ask for execute permission.
        execute_permission: bool = 1,
        /// Requests may be privileged.
        privileged_mode: bool = 1,
        /// Translated requests may carry a PASID.
        translated_requests: bool = 1,
        .. u16 = 12,
    }
}
