//! Bare calls, with structures and numbers of `include/uapi/linux/{vfio,iommufd}.h`: the least that mapping can take.

use crate::ioctl::{call, size};
use crate::sealed::Calls;
use crate::{Place, Table};
use iommufd_bindings as iommufd;
use rustix::ioctl::{Opcode, opcode};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use vfio_bindings::bindings::vfio;
use vfio_core::{Iova, Memory, StableMemory as _};

const IOAS_COPY: Opcode = opcode::none(b';', 0x83);
const IOAS_MAP: Opcode = opcode::none(b';', 0x85);
const IOAS_UNMAP: Opcode = opcode::none(b';', 0x86);
const IOAS_MAP_FILE: Opcode = opcode::none(b';', 0x8f);
const MAP_DMA: Opcode = opcode::none(b';', 113);
const UNMAP_DMA: Opcode = opcode::none(b';', 114);

/// There, for reading and writing.
const FLAGS: u32 = iommufd::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
    | iommufd::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE
    | iommufd::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE;

/// A container of type1, or an iommufd that behaves like one.
#[derive(Debug)]
pub struct Container(pub OwnedFd);

/// An IOAS, by its number in an iommufd.
#[derive(Debug)]
pub struct Ioas {
    iommufd: OwnedFd,
    id: u32,
    /// So that the number stays its own.
    _held: vfio_core::iommufd::Ioas,
}

/// An IOAS that maps a file: that of a `Memory`, and nothing else.
#[derive(Debug)]
pub struct IoasFile {
    ioas: Ioas,
    file: OwnedFd,
    memory: Arc<Memory>,
}

/// An IOAS that maps what it maps elsewhere: the pages are pinned already, which leaves the IOMMU's part.
#[derive(Debug)]
pub struct Copy {
    ioas: Arc<Ioas>,
    /// All of the memory, mapped as long as this is there.
    whole: Place,
}

impl Ioas {
    /// By another descriptor of its iommufd.
    ///
    /// # Errors
    ///
    /// Those of [`try_clone_fd`](vfio_core::iommufd::Iommufd::try_clone_fd).
    pub fn new(ioas: &vfio_core::iommufd::Ioas) -> Result<Self, vfio_core::Error> {
        Ok(Self {
            iommufd: ioas.iommufd().try_clone_fd()?,
            id: ioas.id().0,
            _held: ioas.clone(),
        })
    }
}

impl IoasFile {
    /// Of memory that is shared.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for memory that is no file; EMFILE.
    pub fn new(ioas: Ioas, memory: &Arc<Memory>) -> io::Result<Self> {
        let file = memory.file().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            ioas,
            file: file.try_clone_to_owned()?,
            memory: Arc::clone(memory),
        })
    }
}

impl Copy {
    /// Maps all of the memory at `from`, to copy parts of it from there.
    ///
    /// # Errors
    ///
    /// Those of [`Place::map`].
    pub fn new(ioas: Ioas, memory: &Arc<Memory>, from: Iova) -> io::Result<Self> {
        let ioas = Arc::new(ioas);
        let table: Arc<dyn Table> = Arc::<Ioas>::clone(&ioas);
        let whole = Place::new(&table, memory, 0..memory.len(), from);
        let mut whole = whole.ok_or(io::ErrorKind::InvalidInput)?;
        whole.map()?;
        Ok(Self { ioas, whole })
    }
}

/// Where in memory an address is. What is outside is refused by the kernel.
fn offset(memory: &Memory, address: u64) -> u64 {
    address.wrapping_sub(memory.address().expose_provenance() as u64)
}

impl Calls for Container {
    #[inline]
    unsafe fn map(&self, address: u64, len: u64, iova: u64) -> io::Result<()> {
        let mut command = vfio::vfio_iommu_type1_dma_map {
            argsz: size::<vfio::vfio_iommu_type1_dma_map>(),
            flags: vfio::VFIO_DMA_MAP_FLAG_READ | vfio::VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: address,
            iova,
            size: len,
        };
        // SAFETY: its structure; the memory is promised by the caller.
        unsafe { call::<MAP_DMA, _>(self.0.as_fd(), &mut command) }
    }

    #[inline]
    fn unmap(&self, iova: u64, len: u64) -> io::Result<u64> {
        let mut command = vfio::vfio_iommu_type1_dma_unmap {
            argsz: size::<vfio::vfio_iommu_type1_dma_unmap>(),
            iova,
            size: len,
            ..Default::default()
        };
        // SAFETY: its structure, with no address in it.
        unsafe { call::<UNMAP_DMA, _>(self.0.as_fd(), &mut command) }?;
        Ok(command.size)
    }
}

impl Calls for Ioas {
    #[inline]
    unsafe fn map(&self, address: u64, len: u64, iova: u64) -> io::Result<()> {
        let mut command = iommufd::iommu_ioas_map {
            size: size::<iommufd::iommu_ioas_map>(),
            flags: FLAGS,
            ioas_id: self.id,
            user_va: address,
            length: len,
            iova,
            ..Default::default()
        };
        // SAFETY: its structure; the memory is promised by the caller.
        unsafe { call::<IOAS_MAP, _>(self.iommufd.as_fd(), &mut command) }
    }

    #[inline]
    fn unmap(&self, iova: u64, len: u64) -> io::Result<u64> {
        let mut command = iommufd::iommu_ioas_unmap {
            size: size::<iommufd::iommu_ioas_unmap>(),
            ioas_id: self.id,
            iova,
            length: len,
        };
        // SAFETY: its structure, with no address in it.
        unsafe { call::<IOAS_UNMAP, _>(self.iommufd.as_fd(), &mut command) }?;
        Ok(command.length)
    }
}

impl Calls for IoasFile {
    #[inline]
    unsafe fn map(&self, address: u64, len: u64, iova: u64) -> io::Result<()> {
        let mut command = iommufd::iommu_ioas_map_file {
            size: size::<iommufd::iommu_ioas_map_file>(),
            flags: FLAGS,
            ioas_id: self.ioas.id,
            fd: std::os::fd::AsRawFd::as_raw_fd(&self.file),
            start: offset(&self.memory, address),
            length: len,
            iova,
        };
        // SAFETY: its structure, with no address in it; the kernel holds the file, and the memory is the caller's, see `memory`.
        unsafe { call::<IOAS_MAP_FILE, _>(self.ioas.iommufd.as_fd(), &mut command) }
    }

    #[inline]
    fn unmap(&self, iova: u64, len: u64) -> io::Result<u64> {
        self.ioas.unmap(iova, len)
    }

    fn memory(&self) -> Option<&Arc<Memory>> {
        Some(&self.memory)
    }
}

impl Calls for Copy {
    #[inline]
    unsafe fn map(&self, address: u64, len: u64, iova: u64) -> io::Result<()> {
        let mut command = iommufd::iommu_ioas_copy {
            size: size::<iommufd::iommu_ioas_copy>(),
            flags: FLAGS,
            dst_ioas_id: self.ioas.id,
            src_ioas_id: self.ioas.id,
            length: len,
            dst_iova: iova,
            src_iova: self.whole.iova.wrapping_add(offset(&self.whole.memory, address)),
        };
        // SAFETY: its structure, with no address in it; what is there is the caller's memory, see `memory`, mapped as long as `whole` is there.
        unsafe { call::<IOAS_COPY, _>(self.ioas.iommufd.as_fd(), &mut command) }
    }

    #[inline]
    fn unmap(&self, iova: u64, len: u64) -> io::Result<u64> {
        self.ioas.unmap(iova, len)
    }

    fn memory(&self) -> Option<&Arc<Memory>> {
        Some(&self.whole.memory)
    }
}

impl Table for Container {}
impl Table for Ioas {}
impl Table for IoasFile {}
impl Table for Copy {}
