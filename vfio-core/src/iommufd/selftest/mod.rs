//! The kernel's mock devices (`CONFIG_IOMMUFD_TEST`): an IOMMU and devices in kernel memory, for what no card at hand offers.
//!
//! A [`MockDevice`] is attached to a page table from the start. Its IOMMU tracks dirty pages, nests, slices, and makes page requests on
//! command. An [`Access`](MockAccess) is what a driver in the kernel does with an address space that it emulates a device for.
//!
//! Follows `drivers/iommu/iommufd/iommufd_test.h` of Linux 7.3, which no release promises to keep. Errors are those of the kernel:
//! checks that find something else answer EINVAL.

mod access;
mod device;

pub use access::{MockAccess, PinnedPages};
pub use device::{MockDevice, MockFlags};

use super::command::{Command, command};
use super::{HwInfoKind, HwQueueKind, Hwpt, Ioas, Iommufd, ObjectId, PageTable, VeventKind, ViommuKind};
use crate::sys::iommufd::{TestBuffer, TestCommand};
use crate::{DirtyBitmap, Error, Iova, IovaRange, StableMemory};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use zerocopy::IntoBytes;

/// The first and last IOVA of the mock IOMMU, with its default page tables.
pub const APERTURE: (Iova, Iova) = (Iova(1 << 24), Iova((1 << 31) - 1));
/// Its smallest page in bytes.
pub const PAGE_SIZE: u64 = 2048;
/// Its huge page in bytes.
pub const HUGE_PAGE_SIZE: u64 = 512 * PAGE_SIZE;
/// Width of the PASIDs of a device with [`MockFlags::PASID`].
pub const PASID_WIDTH: u8 = 20;
/// A PASID whose replacement fails on purpose, half-way.
pub const PASID_RESERVED: u32 = 1024;

/// What its [`HwInfo`](super::HwInfo) is of: 4 bytes of flags and [`HW_INFO_REGISTER`].
pub const HW_INFO: HwInfoKind = HwInfoKind(0xfeed_beef);
/// The value of its only register.
pub const HW_INFO_REGISTER: u32 = 0xdead_beef;
/// Kind of data for a nested table: see [`nested_data`].
pub const HWPT_DATA: u32 = 0xdead;
/// What each entry of a nested table's cache can hold at first; an invalidation sets it to 0.
pub const IOTLB_DEFAULT: u32 = 0x0bad_beef;
/// Entries of that cache.
pub const IOTLB_ENTRIES: u32 = 4;
/// What each entry of a device's cache holds by default.
pub const DEVICE_CACHE_DEFAULT: u32 = 0x00ba_ddad;
/// Entries of that cache.
pub const DEVICE_CACHE_ENTRIES: u32 = 4;
/// Kind of invalidation for a nested table: 4 bytes of flags (1 for all), 4 of the entry.
pub const INVALIDATE_DATA: u32 = 0xdead_beef;
/// Kind of invalidation for a virtual IOMMU: 4 bytes of flags (1 for all), 4 of the virtual device, 4 of the entry.
pub const VIOMMU_INVALIDATE_DATA: u32 = 0xdead_beef;
/// Its virtual IOMMU: 4 bytes in, 4 out (the same value), then offset and length of what it shows, 8 bytes each.
pub const VIOMMU: ViommuKind = ViommuKind(0xdead_beef);
/// Its events: 4 bytes, the virtual device.
pub const VEVENT: VeventKind = VeventKind {
    kind: 0xbeef_beef,
    data_len: 4,
};
/// Its queues in hardware, two at most.
pub const HW_QUEUE: HwQueueKind = HwQueueKind(0xdead_beef);

const SINCE: &str = "a kernel with CONFIG_IOMMUFD_TEST";

/// Numbers of the operations (`IOMMU_TEST_OP_*`).
mod op {
    pub(super) const ADD_RESERVED: u32 = 1;
    pub(super) const MD_CHECK_MAP: u32 = 3;
    pub(super) const MD_CHECK_REFS: u32 = 4;
    pub(super) const DESTROY_ACCESS_PAGES: u32 = 6;
    pub(super) const ACCESS_PAGES: u32 = 7;
    pub(super) const ACCESS_RW: u32 = 8;
    pub(super) const SET_TEMP_MEMORY_LIMIT: u32 = 9;
    pub(super) const MOCK_DOMAIN_REPLACE: u32 = 10;
    pub(super) const ACCESS_REPLACE_IOAS: u32 = 11;
    pub(super) const MOCK_DOMAIN_FLAGS: u32 = 12;
    pub(super) const DIRTY: u32 = 13;
    pub(super) const MD_CHECK_IOTLB: u32 = 14;
    pub(super) const TRIGGER_IOPF: u32 = 15;
    pub(super) const DEV_CHECK_CACHE: u32 = 16;
    pub(super) const TRIGGER_VEVENT: u32 = 17;
    pub(super) const PASID_ATTACH: u32 = 18;
    pub(super) const PASID_REPLACE: u32 = 19;
    pub(super) const PASID_DETACH: u32 = 20;
    pub(super) const PASID_CHECK_HWPT: u32 = 21;
    pub(super) const DMABUF_REVOKE: u32 = 23;
}

/// Reserves a range in an address space, as a device's firmware would.
///
/// # Errors
///
/// EADDRINUSE where something is mapped.
#[doc(alias = "IOMMU_TEST_OP_ADD_RESERVED")]
pub fn add_reserved(ioas: &Ioas, range: IovaRange) -> Result<(), Error> {
    let mut request = TestCommand::new(op::ADD_RESERVED, ioas.id().0);
    request.put_u64(16, range.start().0);
    request.put_u64(24, crate::sys::space::length(range));
    run(
        ioas.object().iommufd(),
        &mut request,
        TestBuffer::None,
        "IOMMU_TEST_OP_ADD_RESERVED",
    )
}

/// Whether the page table `hwpt` of a mock leads from `iova` to that part of memory.
///
/// # Errors
///
/// EINVAL if it does not.
#[doc(alias = "IOMMU_TEST_OP_MD_CHECK_MAP")]
pub fn check_map(
    iommufd: &Iommufd,
    hwpt: ObjectId,
    iova: Iova,
    memory: &dyn StableMemory,
    part: Range<usize>,
) -> Result<(), Error> {
    let mut request = TestCommand::new(op::MD_CHECK_MAP, hwpt.0);
    request.put_u64(16, iova.0);
    request.put_u64(24, part.len() as u64);
    let buffer = TestBuffer::Pages { memory, part };
    run(iommufd, &mut request, buffer, "IOMMU_TEST_OP_MD_CHECK_MAP")
}

/// Whether each page of that part of memory is pinned `pins` times. Huge pages are not counted.
///
/// # Errors
///
/// EIO if not.
#[doc(alias = "IOMMU_TEST_OP_MD_CHECK_REFS")]
pub fn check_refs(iommufd: &Iommufd, memory: &dyn StableMemory, part: Range<usize>, pins: u32) -> Result<(), Error> {
    let mut request = TestCommand::new(op::MD_CHECK_REFS, 0);
    request.put_u64(16, part.len() as u64);
    request.put_u32(32, pins);
    let buffer = TestBuffer::Pages { memory, part };
    run(iommufd, &mut request, buffer, "IOMMU_TEST_OP_MD_CHECK_REFS")
}

/// Whether an entry of a nested table's cache holds `value`.
///
/// # Errors
///
/// EINVAL if not.
#[doc(alias = "IOMMU_TEST_OP_MD_CHECK_IOTLB")]
pub fn check_iotlb(hwpt: &Hwpt, entry: u32, value: u32) -> Result<(), Error> {
    let mut request = TestCommand::new(op::MD_CHECK_IOTLB, hwpt.id().0);
    request.put_u32(16, entry);
    request.put_u32(20, value);
    run(
        hwpt.object().iommufd(),
        &mut request,
        TestBuffer::None,
        "IOMMU_TEST_OP_MD_CHECK_IOTLB",
    )
}

/// Marks pages of a page table as written by a device: those that `dirty` has. Returns how many.
///
/// # Errors
///
/// EINVAL if the table does not track.
#[doc(alias = "IOMMU_TEST_OP_DIRTY")]
pub fn set_dirty(hwpt: &Hwpt, dirty: &DirtyBitmap) -> Result<u64, Error> {
    let mut request = TestCommand::new(op::DIRTY, hwpt.id().0);
    request.put_u64(24, dirty.range().start().0);
    request.put_u64(32, dirty.len_bytes());
    request.put_u64(40, dirty.page_size());
    let buffer = TestBuffer::In(dirty.words().as_bytes());
    run(hwpt.object().iommufd(), &mut request, buffer, "IOMMU_TEST_OP_DIRTY")?;
    Ok(request.u64(56))
}

/// Limits what the kernel takes at a time for lists of pages, 12 bytes at least, in all iommufds; 65536 is the default.
///
/// # Errors
///
/// EINVAL below 12.
#[doc(alias = "IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT")]
pub fn set_temp_memory_limit(iommufd: &Iommufd, bytes: u32) -> Result<(), Error> {
    let mut request = TestCommand::new(op::SET_TEMP_MEMORY_LIMIT, 0);
    request.put_u32(16, bytes);
    run(
        iommufd,
        &mut request,
        TestBuffer::None,
        "IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT",
    )
}

/// A dma-buf of kernel memory, at most 512 pages, that an address space takes by file.
///
/// The kernel does not tell its number, so nothing else in the process may open a dma-buf meanwhile.
///
/// # Errors
///
/// EINVAL for another length, EBADF if its number could not be found out.
#[doc(alias = "IOMMU_TEST_OP_DMABUF_GET")]
pub fn dma_buf(iommufd: &Iommufd, len: u32) -> Result<OwnedFd, Error> {
    let opened = iommufd.calls().test_dmabuf(len);
    opened.map_err(|errno| step("IOMMU_TEST_OP_DMABUF_GET").error(errno))
}

/// Takes a dma-buf's memory back from those who mapped it, or gives it again.
///
/// # Errors
///
/// EOPNOTSUPP for another dma-buf.
#[doc(alias = "IOMMU_TEST_OP_DMABUF_REVOKE")]
pub fn revoke_dma_buf(iommufd: &Iommufd, file: BorrowedFd<'_>, revoked: bool) -> Result<(), Error> {
    let mut request = TestCommand::new(op::DMABUF_REVOKE, 0);
    request.put_u32(16, number(file));
    request.put_u32(20, revoked.into());
    run(iommufd, &mut request, TestBuffer::None, "IOMMU_TEST_OP_DMABUF_REVOKE")
}

/// Data of a table: what its cache holds at first, for a nested one; 1 as `huge` for a parent with huge pages.
#[must_use]
pub fn nested_data(iotlb: u32, huge: bool) -> [u8; 8] {
    let mut bytes = [0; 8];
    let words = iotlb.to_ne_bytes().into_iter().chain(u32::from(huge).to_ne_bytes());
    bytes.iter_mut().zip(words).for_each(|(to, from)| *to = from);
    bytes
}

fn step(name: &'static str) -> Command {
    command(name, SINCE)
}

fn run(iommufd: &Iommufd, request: &mut TestCommand, buffer: TestBuffer<'_>, name: &'static str) -> Result<(), Error> {
    let done = iommufd.calls().test(request, buffer);
    done.map_err(|errno| step(name).error(errno))
}

/// A descriptor as some commands name it.
fn number(file: BorrowedFd<'_>) -> u32 {
    file.as_raw_fd().unsigned_abs()
}
