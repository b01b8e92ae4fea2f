//! A container of its own, type 1 (`vfio_iommu_type1.c`).

use super::container::ContainerFile;
use crate::Access;
use crate::fake::iommu::{Account, Accounts, PAGE, Pages, Source};
use crate::fake::options::Iommu;
use crate::sys::Result;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use vfio_bindings::bindings::vfio as uapi;

/// What is known of an open `/dev/vfio/vfio`.
#[derive(Debug)]
pub(crate) struct Type1 {
    pub(crate) file: Weak<ContainerFile>,
    pub(crate) groups: BTreeSet<u32>,
    pub(crate) noiommu: bool,
    kind: Option<u32>,
    mappings: BTreeMap<u64, Mapping>,
    limit: u32,
    tracking: bool,
}

/// A mapping.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) last: u64,
    pub(crate) pages: Arc<Pages>,
    pub(crate) access: Access,
}

impl Type1 {
    pub(crate) fn new(file: Weak<ContainerFile>, limit: u32) -> Self {
        Self {
            file,
            groups: BTreeSet::new(),
            noiommu: false,
            kind: None,
            mappings: BTreeMap::new(),
            limit,
            tracking: false,
        }
    }

    /// Whether an IOMMU was chosen.
    pub(crate) fn is_set(&self) -> bool {
        self.kind.is_some()
    }

    pub(crate) fn set_iommu(&mut self, kind: u32) -> Result<()> {
        if self.groups.is_empty() || self.kind.is_some() {
            return Err(Errno::INVAL);
        }
        match kind {
            uapi::VFIO_TYPE1_IOMMU | uapi::VFIO_TYPE1v2_IOMMU if !self.noiommu => {}
            uapi::VFIO_NOIOMMU_IOMMU if self.noiommu => {}
            _ => return Err(Errno::NODEV),
        }
        self.kind = Some(kind);
        Ok(())
    }

    /// The last group left: nothing remains.
    pub(crate) fn end(&mut self, accounts: &mut Accounts) {
        self.unmap_all(accounts);
        self.kind = None;
        self.tracking = false;
        self.noiommu = false;
    }

    fn translated(&self) -> Result<()> {
        match self.kind {
            None => Err(Errno::INVAL),
            Some(uapi::VFIO_NOIOMMU_IOMMU) => Err(Errno::NOTTY),
            Some(_) => Ok(()),
        }
    }

    fn v2(&self) -> bool {
        self.kind == Some(uapi::VFIO_TYPE1v2_IOMMU)
    }

    pub(crate) fn map(
        &mut self,
        accounts: &mut Accounts,
        iommu: &Iommu,
        (source, len): (Source, u64),
        iova: u64,
        access: Access,
    ) -> Result<()> {
        self.translated()?;
        let less_one = len.checked_sub(1).ok_or(Errno::INVAL)?;
        let last = iova.checked_add(less_one).ok_or(Errno::OVERFLOW)?;
        if access.is_empty() {
            return Err(Errno::INVAL);
        }
        let mask = page_size(iommu) - 1;
        let pages = Pages::new(accounts, source, len, access.contains(Access::WRITE), Account::Process);
        if (len | iova | pages.head()) & mask != 0 {
            return Err(Errno::INVAL);
        }
        if self.overlaps(iova, last) {
            return Err(Errno::EXIST);
        }
        if self.available() == 0 {
            return Err(Errno::NOSPC);
        }
        if !ranges(iommu).iter().any(|range| range.0 <= iova && last <= range.1) {
            return Err(Errno::INVAL);
        }
        accounts.pin(&pages, pages.head(), len)?;
        self.mappings.insert(iova, Mapping { last, pages, access });
        Ok(())
    }

    /// Version 1 unmaps what begins inside, and that as a whole; version 2 refuses to cut.
    pub(crate) fn unmap(
        &mut self,
        accounts: &mut Accounts,
        iommu: &Iommu,
        iova: u64,
        len: u64,
        bitmap: Option<(u64, &mut [u64])>,
    ) -> Result<u64> {
        self.translated()?;
        let mask = page_size(iommu) - 1;
        if iova & mask != 0 || len == 0 || len & mask != 0 {
            return Err(Errno::INVAL);
        }
        let last = iova.checked_add(len - 1).ok_or(Errno::OVERFLOW)?;
        if bitmap
            .as_ref()
            .is_some_and(|(size, _)| !self.tracking || *size != mask + 1)
        {
            return Err(Errno::INVAL);
        }
        if self.v2() && self.cuts(iova, last) {
            return Err(Errno::INVAL);
        }
        // In version 1 a request that begins inside a mapping ends there, and is no error.
        if !self.v2() && self.find(iova).is_some_and(|(start, _)| start != iova) {
            return Ok(0);
        }
        if let Some((_, bitmap)) = bitmap {
            self.report((iova, last), mask + 1, bitmap)?;
        }
        let starts: Vec<u64> = self.mappings.range(iova..=last).map(|(start, _)| *start).collect();
        let mut bytes = 0;
        for start in starts {
            bytes += self.remove(accounts, start);
        }
        Ok(bytes)
    }

    pub(crate) fn unmap_all(&mut self, accounts: &mut Accounts) -> u64 {
        let starts: Vec<u64> = self.mappings.keys().copied().collect();
        starts.into_iter().map(|start| self.remove(accounts, start)).sum()
    }

    pub(crate) fn unmap_everything(&mut self, accounts: &mut Accounts) -> Result<u64> {
        self.translated()?;
        Ok(self.unmap_all(accounts))
    }

    fn remove(&mut self, accounts: &mut Accounts, start: u64) -> u64 {
        let Some(mapping) = self.mappings.remove(&start) else {
            return 0;
        };
        let len = mapping.last - start + 1;
        accounts.unpin(&mapping.pages, mapping.pages.head(), len);
        len
    }

    pub(crate) fn set_tracking(&mut self, on: bool) -> Result<()> {
        self.translated()?;
        if !self.v2() {
            return Err(Errno::ACCESS);
        }
        self.tracking = on;
        Ok(())
    }

    pub(crate) fn dirty(&self, iommu: &Iommu, iova: u64, len: u64, page: u64, bitmap: &mut [u64]) -> Result<()> {
        self.translated()?;
        if !self.v2() {
            return Err(Errno::ACCESS);
        }
        let less_one = len.checked_sub(1).ok_or(Errno::INVAL)?;
        let last = iova.checked_add(less_one).ok_or(Errno::OVERFLOW)?;
        let size = page_size(iommu);
        let aligned = (iova | len) & (size - 1) == 0;
        if page != size || !aligned || !self.tracking || self.cuts(iova, last) {
            return Err(Errno::INVAL);
        }
        self.report((iova, last), page, bitmap)
    }

    /// Whatever is pinned may have been written: every mapped page is dirty.
    fn report(&self, (iova, last): (u64, u64), page: u64, bitmap: &mut [u64]) -> Result<()> {
        for (start, mapping) in self.mappings.range(iova..=last) {
            for bit in (start - iova) / page..=(mapping.last.min(last) - iova) / page {
                let word = usize::try_from(bit / 64)
                    .ok()
                    .and_then(|word| bitmap.get_mut(word))
                    .ok_or(Errno::INVAL)?;
                *word |= 1 << (bit % 64);
            }
        }
        Ok(())
    }

    pub(crate) fn find(&self, iova: u64) -> Option<(u64, &Mapping)> {
        let (start, mapping) = self.mappings.range(..=iova).next_back()?;
        (mapping.last >= iova).then_some((*start, mapping))
    }

    fn overlaps(&self, iova: u64, last: u64) -> bool {
        self.mappings
            .range(..=last)
            .next_back()
            .is_some_and(|(_, mapping)| mapping.last >= iova)
    }

    fn cuts(&self, iova: u64, last: u64) -> bool {
        let before = self.find(iova).is_some_and(|(start, _)| start != iova);
        before || self.find(last).is_some_and(|(_, mapping)| mapping.last != last)
    }

    fn available(&self) -> u32 {
        self.limit
            .saturating_sub(u32::try_from(self.mappings.len()).unwrap_or(u32::MAX))
    }

    /// `struct vfio_iommu_type1_info`.
    pub(crate) fn info(&self, iommu: &Iommu) -> Result<Vec<u8>> {
        self.translated()?;
        let mut chain = super::info::Chain::new(INFO_LEN);
        let mut migration = vec![0; 8];
        migration.extend(page_size(iommu).to_ne_bytes());
        // Bitmaps of up to 256 MiB.
        migration.extend((1_u64 << 28).to_ne_bytes());
        chain.add(uapi::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, &migration);
        chain.add(uapi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, &self.available().to_ne_bytes());
        add_ranges(&mut chain, &ranges(iommu));
        Ok(info(iommu.page_sizes, &chain))
    }

    /// What is mapped, in words.
    pub(crate) fn describe(&self) -> impl Iterator<Item = String> {
        self.mappings
            .iter()
            .map(|(start, mapping)| format!("mapping {start:#x}-{:#x} in a container", mapping.last))
    }
}

/// Bytes of `struct vfio_iommu_type1_info`.
pub(crate) const INFO_LEN: u32 = 24;

pub(crate) fn info(page_sizes: u64, chain: &super::info::Chain) -> Vec<u8> {
    let flags = uapi::VFIO_IOMMU_INFO_PGSIZES | uapi::VFIO_IOMMU_INFO_CAPS;
    let mut bytes: Vec<u8> = [chain.len(), flags].into_iter().flat_map(u32::to_ne_bytes).collect();
    bytes.extend(page_sizes.to_ne_bytes());
    bytes.extend([chain.first(), 0].into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend(chain.bytes());
    bytes
}

pub(crate) fn add_ranges(chain: &mut super::info::Chain, ranges: &[(u64, u64)]) {
    let count = u32::try_from(ranges.len()).unwrap_or_default();
    let mut body: Vec<u8> = [count, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    body.extend(
        ranges
            .iter()
            .flat_map(|range| [range.0, range.1])
            .flat_map(u64::to_ne_bytes),
    );
    chain.add(uapi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, &body);
}

fn page_size(iommu: &Iommu) -> u64 {
    (1_u64 << iommu.page_sizes.trailing_zeros().min(63)).min(PAGE)
}

/// The aperture without what is reserved.
pub(crate) fn ranges(iommu: &Iommu) -> Vec<(u64, u64)> {
    let mut reserved: Vec<(u64, u64)> = iommu
        .reserved
        .iter()
        .map(|range| (range.start().0, range.last().0))
        .collect();
    reserved.sort_unstable();
    let mut ranges = Vec::new();
    let mut next = Some(iommu.aperture.start().0);
    let end = iommu.aperture.last().0;
    for (start, last) in reserved {
        if let Some(from) = next.filter(|from| *from < start && start <= end) {
            ranges.push((from, start - 1));
        }
        next = next.and_then(|from| Some(from.max(last.checked_add(1)?)));
    }
    ranges.extend(next.filter(|from| *from <= end).map(|from| (from, end)));
    ranges
}
