//! Fixture `iommufd_mock_domain`: memory of every alignment reaches the page tables of one or two mock devices, and is let go again.

use super::bench::{APERTURE, MOCK_PAGE, PAGE, READ_WRITE, check_map, range, refused};
use crate::PASSED;
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use std::sync::Arc;
use vfio_core::iommufd::selftest::{self, MockAccess, MockDevice, MockFlags};
use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, Ioas, Iommufd, Mapping, Placement};
use vfio_core::{Access, Backing, Error, Memory, MemoryOptions, PageSize, System};

#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    devices: usize,
    huge: bool,
    file: bool,
}

const fn variant(name: &'static str, devices: usize, huge: bool, file: bool) -> Variant {
    Variant {
        name,
        devices,
        huge,
        file,
    }
}

pub(super) const VARIANTS: [Variant; 6] = [
    variant("one_domain", 1, false, false),
    variant("two_domains", 2, false, false),
    variant("one_domain_hugepage", 1, true, false),
    variant("two_domains_hugepage", 2, true, false),
    variant("one_domain_file", 1, false, true),
    variant("one_domain_file_hugepage", 1, true, true),
];

struct Bench {
    devices: Vec<MockDevice>,
    memory: Arc<Memory>,
    ioas: Ioas,
    iommufd: Iommufd,
    variant: Variant,
}

impl Bench {
    fn new(variant: &Variant) -> Result<Self> {
        let iommufd = Iommufd::open(&System::host())?;
        let ioas = iommufd.alloc_ioas()?;
        let devices = (0..variant.devices).map(|_| MockDevice::new(&ioas, MockFlags::empty()));
        let (len, pages) = if variant.huge {
            (4 << 20, PageSize::Huge2M)
        } else {
            (8 << 12, PageSize::Base)
        };
        let options = MemoryOptions {
            backing: if variant.file {
                Backing::Shared
            } else {
                Backing::Anonymous
            },
            pages,
            numa_node: None,
        };
        Ok(Self {
            devices: devices.collect::<Result<_, _>>()?,
            memory: Arc::new(Memory::new(len, options)?),
            ioas,
            iommufd,
            variant: *variant,
        })
    }

    fn map_in(&self, ioas: &Ioas, start: u64, len: u64, placement: Placement) -> Result<Mapping, Error> {
        match self.memory.file() {
            Some(file) if self.variant.file => ioas.map_file(file, start, len, placement, READ_WRITE),
            _ => super::bench::map(ioas, &self.memory, start, len, placement),
        }
    }

    fn map(&self, start: u64, len: u64) -> Result<Mapping, Error> {
        self.map_in(&self.ioas, start, len, Placement::Any)
    }

    /// The pages are in the tables of all devices.
    fn check(&self, mapping: &Mapping, start: u64) -> Result<()> {
        for device in &self.devices {
            check_map(device, mapping, &self.memory, start)?;
        }
        Ok(())
    }

    /// The kernel holds so many references on each whole page of the part.
    fn check_refs(&self, part: std::ops::Range<u64>, refs: u32) -> Result<()> {
        let whole = usize::try_from(part.start / PAGE * PAGE)?..usize::try_from(part.end / PAGE * PAGE)?;
        selftest::check_refs(&self.iommufd, &*self.memory, whole.clone(), refs)
            .with_context(|| format!("{refs} references on {whole:?}"))
    }

    fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Parts of every start and length; of huge pages every start, to the end.
    fn parts(&self) -> Vec<(u64, u64)> {
        let (len, huge) = (self.len(), self.variant.huge);
        let step = if huge { len / 16 } else { MOCK_PAGE };
        let starts = (0..len).step_by(usize::try_from(step).unwrap_or(1));
        starts
            .flat_map(|start| {
                let shortest = if huge { len } else { start + MOCK_PAGE };
                (shortest..=len)
                    .step_by(usize::try_from(MOCK_PAGE).unwrap_or(1))
                    .map(move |end| (start, end - start))
            })
            .collect()
    }
}

pub(super) fn basic(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let len = bench.len();
    let one = bench.map(0, PAGE)?;
    bench.check(&one, 0)?;
    if variant.file {
        let file = memfd_create("conformance", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, len)?;
        let map = |len| bench.ioas.map_file(&file, 0, len, Placement::Any, READ_WRITE);
        refused(map(len + 1), Errno::INVAL)?;
        ftruncate(&file, 0)?;
        refused(map(len), Errno::INVAL)?;
        return PASSED;
    }
    // Memory behind the end of its file: it cannot be had half-way, then not at all.
    let options = MemoryOptions {
        backing: Backing::Shared,
        ..*bench.memory.options()
    };
    let memory = Arc::new(Memory::new(bench.memory.len(), options)?);
    let file = memory.file().context("shared memory has a file")?;
    for left in [len / 2, 0] {
        ftruncate(file, left)?;
        let mapped = super::bench::map(&bench.ioas, &memory, 0, len, Placement::Any);
        refused(mapped, Errno::FAULT).with_context(|| format!("{left} bytes left"))?;
    }
    PASSED
}

/// Memory that was only ever read is the shared page of zeros. Mapped for reading it gets a page of its own, which a later write keeps.
pub(super) fn ro_unshare(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let memory = super::bench::memory(PAGE)?;
    ensure!(memory.read_value::<u8>(0) == Some(0));
    let mapping = bench
        .ioas
        .map(memory.clone(), 0..memory.len(), Placement::Any, Access::READ)?;
    for device in &bench.devices {
        check_map(device, &mapping, &memory, 0)?;
    }
    memory.fill(0, memory.len(), 1).context("inside")?;
    for device in &bench.devices {
        check_map(device, &mapping, &memory, 0).context("after a write")?;
    }
    PASSED
}

pub(super) fn all_aligns(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    bench.check_refs(0..bench.len(), 0)?;
    for (start, len) in bench.parts() {
        let mapping = bench.map(start, len)?;
        bench.check(&mapping, start)?;
        bench.check_refs(start..start + len, 1)?;
        mapping.unmap()?;
    }
    bench.check_refs(0..bench.len(), 0)?;
    PASSED
}

/// The same, and another device comes and goes while the memory is mapped.
pub(super) fn all_aligns_copy(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    bench.check_refs(0..bench.len(), 0)?;
    for (start, len) in bench.parts() {
        let mapping = bench.map(start, len)?;
        let guest = MockDevice::new(&bench.ioas, MockFlags::empty())?;
        bench.check(&mapping, start)?;
        check_map(&guest, &mapping, &bench.memory, start)?;
        bench.check_refs(start..start + len, 1)?;
        drop(guest);
        mapping.unmap()?;
    }
    bench.check_refs(0..bench.len(), 0)?;
    PASSED
}

pub(super) fn user_copy(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let len = bench.len();
    // Pinned in an address space without devices, and copied to the one with devices.
    let first = bench.iommufd.alloc_ioas()?;
    let source = bench.map_in(&first, 0, len, Placement::Any)?;
    let access = MockAccess::new(&first, true)?;
    let pinned = access.pin(source.range(), false, Some((&*bench.memory, 0)))?;
    let copied = bench.ioas.copy(&source, Placement::Fixed(APERTURE), Access::WRITE)?;
    bench.check(&copied, 0)?;

    // The access moves to another address space; what it pinned is let go.
    let second = bench.iommufd.alloc_ioas()?;
    let source_of_second = bench.map_in(&second, 0, len, Placement::Any)?;
    access.replace(&second)?;
    ensure!(bench.ioas.unmap(range(APERTURE, len)?)? == len);
    drop((copied, pinned, source, first));

    let pinned = access.pin(source_of_second.range(), false, Some((&*bench.memory, 0)))?;
    let copied = bench
        .ioas
        .copy(&source_of_second, Placement::Fixed(APERTURE), Access::WRITE)?;
    bench.check(&copied, 0)?;
    drop(pinned);
    drop((access, second));
    PASSED
}

pub(super) fn replace(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let other = bench.iommufd.alloc_ioas()?;
    let [first, ..] = bench.devices.as_slice() else {
        anyhow::bail!("no device")
    };
    let mapping = bench.map_in(&other, 0, PAGE, Placement::Fixed(APERTURE))?;
    first.replace(&other)?;
    check_map(first, &mapping, &bench.memory, 0)?;
    first.replace(&other)?;
    // A table made on purpose, twice, and back.
    let table = Hwpt::alloc(
        first,
        HwptParent::Ioas(&other),
        HwptFlags::empty(),
        HwptData::None,
        None,
    )?;
    first.replace(&table)?;
    first.replace(&table)?;
    check_map(first, &mapping, &bench.memory, 0)?;
    drop(table);
    first.replace(&bench.ioas)?;
    ensure!(
        check_map(first, &mapping, &bench.memory, 0).is_err(),
        "the old address space's memory is still there"
    );
    drop((mapping, other));
    PASSED
}

/// A table of each kind, through which every device is led and back.
pub(super) fn alloc_hwpt(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    for device in &bench.devices {
        let make = |flags| Hwpt::alloc(device, HwptParent::Ioas(&bench.ioas), flags, HwptData::None, None);
        refused(
            make(HwptFlags::from_bits_retain(!HwptFlags::NEST_PARENT.bits())),
            Errno::OPNOTSUPP,
        )?;
        let (plain, parent) = (make(HwptFlags::empty())?, make(HwptFlags::NEST_PARENT)?);
        device.replace(&plain)?;
        device.replace(&parent)?;
        device.replace(&bench.ioas)?;
        drop(parent);
        drop(MockDevice::new(&plain, MockFlags::empty())?);
        drop(plain);
    }
    PASSED
}
