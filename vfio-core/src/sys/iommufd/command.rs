//! The structures of the commands, tied to their numbers.

use super::super::{Result, ioctl};
use super::host::Descriptor;
use iommufd_bindings as abi;
use rustix::ioctl::{Opcode, opcode};
use std::os::fd::AsFd;

pub(super) const IOMMUFD_TYPE: u8 = b';';

/// A structure of the uapi. All of them begin with their size.
///
/// # Safety
///
/// The type is a `#[repr(C)]` structure of integers, laid out as the kernel's for the command with this number.
pub(super) unsafe trait Command: Sized {
    const NUMBER: u8;

    /// With its size, and zeros.
    fn new() -> Self;
}

macro_rules! commands {
    ($($name:ty = $number:expr;)*) => {$(
        // SAFETY: structure and number belong together in include/uapi/linux/iommufd.h.
        unsafe impl Command for $name {
            const NUMBER: u8 = $number;

            fn new() -> Self {
                Self { size: size::<Self>(), ..Default::default() }
            }
        }
    )*};
}

commands! {
    abi::iommu_destroy = 0x80;
    abi::iommu_ioas_alloc = 0x81;
    abi::iommu_ioas_allow_iovas = 0x82;
    abi::iommu_ioas_copy = 0x83;
    abi::iommu_ioas_iova_ranges = 0x84;
    abi::iommu_ioas_map = 0x85;
    abi::iommu_ioas_unmap = 0x86;
    abi::iommu_option = 0x87;
    abi::iommu_vfio_ioas = 0x88;
    abi::iommu_hwpt_alloc = 0x89;
    HwInfoCommand = 0x8a;
    abi::iommu_hwpt_set_dirty_tracking = 0x8b;
    abi::iommu_hwpt_get_dirty_bitmap = 0x8c;
    abi::iommu_hwpt_invalidate = 0x8d;
    abi::iommu_fault_alloc = 0x8e;
    abi::iommu_ioas_map_file = 0x8f;
    abi::iommu_viommu_alloc = 0x90;
    abi::iommu_vdevice_alloc = 0x91;
    abi::iommu_ioas_change_process = 0x92;
    abi::iommu_veventq_alloc = 0x93;
    abi::iommu_hw_queue_alloc = 0x94;
    NoiommuGetPa = 0x95;
}

/// The `size` field of a structure.
const fn size<T>() -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "no structure of the uapi is longer than a hundred bytes"
    )]
    let size = size_of::<T>() as u32;
    size
}

impl Descriptor {
    /// # Safety
    ///
    /// Addresses in `command` are of memory that the kernel may read and write as the command says, for as long as it does.
    pub(super) unsafe fn call<T: Command>(&self, command: &mut T) -> Result<()> {
        let opcode: Opcode = opcode::none(IOMMUFD_TYPE, T::NUMBER);
        // SAFETY: `Command` ties number and structure together; the rest is promised by the caller.
        unsafe { ioctl::call(self.file.as_fd(), opcode, command) }?;
        Ok(())
    }

    /// A command with no address in it.
    pub(super) fn plain<T: Command + NoAddress>(&self, command: &mut T) -> Result<()> {
        // SAFETY: the kernel reads and writes the structure only.
        unsafe { self.call(command) }
    }
}

/// A command that points to no memory.
pub(super) trait NoAddress {}

macro_rules! no_address {
    ($($name:ty,)*) => {$(impl NoAddress for $name {})*};
}

no_address! {
    abi::iommu_destroy,
    abi::iommu_ioas_alloc,
    abi::iommu_ioas_copy,
    abi::iommu_ioas_map_file,
    abi::iommu_ioas_unmap,
    abi::iommu_option,
    abi::iommu_vfio_ioas,
    abi::iommu_hwpt_set_dirty_tracking,
    abi::iommu_fault_alloc,
    abi::iommu_vdevice_alloc,
    abi::iommu_ioas_change_process,
    abi::iommu_veventq_alloc,
    abi::iommu_hw_queue_alloc,
    NoiommuGetPa,
}

/// `struct iommu_hw_info`, Linux 6.17: the type of the data goes both ways.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct HwInfoCommand {
    pub(super) size: u32,
    pub(super) flags: u32,
    pub(super) dev_id: u32,
    pub(super) data_len: u32,
    pub(super) data_uptr: u64,
    pub(super) data_type: u32,
    pub(super) out_max_pasid_log2: u8,
    pub(super) reserved: [u8; 3],
    pub(super) out_capabilities: u64,
}
const _: () = assert!(
    size_of::<HwInfoCommand>() == size_of::<abi::iommu_hw_info>(),
    "as the kernel lays it out"
);

/// `struct iommu_ioas_noiommu_get_pa`, Linux 7.3.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct NoiommuGetPa {
    pub(super) size: u32,
    pub(super) flags: u32,
    pub(super) ioas_id: u32,
    pub(super) reserved: u32,
    pub(super) iova: u64,
    pub(super) length: u64,
    pub(super) out_phys: u64,
}
const _: () = assert!(size_of::<NoiommuGetPa>() == 40, "as the kernel lays it out");
