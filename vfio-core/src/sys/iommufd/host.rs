//! The running kernel behind [`Calls`]: one `ioctl` for each method.

use super::super::Result;
use super::super::bitmap::{self, Bounce};
use super::super::located::Located;
use super::super::mmio::{Map, Mapped};
use super::super::space::Lent;
use super::command::{Command, HwInfoCommand, NoiommuGetPa};
use super::{Calls, HwInfo, HwptAlloc, Id, Queue};
use crate::{Access, StableMemory};
use iommufd_bindings as abi;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// Opens `/dev/iommu`.
pub(crate) fn open(path: &Path) -> Result<Arc<dyn Calls>> {
    let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Arc::new(Descriptor { file }))
}

/// An open `/dev/iommu`.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) file: OwnedFd,
}

/// `enum iommufd_ioas_map_flags`.
fn map_flags(iova: Option<u64>, access: Access) -> u32 {
    let mut flags = 0;
    if iova.is_some() {
        flags |= abi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA;
    }
    if access.contains(Access::WRITE) {
        flags |= abi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE;
    }
    if access.contains(Access::READ) {
        flags |= abi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE;
    }
    flags
}

fn count(len: usize) -> Result<u32> {
    u32::try_from(len).or(Err(Errno::TOOBIG))
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}

impl Calls for Descriptor {
    fn destroy(&self, id: Id) -> Result<()> {
        self.plain(&mut abi::iommu_destroy { id, ..Command::new() })
    }

    fn ioas_alloc(&self) -> Result<Id> {
        let mut command = abi::iommu_ioas_alloc::new();
        self.plain(&mut command)?;
        Ok(command.out_ioas_id)
    }

    fn ioas_iova_ranges(&self, ioas: Id, ranges: &mut [(u64, u64)]) -> Result<(u32, u64)> {
        let mut found = vec![abi::iommu_iova_range::default(); ranges.len()];
        let mut command = abi::iommu_ioas_iova_ranges {
            ioas_id: ioas,
            num_iovas: count(found.len())?,
            allowed_iovas: found.as_mut_ptr().expose_provenance() as u64,
            ..Command::new()
        };
        // SAFETY: the address is of `num_iovas` ranges, which live until after the call.
        match unsafe { self.call(&mut command) } {
            Ok(()) | Err(Errno::MSGSIZE) => {}
            Err(errno) => return Err(errno),
        }
        for (to, from) in ranges.iter_mut().zip(&found) {
            *to = (from.start, from.last);
        }
        Ok((command.num_iovas, command.out_iova_alignment))
    }

    fn ioas_allow_iovas(&self, ioas: Id, ranges: &[(u64, u64)]) -> Result<()> {
        let ranges: Vec<_> = ranges
            .iter()
            .map(|&(start, last)| abi::iommu_iova_range { start, last })
            .collect();
        let mut command = abi::iommu_ioas_allow_iovas {
            ioas_id: ioas,
            num_iovas: count(ranges.len())?,
            allowed_iovas: ranges.as_ptr().expose_provenance() as u64,
            ..Command::new()
        };
        // SAFETY: the address is of `num_iovas` ranges, which are only read and live until after the call.
        unsafe { self.call(&mut command) }
    }

    fn ioas_map(
        &self,
        ioas: Id,
        memory: &Lent<Located>,
        part: Range<usize>,
        iova: Option<u64>,
        access: Access,
    ) -> Result<u64> {
        if part.start > part.end || part.end > memory.len() {
            return Err(Errno::INVAL);
        }
        let mut command = abi::iommu_ioas_map {
            flags: map_flags(iova, access),
            ioas_id: ioas,
            user_va: (memory.address().expose_provenance() + part.start) as u64,
            length: (part.end - part.start) as u64,
            iova: iova.unwrap_or_default(),
            ..Command::new()
        };
        // SAFETY: the part lies inside `memory`, which stays mapped and unreferenced (`StableMemory`), and which is lent:
        // not let go until it is unmapped.
        unsafe { self.call(&mut command) }?;
        Ok(command.iova)
    }

    fn ioas_map_file(
        &self,
        ioas: Id,
        file: BorrowedFd<'_>,
        start: u64,
        len: u64,
        iova: Option<u64>,
        access: Access,
    ) -> Result<u64> {
        let mut command = abi::iommu_ioas_map_file {
            flags: map_flags(iova, access),
            ioas_id: ioas,
            fd: file.as_raw_fd(),
            start,
            length: len,
            iova: iova.unwrap_or_default(),
            ..Command::new()
        };
        self.plain(&mut command)?;
        Ok(command.iova)
    }

    fn ioas_copy(&self, to: Id, from: Lent<(Id, u64)>, len: u64, iova: Option<u64>, access: Access) -> Result<u64> {
        let (src_ioas_id, src_iova) = *from;
        let mut command = abi::iommu_ioas_copy {
            flags: map_flags(iova, access),
            dst_ioas_id: to,
            src_ioas_id,
            length: len,
            dst_iova: iova.unwrap_or_default(),
            src_iova,
            ..Command::new()
        };
        self.plain(&mut command)?;
        Ok(command.dst_iova)
    }

    fn ioas_unmap(&self, ioas: Id, iova: u64, len: u64) -> Result<u64> {
        let mut command = abi::iommu_ioas_unmap {
            ioas_id: ioas,
            iova,
            length: len,
            ..Command::new()
        };
        self.plain(&mut command)?;
        Ok(command.length)
    }

    fn ioas_change_process(&self) -> Result<()> {
        self.plain(&mut abi::iommu_ioas_change_process::new())
    }

    fn ioas_noiommu_get_pa(&self, ioas: Id, iova: u64) -> Result<(u64, u64)> {
        let mut command = NoiommuGetPa {
            ioas_id: ioas,
            iova,
            length: u64::MAX,
            ..Command::new()
        };
        self.plain(&mut command)?;
        Ok((command.out_phys, command.length))
    }

    fn option_get(&self, option: u32, object: Id) -> Result<u64> {
        let mut command = abi::iommu_option {
            option_id: option,
            op: 1,
            object_id: object,
            ..Command::new()
        };
        self.plain(&mut command)?;
        Ok(command.val64)
    }

    fn option_set(&self, option: u32, object: Id, value: u64) -> Result<()> {
        self.plain(&mut abi::iommu_option {
            option_id: option,
            op: 0,
            object_id: object,
            val64: value,
            ..Command::new()
        })
    }

    fn vfio_ioas_get(&self) -> Result<Id> {
        let mut command = abi::iommu_vfio_ioas::new();
        self.plain(&mut command)?;
        Ok(command.ioas_id)
    }

    fn vfio_ioas_set(&self, ioas: Id) -> Result<()> {
        self.plain(&mut abi::iommu_vfio_ioas {
            ioas_id: ioas,
            op: 1,
            ..Command::new()
        })
    }

    fn vfio_ioas_clear(&self) -> Result<()> {
        self.plain(&mut abi::iommu_vfio_ioas {
            op: 2,
            ..Command::new()
        })
    }

    fn hwpt_alloc(&self, request: &HwptAlloc<'_>) -> Result<Id> {
        let fault = request
            .fault
            .map_or(0, |_| abi::iommufd_hwpt_alloc_flags_IOMMU_HWPT_FAULT_ID_VALID);
        let mut command = abi::iommu_hwpt_alloc {
            flags: request.flags | fault,
            dev_id: request.device,
            pt_id: request.parent,
            data_type: request.kind,
            data_len: count(request.data.len())?,
            data_uptr: if request.data.is_empty() {
                0
            } else {
                address(request.data)
            },
            fault_id: request.fault.unwrap_or_default(),
            ..Command::new()
        };
        // SAFETY: the address is of `data_len` bytes, which are only read and live until after the call.
        unsafe { self.call(&mut command) }?;
        Ok(command.out_hwpt_id)
    }

    fn get_hw_info(&self, device: Id, kind: Option<u32>, data: &mut [u8]) -> Result<HwInfo> {
        let mut command = HwInfoCommand {
            flags: kind.map_or(0, |_| 1), // IOMMU_HW_INFO_FLAG_INPUT_TYPE
            dev_id: device,
            data_len: count(data.len())?,
            data_uptr: if data.is_empty() {
                0
            } else {
                data.as_mut_ptr().expose_provenance() as u64
            },
            data_type: kind.unwrap_or_default(),
            ..Command::new()
        };
        // SAFETY: the address is of `data_len` bytes, which are ours to write and live until after the call.
        unsafe { self.call(&mut command) }?;
        Ok(HwInfo {
            kind: command.data_type,
            len: command.data_len,
            capabilities: command.out_capabilities,
            max_pasid_log2: command.out_max_pasid_log2,
        })
    }

    fn hwpt_set_dirty_tracking(&self, hwpt: Id, on: bool) -> Result<()> {
        self.plain(&mut abi::iommu_hwpt_set_dirty_tracking {
            flags: on.into(),
            hwpt_id: hwpt,
            ..Command::new()
        })
    }

    fn hwpt_get_dirty_bitmap(
        &self,
        hwpt: Id,
        clear: bool,
        iova: u64,
        len: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<()> {
        let mut found = Bounce::new(bitmap::bits(len, page_size, bitmap)?)?;
        let mut command = abi::iommu_hwpt_get_dirty_bitmap {
            hwpt_id: hwpt,
            flags: (!clear).into(),
            iova,
            length: len,
            page_size,
            data: found.address(),
            ..Command::new()
        };
        // SAFETY: the kernel writes to the pages of the bitmap and to one more, which `found` has and which live until after the call.
        unsafe { self.call(&mut command) }?;
        found.add_to(bitmap);
        Ok(())
    }

    fn hwpt_invalidate(&self, hwpt: Id, kind: u32, entry_len: u32, entries: &[u8]) -> (u32, Result<()>) {
        let entries_len = entries.len() as u64;
        let Some(entry_num) = entries_len
            .checked_div(entry_len.into())
            .and_then(|num| u32::try_from(num).ok())
        else {
            let empty = if entries.is_empty() { Ok(()) } else { Err(Errno::INVAL) };
            return (0, empty);
        };
        let mut command = abi::iommu_hwpt_invalidate {
            hwpt_id: hwpt,
            data_uptr: address(entries),
            data_type: kind,
            entry_len,
            entry_num,
            ..Command::new()
        };
        // SAFETY: the address is of at least `entry_num` entries of `entry_len` bytes, which are only read and live until after
        // the call.
        let result = unsafe { self.call(&mut command) };
        match result {
            // The kernel did not come as far as counting.
            Err(Errno::NOTTY | Errno::FAULT | Errno::TOOBIG) => (0, result),
            _ => (command.entry_num.min(entry_num), result),
        }
    }

    fn fault_queue_alloc(&self) -> Result<(Id, Box<dyn Queue>)> {
        let mut command = abi::iommu_fault_alloc::new();
        self.plain(&mut command)?;
        // SAFETY: the kernel has just made the object and opened its descriptor for this call.
        unsafe { self.queue(command.out_fault_id, command.out_fault_fd) }
    }

    fn viommu_alloc(&self, device: Id, hwpt: Id, kind: u32, data: &mut [u8]) -> Result<Id> {
        let mut command = abi::iommu_viommu_alloc {
            type_: kind,
            dev_id: device,
            hwpt_id: hwpt,
            data_len: count(data.len())?,
            data_uptr: if data.is_empty() {
                0
            } else {
                data.as_mut_ptr().expose_provenance() as u64
            },
            ..Command::new()
        };
        // SAFETY: the address is of `data_len` bytes, which are ours to read and write and live until after the call.
        unsafe { self.call(&mut command) }?;
        Ok(command.out_viommu_id)
    }

    fn vdevice_alloc(&self, viommu: Id, device: Id, virtual_id: u64) -> Result<Id> {
        let mut command = abi::iommu_vdevice_alloc {
            viommu_id: viommu,
            dev_id: device,
            virt_id: virtual_id,
            ..Command::new()
        };
        self.plain(&mut command)?;
        Ok(command.out_vdevice_id)
    }

    fn veventq_alloc(&self, viommu: Id, kind: u32, depth: u32) -> Result<(Id, Box<dyn Queue>)> {
        let mut command = abi::iommu_veventq_alloc {
            viommu_id: viommu,
            type_: kind,
            veventq_depth: depth,
            ..Command::new()
        };
        self.plain(&mut command)?;
        // SAFETY: the kernel has just made the object and opened its descriptor for this call.
        unsafe { self.queue(command.out_veventq_id, command.out_veventq_fd) }
    }

    fn hw_queue_alloc(&self, viommu: Id, kind: u32, index: u32, iova: u64, len: u64) -> Result<Id> {
        let mut command = abi::iommu_hw_queue_alloc {
            viommu_id: viommu,
            type_: kind,
            index,
            nesting_parent_iova: iova,
            length: len,
            ..Command::new()
        };
        self.plain(&mut command)?;
        Ok(command.out_hw_queue_id)
    }

    fn map(&self, offset: u64, len: usize) -> Result<Map> {
        let read_write = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                read_write,
                MapFlags::SHARED,
                &self.file,
                offset,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        // SAFETY: the mapping was just made, of this length, and is nobody else's.
        Ok(Map::Mapped(unsafe { Mapped::new(base, len) }))
    }

    fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        rustix::io::fcntl_dupfd_cloexec(&self.file, 0).map(Some)
    }

    #[cfg(feature = "selftest")]
    fn test(&self, command: &mut super::TestCommand, buffer: super::TestBuffer<'_>) -> Result<()> {
        self.run_test(command, buffer)
    }

    #[cfg(feature = "selftest")]
    fn test_access(&self, ioas: Id, flags: u32) -> Result<OwnedFd> {
        self.new_access(ioas, flags)
    }

    #[cfg(feature = "selftest")]
    fn test_dmabuf(&self, len: u32) -> Result<OwnedFd> {
        self.new_dmabuf(len)
    }
}
