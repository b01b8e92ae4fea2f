//! Fixture `vfio_compat_mock_domain`: an iommufd that stands in for a type1 container.

use super::access::Random;
use super::bench::{APERTURE, APERTURE_LAST, BUFFER, PAGE, READ_WRITE, huge_memory, memory, range, refused};
use crate::PASSED;
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use std::sync::Arc;
use vfio_core::iommufd::selftest::{MockDevice, MockFlags};
use vfio_core::iommufd::{Ioas, Iommufd};
use vfio_core::{Container, ContainerPath, IommuType, Iova, IovaRange, LegacyMapping, Memory, System};

#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    kind: IommuType,
}

pub(super) const VARIANTS: [Variant; 2] = [
    Variant {
        name: "Ver1v2",
        kind: IommuType::Type1v2,
    },
    Variant {
        name: "Ver1v0",
        kind: IommuType::Type1,
    },
];

struct Bench {
    container: Container,
    iommufd: Iommufd,
    _device: MockDevice,
    ioas: Ioas,
}

impl Bench {
    fn new(variant: &Variant) -> Result<Self> {
        let iommufd = Iommufd::open(&System::host())?;
        let ioas = iommufd.alloc_ioas()?;
        let device = MockDevice::new(&ioas, MockFlags::empty())?;
        iommufd.set_vfio_ioas(&ioas)?;
        let container = Container::from_fd(iommufd.try_clone_fd()?, ContainerPath::Iommu);
        container.set_iommu(variant.kind)?;
        Ok(Self {
            container,
            iommufd,
            _device: device,
            ioas,
        })
    }

    /// Gives the address space back; an iommufd keeps it otherwise.
    fn close(self) -> Result<Outcome> {
        self.iommufd.clear_vfio_ioas()?;
        PASSED
    }

    fn map(&self, memory: &Arc<Memory>, start: u64, len: u64, iova: Iova) -> Result<LegacyMapping> {
        let part = usize::try_from(start)?..usize::try_from(start + len)?;
        Ok(self.container.map(memory.clone(), part, iova, READ_WRITE)?)
    }
}

pub(super) fn simple_close(variant: &Variant) -> Result<Outcome> {
    Bench::new(variant)?.close()
}

pub(super) fn option_huge_pages(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let huge = bench.ioas.huge_pages()?;
    ensure!(huge == (variant.kind == IommuType::Type1v2), "huge pages: {huge}");
    bench.close()
}

/// The kernel's case asks with every length of the answer; here the library asks, and reads what it gets.
pub(super) fn get_info(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let info = bench.container.info()?;
    let whole = IovaRange::from_bounds(APERTURE, APERTURE_LAST).context("the aperture")?;
    ensure!(info.iova_ranges.as_deref() == Some(&[whole]), "{:?}", info.iova_ranges);
    ensure!(
        info.granule().is_power_of_two() && info.granule() <= PAGE,
        "pages of {}",
        info.granule()
    );
    bench.close()
}

pub(super) fn map(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let memory = memory(BUFFER)?;
    let whole = range(APERTURE, BUFFER)?;
    let mapping = bench.map(&memory, 0, BUFFER, APERTURE)?;
    ensure!(bench.container.unmap(whole)? == BUFFER);
    ensure!(bench.container.unmap(whole)? == 0, "unmapping nothing is no error");
    drop(mapping);
    let mapping = bench.map(&memory, 0, BUFFER, APERTURE)?;
    ensure!(bench.container.unmap_all()? == BUFFER);
    drop(mapping);

    let pages = 0..BUFFER / PAGE;
    let mut mappings = pages
        .map(|page| bench.map(&memory, page * PAGE, PAGE, Iova(APERTURE.0 + page * PAGE)))
        .collect::<Result<Vec<_>>>()?;
    let mut random = Random(1);
    while !mappings.is_empty() {
        let place = random.next() % mappings.len() as u64;
        mappings.swap_remove(usize::try_from(place)?).unmap()?;
    }
    bench.close()
}

/// Version 1 may unmap a part of a mapping, and cuts it. The library's guards are of whole mappings, so it refuses in both versions, as
/// the kernel does in version 2.
pub(super) fn huge_map(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let memory = huge_memory(4 << 20)?;
    let len = memory.len() as u64;
    let mapping = bench.map(&memory, 0, len, APERTURE)?;
    let part = len / 16;
    for n in 0..16 {
        refused(
            bench.container.unmap(range(Iova(APERTURE.0 + n * part), part)?),
            Errno::NOENT,
        )?;
    }
    mapping.unmap()?;
    bench.close()
}
