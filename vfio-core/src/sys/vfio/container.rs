//! A container file of the running kernel, or an iommufd in its compatible mode.

use super::{ContainerCalls, Result, ask, request, word};
use crate::sys::located::Located;
use crate::sys::space::Lent;
use crate::sys::{bitmap, ioctl};
use crate::{Access, StableMemory};
use rustix::io::Errno;
use rustix::ioctl::Opcode;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_DMA_UNMAP_FLAG_ALL, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, VFIO_IOMMU_DIRTY_PAGES_FLAG_START, VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
    vfio_bitmap, vfio_iommu_type1_dma_map, vfio_iommu_type1_info,
};

/// `/dev/vfio/vfio`, or `/dev/iommu`.
#[derive(Debug)]
pub(crate) struct Container {
    file: OwnedFd,
}

const DIRTY_PAGES: Opcode = request(17);

/// `struct vfio_iommu_type1_dma_unmap` with the bitmap behind it.
#[repr(C)]
struct Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
    bitmap: vfio_bitmap,
}

const UNMAP_WITHOUT_BITMAP: usize = std::mem::offset_of!(Unmap, bitmap);
const _: () = assert!(UNMAP_WITHOUT_BITMAP == 24 && size_of::<Unmap>() == 48);

/// `struct vfio_iommu_type1_dirty_bitmap` with `struct vfio_iommu_type1_dirty_bitmap_get` behind it.
#[repr(C)]
struct DirtyPages {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
    bitmap: vfio_bitmap,
}

const _: () = assert!(size_of::<DirtyPages>() == 48);

const NO_BITMAP: vfio_bitmap = vfio_bitmap {
    pgsize: 0,
    size: 0,
    data: std::ptr::null_mut(),
};

impl Container {
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self { file }
    }

    fn dirty(&self, flags: u32, iova: u64, size: u64, bitmap: vfio_bitmap) -> Result<()> {
        let mut pages = DirtyPages {
            argsz: word(size_of::<DirtyPages>())?,
            flags,
            iova,
            size,
            bitmap,
        };
        // SAFETY: VFIO_IOMMU_DIRTY_PAGES reads this structure. To the bitmap it writes as in `unmap`; a range that cuts a mapping, and version 1, it
        // refuses.
        unsafe { ioctl::call(self.file.as_fd(), DIRTY_PAGES, &mut pages) }?;
        Ok(())
    }

    fn unmap(&self, unmap: &mut Unmap) -> Result<u64> {
        // SAFETY: VFIO_IOMMU_UNMAP_DMA reads and writes this structure. The kernel checks the bitmap's length against `size` alone, and then sets the
        // bits of every mapping it unmaps, whole. That stays inside because none reaches beyond the range: version 2 refuses to cut one, and for
        // version 1, which would not, there is no dirty logging and so no bitmap (`vfio_iommu_type1_dirty_pages`). `describe` has checked that
        // there is a bit for each page of the range; the words are borrowed until after the call.
        unsafe { ioctl::call(self.file.as_fd(), request(14), unmap) }?;
        Ok(unmap.size)
    }
}

impl ContainerCalls for Container {
    fn api_version(&self) -> Result<i32> {
        // SAFETY: VFIO_GET_API_VERSION has no argument.
        unsafe { ioctl::call_number(self.file.as_fd(), request(0), 0) }
    }

    fn check_extension(&self, extension: u32) -> Result<i32> {
        // SAFETY: VFIO_CHECK_EXTENSION takes a number.
        unsafe { ioctl::call_number(self.file.as_fd(), request(1), extension as usize) }
    }

    fn set_iommu(&self, kind: u32) -> Result<()> {
        // SAFETY: VFIO_SET_IOMMU takes a number.
        unsafe { ioctl::call_number(self.file.as_fd(), request(2), kind as usize) }?;
        Ok(())
    }

    fn info(&self) -> Result<Vec<u8>> {
        ask(size_of::<vfio_iommu_type1_info>(), &[], |buffer| {
            // SAFETY: VFIO_IOMMU_GET_INFO writes no more than `argsz` says, which is at most the buffer's length.
            unsafe { ioctl::call(self.file.as_fd(), request(12), buffer) }?;
            Ok(())
        })
    }

    fn map_dma(&self, memory: &Lent<Located>, part: Range<usize>, iova: u64, access: Access) -> Result<()> {
        let size = part.end.checked_sub(part.start).ok_or(Errno::INVAL)?;
        if part.end > memory.len() {
            return Err(Errno::INVAL);
        }
        let mut flags = 0;
        if access.contains(Access::READ) {
            flags |= VFIO_DMA_MAP_FLAG_READ;
        }
        if access.contains(Access::WRITE) {
            flags |= VFIO_DMA_MAP_FLAG_WRITE;
        }
        let mut map = vfio_iommu_type1_dma_map {
            argsz: word(size_of::<vfio_iommu_type1_dma_map>())?,
            flags,
            vaddr: memory.address().expose_provenance() as u64 + part.start as u64,
            iova,
            size: size as u64,
        };
        // SAFETY: VFIO_IOMMU_MAP_DMA reads this structure. The memory it names is inside a `StableMemory`, so a device may write to it
        // as long as the value lives, and it is lent: not let go until the range is unmapped.
        unsafe { ioctl::call(self.file.as_fd(), request(13), &mut map) }?;
        Ok(())
    }

    fn unmap_dma(&self, iova: u64, len: u64, bitmap: Option<(u64, &mut [u64])>) -> Result<u64> {
        let (flags, argsz, bitmap) = match bitmap {
            None => (0, UNMAP_WITHOUT_BITMAP, NO_BITMAP),
            Some((page_size, bits)) => (
                VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
                size_of::<Unmap>(),
                describe(len, page_size, bits)?,
            ),
        };
        self.unmap(&mut Unmap {
            argsz: word(argsz)?,
            flags,
            iova,
            size: len,
            bitmap,
        })
    }

    fn unmap_all(&self) -> Result<u64> {
        self.unmap(&mut Unmap {
            argsz: word(UNMAP_WITHOUT_BITMAP)?,
            flags: VFIO_DMA_UNMAP_FLAG_ALL,
            iova: 0,
            size: 0,
            bitmap: NO_BITMAP,
        })
    }

    fn dirty_start(&self) -> Result<()> {
        self.dirty(VFIO_IOMMU_DIRTY_PAGES_FLAG_START, 0, 0, NO_BITMAP)
    }

    fn dirty_stop(&self) -> Result<()> {
        self.dirty(VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP, 0, 0, NO_BITMAP)
    }

    fn dirty_get(&self, iova: u64, len: u64, page_size: u64, bitmap: &mut [u64]) -> Result<()> {
        self.dirty(
            VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
            iova,
            len,
            describe(len, page_size, bitmap)?,
        )
    }

    fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        rustix::io::fcntl_dupfd_cloexec(&self.file, 0).map(Some)
    }
}

/// Type1 copies its own bitmap out, no more than it is told that there is room for.
fn describe(len: u64, page_size: u64, bits: &mut [u64]) -> Result<vfio_bitmap> {
    bitmap::bits(len, page_size, bits)?;
    Ok(vfio_bitmap {
        pgsize: page_size,
        size: size_of_val(bits) as u64,
        data: bits.as_mut_ptr(),
    })
}
