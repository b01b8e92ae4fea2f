//! Fixture `iommufd_ioas`, part 3: accesses of a kernel driver to an address space, as those of an emulated device (mdev).

use super::bench::{APERTURE, BUFFER, Bench, MOCK_PAGE, PAGE, Variant, check_map, huge_memory, map, range, refused};
use crate::PASSED;
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use vfio_core::iommufd::selftest::{MockAccess, MockDevice, MockFlags};
use vfio_core::iommufd::{Mapping, Placement};
use vfio_core::{Iova, Memory};

pub(super) fn access_domain_destory(variant: &Variant) -> Result<Outcome> {
    let mut bench = Bench::new(variant)?;
    let memory = huge_memory(4 << 20)?;
    memory.populate(0..memory.len())?;
    let _mapping = map(&bench.ioas, &memory, 0, 4 << 20, Placement::Fixed(bench.base))?;
    let access = MockAccess::new(&bench.ioas, true)?;
    let second = range(bench.at(PAGE), PAGE)?;
    let pinned = access.pin(second, false, Some((&*memory, usize::try_from(PAGE)?)))?;
    // The pages of the table go, of the middle of a huge page one stays.
    bench.devices.pop();
    drop(pinned);
    PASSED
}

pub(super) fn access_pin(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let access = MockAccess::new(&bench.ioas, true)?;
    for pages in 1..BUFFER / PAGE {
        let part = range(APERTURE, pages * PAGE)?;
        let mapping = bench.map_at(BUFFER, APERTURE)?;
        let pin = || access.pin(part, false, Some((&*bench.memory, 0)));
        drop(pin()?);
        let (first, second) = (pin()?, pin()?);
        drop((second, first));

        let pinned = pin()?;
        let device = MockDevice::new(&bench.ioas, MockFlags::empty())?;
        check_map(&device, &mapping, &bench.memory, 0)?;
        drop(device);
        drop(pinned);
        mapping.unmap()?;
    }
    PASSED
}

/// An unmap asks whoever holds pages to let them go.
pub(super) fn access_pin_unmap(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let access = MockAccess::new(&bench.ioas, true)?;
    let mapping = bench.map_at(BUFFER, APERTURE)?;
    let pinned = access.pin(mapping.range(), false, Some((&*bench.memory, 0)))?;
    mapping.unmap()?;
    refused(access.pin(range(APERTURE, PAGE)?, false, None), Errno::NOENT)?;
    drop(pinned);
    PASSED
}

/// Every place around the border of two pages and every length; then all of it.
pub(super) fn read_and_write(access: &MockAccess, memory: &Memory, start: Iova, slow: bool) -> Result<()> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut content = vec![0; memory.len()];
    random.fill(&mut content);
    memory.write(0, &content).context("inside")?;
    let page = usize::try_from(PAGE)?;
    for at in page - 50..page + 50 {
        let iova = Iova(start.0 + at as u64);
        for len in 1..64 {
            let mut found = vec![0; len];
            access.read(iova, &mut found, slow)?;
            let mut there = vec![0; len];
            memory.read(at, &mut there).context("inside")?;
            ensure!(found == there, "{len} bytes read at {iova}");

            random.fill(&mut found);
            access.write(iova, &found, slow)?;
            memory.read(at, &mut there).context("inside")?;
            ensure!(found == there, "{len} bytes written at {iova}");
        }
    }
    let mut found = vec![0; memory.len()];
    access.read(start, &mut found, slow)?;
    memory.read(0, &mut content).context("inside")?;
    ensure!(found == content, "all of it");
    Ok(())
}

pub(super) fn access_rw(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let access = MockAccess::new(&bench.ioas, false)?;
    let mapping: Mapping = bench.map(BUFFER)?;
    for slow in [false, true] {
        read_and_write(&access, &bench.memory, mapping.iova(), slow).with_context(|| format!("slow path: {slow}"))?;
    }
    mapping.unmap()?;
    PASSED
}

pub(super) fn access_rw_unaligned(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let access = MockAccess::new(&bench.ioas, false)?;
    let mapping = bench.map_at(BUFFER, bench.at(MOCK_PAGE))?;
    read_and_write(&access, &bench.memory, mapping.iova(), false)?;
    mapping.unmap()?;
    PASSED
}

/// xorshift64: content that repeats in every run and nowhere in a run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_ne_bytes();
            chunk.iter_mut().zip(random).for_each(|(to, from)| *to = from);
        }
    }
}
