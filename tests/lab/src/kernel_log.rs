//! What in a kernel's log means trouble.

use lab_init::KernelRecord;

/// A kind of trouble in a kernel's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The kernel broke: panic, oops, warning, hung task.
    Kernel,
    /// The IOMMU stopped a device's access.
    DmaFault,
}

const KERNEL: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "kernel BUG at",
    "Kernel panic",
    "general protection fault",
    "unable to handle",
    "blocked for more than",
    "soft lockup",
    "rcu_preempt detected stalls",
    "rcu_sched detected stalls",
    "UBSAN:",
    "refcount_t:",
];

/// `DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr …`, `DMAR: DRHD: handling fault status`; AMD's
/// `AMD-Vi: Event logged [IO_PAGE_FAULT …]`; `virtio_iommu virtio0: page fault from EP 8 at …`.
const FAULT: &[&str] = &[
    "DMAR: [DMA",
    "DMAR: DRHD: handling fault",
    "[IO_PAGE_FAULT",
    " fault from EP ",
    "[INTR-REMAP]",
];

/// Whether a record means trouble, and which. Messages of user space (`/dev/kmsg` written by a program) are not told apart: a
/// program that writes `BUG:` there wants to be heard.
#[must_use]
pub fn trouble(record: &KernelRecord) -> Option<Trouble> {
    let has = |patterns: &[&str]| patterns.iter().any(|pattern| record.text.contains(pattern));
    if has(FAULT) {
        Some(Trouble::DmaFault)
    } else if has(KERNEL) {
        Some(Trouble::Kernel)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> KernelRecord {
        KernelRecord {
            level: 4,
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_fault_of_the_iommu_is_told_from_a_broken_kernel() {
        let fault =
            record("DMAR: [DMA Write NO_PASID] Request device [01:10.0] fault addr 0xfffff000 [fault reason 0x05]");
        assert_eq!(trouble(&fault), Some(Trouble::DmaFault));
        let amd =
            record("AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:01:00.0 domain=0x0001 address=0xff flags=0x0020]");
        assert_eq!(trouble(&amd), Some(Trouble::DmaFault));
        let virtio = record("virtio_iommu virtio0: page fault from EP 8 at 0xfffff000 [W]");
        assert_eq!(trouble(&virtio), Some(Trouble::DmaFault));
        assert_eq!(
            trouble(&record("WARNING: drivers/pci/msi/msi.c:888 at pci_irq_vector")),
            Some(Trouble::Kernel)
        );
        assert_eq!(
            trouble(&record("INFO: task sriovctl:71 blocked for more than 120 seconds.")),
            Some(Trouble::Kernel)
        );
        assert_eq!(trouble(&record("igb 0000:01:00.0: 7 VFs allocated")), None);
        assert_eq!(trouble(&record("DMAR: IOMMU feature pgsel_inv inconsistent")), None);
    }
}
