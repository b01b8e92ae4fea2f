//! What kind of IOMMU the machine has.

use crate::{Iova, IovaRange};

/// The machine's IOMMU. The default is one with everything that a page table of one stage can have: dirty tracking, 20 bits of PASID,
/// 48 bits of IOVA with the MSI window reserved, pages of 4 KiB, 2 MiB and 1 GiB.
///
/// ```
/// use vfio_core::fake::{Iommu, Machine};
/// use vfio_core::{Iova, IovaRange};
///
/// // As one of 39 bits, without PASIDs, behind which nested tables of VT-d are possible.
/// let aperture = IovaRange::new(Iova(0), 1 << 39).unwrap();
/// let iommu = Iommu { aperture, pasid_bits: 0, nesting: Some(1), ..Iommu::default() };
/// let machine = Machine::builder().iommu(iommu).build();
/// # drop(machine);
/// ```
#[derive(Debug, Clone)]
pub struct Iommu {
    /// The IOVAs that a page table can translate.
    pub aperture: IovaRange,
    /// IOVAs that no device may use for memory.
    pub reserved: Vec<IovaRange>,
    /// A bit for each page size in bytes.
    pub page_sizes: u64,
    /// Whether page tables note which pages were written: in pages of the table, the largest that fit into a mapping, all of which is dirty then.
    pub dirty_tracking: bool,
    /// How many bits of PASID it takes; 0 for none.
    pub pasid_bits: u8,
    /// The kind of nested page tables (`IOMMU_HWPT_DATA_*`).
    pub nesting: Option<u32>,
    /// The kind of virtual IOMMUs (`IOMMU_VIOMMU_TYPE_*`).
    pub viommu: Option<u32>,
    /// The kind of hardware queues (`IOMMU_HW_QUEUE_TYPE_*`).
    pub hw_queue: Option<u32>,
    /// Kind and bytes of the answer to `IOMMU_GET_HW_INFO` (`IOMMU_HW_INFO_TYPE_*`).
    pub hw_info: (u32, Vec<u8>),
    /// How many groups of page requests may wait in one queue; more are refused.
    pub page_requests: usize,
}

impl Default for Iommu {
    fn default() -> Self {
        let range = |start, last| IovaRange::from_bounds(Iova(start), Iova(last)).unwrap_or(IovaRange::ALL);
        Self {
            aperture: range(0, (1 << 48) - 1),
            reserved: vec![range(0xfee0_0000, 0xfeef_ffff)],
            page_sizes: (4 << 10) | (2 << 20) | (1 << 30),
            dirty_tracking: true,
            pasid_bits: 20,
            nesting: None,
            viommu: None,
            hw_queue: None,
            hw_info: (0, Vec::new()),
            page_requests: 64,
        }
    }
}
