//! The five ways to an address space and a device, behind one face: what the kernel's library calls `iommu_mode`.

use anyhow::{Context as _, Result, bail};
use pci::{Bdf, GroupId, Sysfs};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_core::iommufd::{Ioas, Iommufd, Mapping, Placement};
use vfio_core::{
    Access, Attachment, BoundDevice, CdevFile, Container, ContainerPath, Error, Group, IommuType, Iova, IovaRange,
    LegacyMapping, Memory, MemoryOptions, PageSize, StableMemory, System, VfToken,
};

pub(crate) const READ_WRITE: Access = Access::READ.union(Access::WRITE);

/// A way to an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Type1,
    Type1v2,
    CompatType1,
    CompatType1v2,
    Iommufd,
}

impl Mode {
    /// Those that a kernel has.
    pub(crate) fn all(has_iommufd: bool) -> &'static [Self] {
        const ALL: [Mode; 5] = [
            Mode::Type1,
            Mode::Type1v2,
            Mode::CompatType1,
            Mode::CompatType1v2,
            Mode::Iommufd,
        ];
        if has_iommufd {
            &ALL
        } else {
            const { &[Mode::Type1, Mode::Type1v2] }
        }
    }

    /// The kernel's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Type1 => "vfio_type1_iommu",
            Self::Type1v2 => "vfio_type1v2_iommu",
            Self::CompatType1 => "iommufd_compat_type1",
            Self::CompatType1v2 => "iommufd_compat_type1v2",
            Self::Iommufd => "iommufd",
        }
    }

    /// Whether it is the kernel's type1, which also maps BARs by their addresses.
    pub(crate) fn is_type1(self) -> bool {
        matches!(self, Self::Type1 | Self::Type1v2)
    }

    /// Whether it has the semantics of type1 version 1.
    pub(crate) fn is_version_1(self) -> bool {
        matches!(self, Self::Type1 | Self::CompatType1)
    }
}

/// An address space.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    kind: Kind,
    /// Held while a group joins: the first one brings the IOMMU.
    joining: Arc<Mutex<()>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Container(Container, IommuType),
    Iommufd(Iommufd, Ioas),
}

/// A device in an address space.
#[derive(Debug)]
pub(crate) struct Opened {
    _attachment: Option<Attachment>,
    pub(crate) device: BoundDevice,
}

impl Context {
    pub(crate) fn open(mode: Mode) -> Result<Self> {
        let system = System::host();
        let container = |path, kind| anyhow::Ok(Kind::Container(Container::open(&system, path)?, kind));
        let kind = match mode {
            Mode::Type1 => container(ContainerPath::Vfio, IommuType::Type1)?,
            Mode::Type1v2 => container(ContainerPath::Vfio, IommuType::Type1v2)?,
            Mode::CompatType1 => container(ContainerPath::Iommu, IommuType::Type1)?,
            Mode::CompatType1v2 => container(ContainerPath::Iommu, IommuType::Type1v2)?,
            Mode::Iommufd => {
                let iommufd = Iommufd::open(&system)?;
                let ioas = iommufd.alloc_ioas()?;
                Kind::Iommufd(iommufd, ioas)
            }
        };
        Ok(Self {
            kind,
            joining: Arc::default(),
        })
    }

    /// Opens a device and puts it into the address space.
    pub(crate) fn device(&self, bdf: Bdf) -> Result<Opened> {
        let device = self.device_with(bdf, None)??;
        let attachment = match &self.kind {
            Kind::Container(..) => None,
            Kind::Iommufd(_, ioas) => Some(device.attach(ioas, None)?),
        };
        Ok(Opened {
            _attachment: attachment,
            device,
        })
    }

    /// Opens a device with a VF token; the inner result is that of the call that checks it.
    pub(crate) fn device_with(&self, bdf: Bdf, token: Option<VfToken>) -> Result<Result<BoundDevice, Error>> {
        match &self.kind {
            Kind::Container(container, kind) => {
                let _joining = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
                let group = Group::open(&System::host(), group_of(bdf)?)?;
                let attached = container.add(&group)?;
                // A second group finds the IOMMU set.
                if container.info().is_err() {
                    container.set_iommu(*kind)?;
                }
                Ok(attached.device(bdf, token))
            }
            Kind::Iommufd(iommufd, _) => {
                let cdev = CdevFile::open_bdf(&System::host(), &Sysfs::host(), bdf)?;
                Ok(cdev.bind(iommufd, token))
            }
        }
    }

    pub(crate) fn map(&self, memory: Arc<dyn StableMemory>, part: Range<usize>, iova: Iova) -> Result<Mapped, Error> {
        Ok(match &self.kind {
            Kind::Container(container, _) => Mapped::Legacy(container.map(memory, part, iova, READ_WRITE)?),
            Kind::Iommufd(_, ioas) => Mapped::Iommufd(ioas.map(memory, part, Placement::Fixed(iova), READ_WRITE)?),
        })
    }

    /// Unmaps what lies in a range.
    pub(crate) fn unmap(&self, range: IovaRange) -> Result<u64, Error> {
        match &self.kind {
            Kind::Container(container, _) => container.unmap(range),
            Kind::Iommufd(_, ioas) => ioas.unmap(range),
        }
    }

    pub(crate) fn unmap_all(&self) -> Result<u64, Error> {
        match &self.kind {
            Kind::Container(container, _) => container.unmap_all(),
            Kind::Iommufd(_, ioas) => ioas.unmap(IovaRange::ALL),
        }
    }

    /// Where memory may be mapped.
    pub(crate) fn ranges(&self) -> Result<Vec<IovaRange>> {
        let ranges = match &self.kind {
            Kind::Container(container, _) => container.info()?.iova_ranges.context("a kernel that tells no ranges")?,
            Kind::Iommufd(_, ioas) => ioas.iova_ranges()?.ranges,
        };
        let sorted = ranges.is_sorted_by(|a, b| a.last() < b.start());
        if ranges.is_empty() || !sorted {
            bail!("ranges that are none, or overlap: {ranges:?}");
        }
        Ok(ranges)
    }

    /// A place for `len` bytes, at a multiple of them, behind the first `skip` of such places.
    pub(crate) fn place(&self, len: u64, skip: u64) -> Result<Iova> {
        let fits = |range: &IovaRange| {
            let start = range.start().0.checked_next_multiple_of(len)?;
            let start = start.checked_add(skip.checked_mul(len)?)?;
            range
                .contains(&IovaRange::new(Iova(start), len)?)
                .then_some(Iova(start))
        };
        self.ranges()?
            .iter()
            .find_map(fits)
            .with_context(|| format!("no place for {len:#x} bytes"))
    }

    /// Memory of its own, mapped. Lengths that differ lie at places that do not overlap.
    pub(crate) fn dma(&self, len: u64, pages: PageSize) -> Result<DmaMemory> {
        let options = MemoryOptions {
            pages,
            ..MemoryOptions::default()
        };
        let memory = Arc::new(Memory::new(usize::try_from(len)?, options)?);
        // Behind the places of all shorter ones.
        let mapped = self.map(memory.clone(), 0..memory.len(), self.place(len, 1)?)?;
        Ok(DmaMemory { mapped, memory })
    }
}

/// A mapping of either kind.
#[derive(Debug)]
pub(crate) enum Mapped {
    Legacy(LegacyMapping),
    Iommufd(Mapping),
}

impl Mapped {
    pub(crate) fn range(&self) -> IovaRange {
        match self {
            Self::Legacy(mapping) => mapping.range(),
            Self::Iommufd(mapping) => mapping.range(),
        }
    }

    pub(crate) fn unmap(self) -> Result<(), Error> {
        match self {
            Self::Legacy(mapping) => mapping.unmap(),
            Self::Iommufd(mapping) => mapping.unmap(),
        }
    }
}

/// Memory that devices reach.
#[derive(Debug)]
pub(crate) struct DmaMemory {
    mapped: Mapped,
    memory: Arc<Memory>,
}

impl DmaMemory {
    pub(crate) fn iova(&self) -> Iova {
        self.mapped.range().start()
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// The IOMMU group of a function.
pub(crate) fn group_of(bdf: Bdf) -> Result<GroupId> {
    let group = crate::machine::link(&bdf.to_string(), "iommu_group").with_context(|| format!("{bdf} has no group"))?;
    Ok(GroupId(group.parse()?))
}
