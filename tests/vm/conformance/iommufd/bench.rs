//! What the cases share: an address space with mock devices, memory, and ways to say which answer is the right one.

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use std::fmt::Debug;
use std::sync::Arc;
use vfio_core::iommufd::selftest::{self, MockDevice, MockFlags};
use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, Ioas, IommuDevice, Iommufd, Mapping, Placement};
use vfio_core::{Access, Error, ErrorKind, Iova, IovaRange, Memory, MemoryOptions, PageSize, System};

/// Bytes of a page of this machine.
pub(super) const PAGE: u64 = 4096;
/// Bytes of the mock IOMMU's pages.
pub(super) const MOCK_PAGE: u64 = selftest::PAGE_SIZE;
/// Where the mock IOMMU's addresses begin and end.
pub(super) const APERTURE: Iova = selftest::APERTURE.0;
pub(super) const APERTURE_LAST: Iova = selftest::APERTURE.1;
/// Length of the memory of a [`Bench`].
pub(super) const BUFFER: u64 = 16 * PAGE;
pub(super) const READ_WRITE: Access = Access::READ.union(Access::WRITE);

/// What the kernel's fixture `iommufd_ioas` varies.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) devices: usize,
    pub(super) memory_limit: Option<u32>,
    pub(super) pasid: bool,
}

pub(super) const VARIANTS: [Variant; 4] = [
    Variant {
        name: "no_domain",
        devices: 0,
        memory_limit: None,
        pasid: false,
    },
    Variant {
        name: "mock_domain",
        devices: 1,
        memory_limit: None,
        pasid: true,
    },
    Variant {
        name: "two_mock_domain",
        devices: 2,
        memory_limit: None,
        pasid: false,
    },
    Variant {
        name: "mock_domain_limit",
        devices: 1,
        memory_limit: Some(16),
        pasid: false,
    },
];

/// An address space, its devices and some memory.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) devices: Vec<MockDevice>,
    pub(super) pasid_device: Option<MockDevice>,
    /// Where mappings begin.
    pub(super) base: Iova,
    pub(super) memory: Arc<Memory>,
    pub(super) ioas: Ioas,
    pub(super) iommufd: Iommufd,
}

impl Bench {
    pub(super) fn new(variant: &Variant) -> Result<Self> {
        let iommufd = Iommufd::open(&System::host())?;
        let ioas = iommufd.alloc_ioas()?;
        selftest::set_temp_memory_limit(&iommufd, variant.memory_limit.unwrap_or(65536))?;
        let devices = (0..variant.devices).map(|_| MockDevice::new(&ioas, MockFlags::empty()));
        let devices = devices.collect::<Result<Vec<_>, _>>()?;
        let pasid_device = variant
            .pasid
            .then(|| MockDevice::new(&ioas, MockFlags::PASID))
            .transpose()?;
        Ok(Self {
            base: if variant.devices == 0 { Iova(0) } else { APERTURE },
            devices,
            pasid_device,
            memory: memory(BUFFER)?,
            ioas,
            iommufd,
        })
    }

    /// The last device; where there is none, the case says so.
    pub(super) fn device(&self) -> Option<&MockDevice> {
        self.devices.last()
    }

    /// `offset` bytes behind the base.
    pub(super) fn at(&self, offset: u64) -> Iova {
        Iova(self.base.0 + offset)
    }

    /// Maps the first bytes of the memory at a place.
    pub(super) fn map_at(&self, len: u64, iova: Iova) -> Result<Mapping, Error> {
        map(&self.ioas, &self.memory, 0, len, Placement::Fixed(iova))
    }

    /// Maps the first bytes of the memory somewhere.
    pub(super) fn map(&self, len: u64) -> Result<Mapping, Error> {
        map(&self.ioas, &self.memory, 0, len, Placement::Any)
    }
}

/// A device of another iommufd. The kernel's suite names devices by numbers that are none; here a device is named by holding it, and
/// this is the one that can be held and is none of ours.
pub(super) fn stranger() -> Result<MockDevice> {
    let other = Iommufd::open(&System::host())?;
    Ok(MockDevice::new(&other.alloc_ioas()?, MockFlags::empty())?)
}

/// Anonymous memory.
pub(super) fn memory(len: u64) -> Result<Arc<Memory>> {
    Ok(Arc::new(Memory::new(usize::try_from(len)?, MemoryOptions::default())?))
}

/// Memory on huge pages of 2 MiB, and so at a multiple of them.
pub(super) fn huge_memory(len: u64) -> Result<Arc<Memory>> {
    let options = MemoryOptions {
        pages: PageSize::Huge2M,
        ..MemoryOptions::default()
    };
    Ok(Arc::new(Memory::new(usize::try_from(len)?, options)?))
}

/// Maps a part of memory for reading and writing.
pub(super) fn map(
    ioas: &Ioas,
    memory: &Arc<Memory>,
    start: u64,
    len: u64,
    placement: Placement,
) -> Result<Mapping, Error> {
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
    ioas.map(memory.clone(), start..end, placement, READ_WRITE)
}

/// `len` bytes from `start`.
pub(super) fn range(start: Iova, len: u64) -> Result<IovaRange> {
    IovaRange::new(start, len).context("a range of no addresses")
}

/// A table over an address space.
pub(super) fn over(device: &dyn IommuDevice, ioas: &Ioas, flags: HwptFlags) -> Result<Hwpt, Error> {
    Hwpt::alloc(device, HwptParent::Ioas(ioas), flags, HwptData::None, None)
}

/// A nested table with the mock's own data.
pub(super) fn nested(device: &dyn IommuDevice, parent: HwptParent<'_>, flags: HwptFlags) -> Result<Hwpt, Error> {
    let data = selftest::nested_data(selftest::IOTLB_DEFAULT, false);
    Hwpt::alloc(device, parent, flags, selftest_data(&data), None)
}

pub(super) fn selftest_data(bytes: &[u8]) -> HwptData<'_> {
    HwptData::Raw {
        kind: selftest::HWPT_DATA,
        bytes,
    }
}

/// The device's page table leads from the whole mapping to the memory from `start` on.
pub(super) fn check_map(device: &MockDevice, mapping: &Mapping, memory: &Memory, start: u64) -> Result<()> {
    let len = u64::try_from(mapping.range().len_bytes())?;
    let part = usize::try_from(start)?..usize::try_from(start + len)?;
    selftest::check_map(device.iommufd(), device.hwpt(), mapping.iova(), memory, part)
        .with_context(|| format!("{} of the table is not byte {start} and on", mapping.range()))
}

/// The call must fail as the kernel fails it. An argument that the library sees to be wrong is refused without asking the kernel: that
/// counts as EINVAL, and an address that is not allowed as what the kernel says to that.
pub(super) fn refused<T: Debug>(result: Result<T, Error>, errno: Errno) -> Result<()> {
    let error = match result {
        Ok(value) => bail!("it succeeds with {value:?} where the kernel's own suite gets {errno}"),
        Err(error) => error,
    };
    let is_it = match error.kind {
        ErrorKind::Invalid(_) | ErrorKind::Misaligned { .. } => errno == Errno::INVAL,
        ErrorKind::NotAllowed(_) => matches!(errno, Errno::ADDRINUSE | Errno::NOSPC | Errno::INVAL),
        _ => error.errno() == Some(errno),
    };
    ensure!(
        is_it,
        "{error} ({:?}) where the kernel's own suite gets {errno}",
        error.kind
    );
    Ok(())
}
