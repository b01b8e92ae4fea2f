//! Bare calls, with structures and numbers of `include/uapi/linux/{vfio,iommufd}.h`: the least that mapping can take.

use crate::Table;
use crate::ioctl::{call, size};
use crate::sealed::Calls;
use iommufd_bindings as iommufd;
use rustix::ioctl::{Opcode, opcode};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use vfio_bindings::bindings::vfio;

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
    /// The iommufd.
    pub iommufd: OwnedFd,
    /// The IOAS.
    pub id: u32,
}

/// An IOAS that maps a file.
#[derive(Debug)]
pub struct IoasFile {
    /// Where.
    pub ioas: Ioas,
    /// What; from its first byte.
    pub file: OwnedFd,
}

/// An IOAS that maps what it maps elsewhere: the pages are pinned already, which leaves the IOMMU's part.
#[derive(Debug)]
pub struct Copy {
    /// Which.
    pub ioas: Ioas,
    /// Where it maps the memory already.
    pub from: u64,
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
    unsafe fn map(&self, _: u64, len: u64, iova: u64) -> io::Result<()> {
        let mut command = iommufd::iommu_ioas_map_file {
            size: size::<iommufd::iommu_ioas_map_file>(),
            flags: FLAGS,
            ioas_id: self.ioas.id,
            fd: std::os::fd::AsRawFd::as_raw_fd(&self.file),
            start: 0,
            length: len,
            iova,
        };
        // SAFETY: its structure, with no address in it; the kernel holds the file.
        unsafe { call::<IOAS_MAP_FILE, _>(self.ioas.iommufd.as_fd(), &mut command) }
    }

    #[inline]
    fn unmap(&self, iova: u64, len: u64) -> io::Result<u64> {
        self.ioas.unmap(iova, len)
    }
}

impl Calls for Copy {
    #[inline]
    unsafe fn map(&self, _: u64, len: u64, iova: u64) -> io::Result<()> {
        let mut command = iommufd::iommu_ioas_copy {
            size: size::<iommufd::iommu_ioas_copy>(),
            flags: FLAGS,
            dst_ioas_id: self.ioas.id,
            src_ioas_id: self.ioas.id,
            length: len,
            dst_iova: iova,
            src_iova: self.from,
        };
        // SAFETY: its structure, with no address in it; the memory is promised by the caller.
        unsafe { call::<IOAS_COPY, _>(self.ioas.iommufd.as_fd(), &mut command) }
    }

    #[inline]
    fn unmap(&self, iova: u64, len: u64) -> io::Result<u64> {
        self.ioas.unmap(iova, len)
    }
}

impl Table for Container {}
impl Table for Ioas {}
impl Table for IoasFile {}
impl Table for Copy {}
