//! `include/uapi/linux/iommufd.h`: what is asked of an iommufd.

mod command;
mod host;
mod queue;
#[cfg(feature = "selftest")]
mod test;

pub(crate) use host::{Descriptor, open};
#[cfg(feature = "selftest")]
pub(crate) use test::{TestBuffer, TestCommand};

use super::Result;
use super::located::Located;
use super::mmio::Map;
use super::space::Lent;
use crate::Access;
use rustix::io::Errno;
use std::fmt::Debug;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Number of an object in its iommufd.
pub(crate) type Id = u32;

/// The commands of an iommufd. Each is one `ioctl`; the C name is `IOMMU_` and the name here.
pub(crate) trait Calls: Debug + Send + Sync {
    fn destroy(&self, id: Id) -> Result<()>;

    fn ioas_alloc(&self) -> Result<Id>;
    /// Fills as many `(start, last)` as fit, sorted; the whole count and the alignment in bytes are returned in any case.
    fn ioas_iova_ranges(&self, ioas: Id, ranges: &mut [(u64, u64)]) -> Result<(u32, u64)>;
    fn ioas_allow_iovas(&self, ioas: Id, ranges: &[(u64, u64)]) -> Result<()>;
    /// Maps a part of `memory`. Returns the IOVA.
    fn ioas_map(
        &self,
        ioas: Id,
        memory: &Lent<Located>,
        part: Range<usize>,
        iova: Option<u64>,
        access: Access,
    ) -> Result<u64>;
    /// Maps `len` bytes of a memfd or dma-buf from `start`.
    fn ioas_map_file(
        &self,
        ioas: Id,
        file: BorrowedFd<'_>,
        start: u64,
        len: u64,
        iova: Option<u64>,
        access: Access,
    ) -> Result<u64>;
    /// `from` is IOAS and IOVA of one earlier mapping.
    fn ioas_copy(&self, to: Id, from: Lent<(Id, u64)>, len: u64, iova: Option<u64>, access: Access) -> Result<u64>;
    /// Returns the number of bytes unmapped. `(0, u64::MAX)` unmaps everything.
    fn ioas_unmap(&self, ioas: Id, iova: u64, len: u64) -> Result<u64>;
    fn ioas_change_process(&self) -> Result<()>;
    /// Physical address of an IOVA and how many bytes from there are contiguous.
    fn ioas_noiommu_get_pa(&self, ioas: Id, iova: u64) -> Result<(u64, u64)>;
    /// Reads an option (`IOMMU_OPTION_*`) of an object, or of the iommufd for object 0.
    fn option_get(&self, option: u32, object: Id) -> Result<u64>;
    fn option_set(&self, option: u32, object: Id, value: u64) -> Result<()>;
    fn vfio_ioas_get(&self) -> Result<Id>;
    fn vfio_ioas_set(&self, ioas: Id) -> Result<()>;
    fn vfio_ioas_clear(&self) -> Result<()>;

    fn hwpt_alloc(&self, request: &HwptAlloc<'_>) -> Result<Id>;
    /// `kind` is the type of data asked for (`IOMMU_HW_INFO_FLAG_INPUT_TYPE`), or `None` for what there is.
    fn get_hw_info(&self, device: Id, kind: Option<u32>, data: &mut [u8]) -> Result<HwInfo>;
    fn hwpt_set_dirty_tracking(&self, hwpt: Id, on: bool) -> Result<()>;
    /// One bit for each `page_size` bytes from `iova`, least significant first; bits are only ever set. EINVAL for a page size that is no power of
    /// two or a bitmap that is too short.
    fn hwpt_get_dirty_bitmap(
        &self,
        hwpt: Id,
        clear: bool,
        iova: u64,
        len: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<()>;
    /// `entries` holds whole entries of `entry_len` bytes. Returns how many were handled, also beside a failure.
    fn hwpt_invalidate(&self, hwpt: Id, kind: u32, entry_len: u32, entries: &[u8]) -> (u32, Result<()>);

    fn fault_queue_alloc(&self) -> Result<(Id, Box<dyn Queue>)>;
    /// `data` is read and written.
    fn viommu_alloc(&self, device: Id, hwpt: Id, kind: u32, data: &mut [u8]) -> Result<Id>;
    fn vdevice_alloc(&self, viommu: Id, device: Id, virtual_id: u64) -> Result<Id>;
    fn veventq_alloc(&self, viommu: Id, kind: u32, depth: u32) -> Result<(Id, Box<dyn Queue>)>;
    fn hw_queue_alloc(&self, viommu: Id, kind: u32, index: u32, iova: u64, len: u64) -> Result<Id>;

    /// Maps what an object shows to user space, at the offset that the kernel gave for it.
    fn map(&self, _offset: u64, _len: usize) -> Result<Map> {
        Err(Errno::NXIO)
    }

    /// The descriptor's number, for calls of VFIO that take one.
    fn number(&self) -> i32;
    /// A duplicate of the descriptor, to hand on; `None` where there is no real one.
    fn descriptor(&self) -> Result<Option<OwnedFd>>;
    /// A request to the kernel's mock devices (`CONFIG_IOMMUFD_TEST`).
    #[cfg(feature = "selftest")]
    fn test(&self, _command: &mut TestCommand, _buffer: TestBuffer<'_>) -> Result<()> {
        Err(Errno::NOTTY)
    }
    /// `IOMMU_TEST_OP_CREATE_ACCESS`: the new access's descriptor.
    #[cfg(feature = "selftest")]
    fn test_access(&self, _ioas: Id, _flags: u32) -> Result<OwnedFd> {
        Err(Errno::NOTTY)
    }
    /// `IOMMU_TEST_OP_DMABUF_GET`: a dma-buf of `len` bytes of kernel memory.
    #[cfg(feature = "selftest")]
    fn test_dmabuf(&self, _len: u32) -> Result<OwnedFd> {
        Err(Errno::NOTTY)
    }
}

/// A queue of records that is read and written as a file: page requests, events of a virtual IOMMU.
pub(crate) trait Queue: Debug + Send + Sync {
    fn read(&self, to: &mut [u8]) -> Result<usize>;
    fn write(&self, from: &[u8]) -> Result<usize>;
    /// Readable when there is a record.
    fn ready(&self) -> BorrowedFd<'_>;
}

/// `struct iommu_hwpt_alloc`.
#[derive(Debug)]
pub(crate) struct HwptAlloc<'a> {
    pub(crate) device: Id,
    /// An IOAS, a parent HWPT or a virtual IOMMU.
    pub(crate) parent: Id,
    pub(crate) flags: u32,
    /// Type of `data`, 0 for none.
    pub(crate) kind: u32,
    pub(crate) data: &'a [u8],
    pub(crate) fault: Option<Id>,
}

/// `struct iommu_hw_info` without its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HwInfo {
    pub(crate) kind: u32,
    /// Bytes that the kernel has; what did not fit was left out.
    pub(crate) len: u32,
    pub(crate) capabilities: u64,
    pub(crate) max_pasid_log2: u8,
}
