//! The same by other crates: `vfio-ioctls` and `iommufd-ioctls`, as their users call them.

use crate::Table;
use crate::ioctl::size;
use crate::sealed::Calls;
use iommufd_bindings as abi;
use iommufd_ioctls::IommuFd;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd, VfioOps};

/// `VFIO_PCI_CONFIG_REGION_INDEX`.
const CONFIG: u32 = 7;
/// The command register (PCIe 6.0 §7.5.1.1.3), and its Memory Space Enable.
const COMMAND: u64 = 4;
const MEMORY_SPACE: u16 = 1 << 1;

/// A container or an IOAS of `vfio-ioctls`, with a function of its own.
pub struct VfioIoctls {
    device: VfioDevice,
    ops: Arc<dyn VfioOps>,
}

/// An IOAS by its number, mapped by `iommufd-ioctls`.
pub struct IommufdIoctls {
    iommufd: IommuFd,
    id: u32,
}

impl VfioIoctls {
    /// Opens a function by its directory in `/sys`, in a container of type1 version 2. That no group of it is open is the caller's to see.
    ///
    /// # Errors
    ///
    /// What `vfio-ioctls` says.
    pub fn container(function: &Path) -> io::Result<Self> {
        Self::open(function, Arc::new(VfioContainer::new(None).map_err(io::Error::other)?))
    }

    /// Opens a function by its directory in `/sys`, attached to an IOAS of its own in an iommufd of its own.
    ///
    /// # Errors
    ///
    /// What `vfio-ioctls` and `iommufd-ioctls` say.
    pub fn iommufd(function: &Path) -> io::Result<Self> {
        let iommufd = Arc::new(IommuFd::new().map_err(io::Error::other)?);
        let ioas = VfioIommufd::new(iommufd, None, None).map_err(io::Error::other)?;
        Self::open(function, Arc::new(ioas))
    }

    fn open(function: &Path, ops: Arc<dyn VfioOps>) -> io::Result<Self> {
        let device = VfioDevice::new(function, Arc::clone(&ops), true).map_err(io::Error::other)?;
        Ok(Self { device, ops })
    }

    /// Lets the function decode memory, and reads the first register of its first BAR.
    #[must_use]
    pub fn first_register(&self) -> u32 {
        let mut command = [0; 2];
        self.device.region_read(CONFIG, &mut command, COMMAND);
        let decodes = u16::from_le_bytes(command) | MEMORY_SPACE;
        self.device.region_write(CONFIG, &decodes.to_le_bytes(), COMMAND);
        let mut register = [0; 4];
        self.device.region_read(0, &mut register, 0);
        u32::from_le_bytes(register)
    }
}

impl IommufdIoctls {
    /// An IOAS that there is.
    #[must_use]
    pub fn new(iommufd: OwnedFd, id: u32) -> Self {
        Self {
            iommufd: IommuFd::new_from_fd(File::from(iommufd)),
            id,
        }
    }
}

/// For a length or an address that no memory of this process has.
fn too_large(_: std::num::TryFromIntError) -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

fn pointer(address: u64) -> io::Result<*mut u8> {
    Ok(std::ptr::with_exposed_provenance_mut(
        usize::try_from(address).map_err(too_large)?,
    ))
}

impl Calls for VfioIoctls {
    #[inline]
    unsafe fn map(&self, address: u64, len: u64, iova: u64) -> io::Result<()> {
        let (len, address) = (usize::try_from(len).map_err(too_large)?, pointer(address)?);
        // SAFETY: promised by the caller.
        unsafe { self.ops.vfio_dma_map(iova, len, address) }.map_err(io::Error::other)
    }

    /// It compares the length itself.
    #[inline]
    fn unmap(&self, iova: u64, len: u64) -> io::Result<u64> {
        let bytes = usize::try_from(len).map_err(too_large)?;
        self.ops.vfio_dma_unmap(iova, bytes).map_err(io::Error::other)?;
        Ok(len)
    }
}

impl Calls for IommufdIoctls {
    #[inline]
    unsafe fn map(&self, address: u64, len: u64, iova: u64) -> io::Result<()> {
        let command = abi::iommu_ioas_map {
            size: size::<abi::iommu_ioas_map>(),
            flags: abi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
                | abi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE
                | abi::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
            ioas_id: self.id,
            user_va: address,
            length: len,
            iova,
            ..Default::default()
        };
        self.iommufd.map_iommu_ioas(&command).map_err(io::Error::other)
    }

    #[inline]
    fn unmap(&self, iova: u64, len: u64) -> io::Result<u64> {
        let mut command = abi::iommu_ioas_unmap {
            size: size::<abi::iommu_ioas_unmap>(),
            ioas_id: self.id,
            iova,
            length: len,
        };
        self.iommufd.unmap_iommu_ioas(&mut command).map_err(io::Error::other)?;
        Ok(command.length)
    }
}

impl Table for VfioIoctls {}
impl Table for IommufdIoctls {}

impl fmt::Debug for VfioIoctls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioIoctls").finish_non_exhaustive()
    }
}

impl fmt::Debug for IommufdIoctls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IommufdIoctls")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
