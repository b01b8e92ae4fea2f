//! Page tables of the hardware (`hw_pagetable.c`).

use super::context::{Context, Env, Kind};
use super::pages::PAGE;
use crate::sys::Result;
use crate::sys::iommufd::{HwInfo, HwptAlloc, Id};
use iommufd_bindings::iommufd as uapi;
use rustix::io::Errno;
use std::collections::BTreeMap;

pub(crate) const NEST_PARENT: u32 = uapi::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT;
pub(crate) const DIRTY_TRACKING: u32 = uapi::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
pub(crate) const PASID: u32 = uapi::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID;

/// A page table.
#[derive(Debug)]
pub(crate) struct Hwpt {
    pub(crate) parent: Parent,
    pub(crate) flags: u32,
    pub(crate) fault: Option<Id>,
    /// Made by an attach to an IOAS, ended by the last detach.
    pub(crate) automatic: bool,
    /// A page table that no IOMMU walks.
    pub(crate) noiommu: bool,
    /// Entries of the table through which was written, while that is tracked: first address and last.
    pub(crate) dirty: Option<BTreeMap<u64, u64>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Parent {
    Ioas(Id),
    Hwpt(Id),
    Viommu { viommu: Id, hwpt: Id },
}

impl Hwpt {
    pub(crate) fn ioas(&self) -> Option<Id> {
        match self.parent {
            Parent::Ioas(ioas) => Some(ioas),
            Parent::Hwpt(_) | Parent::Viommu { .. } => None,
        }
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

impl Context {
    /// A device writes: the hardware marks the entries of the table, of whatever size they are.
    pub(crate) fn mark_written(&mut self, id: Id, page_sizes: u64, iova: u64, last: u64) {
        let table = self.ioas_of(id).and_then(|ioas| self.ioas.get(&ioas));
        let dirty = self.hwpts.get_mut(&id).and_then(|hwpt| hwpt.dirty.as_mut());
        let (Some(table), Some(dirty)) = (table.map(|ioas| &ioas.table), dirty) else {
            return;
        };
        let mut next = Some(iova);
        while let Some(at) = next.filter(|at| *at <= last) {
            let Some((start, end)) = table.leaf(at, page_sizes) else {
                return;
            };
            dirty.insert(start, end);
            next = end.checked_add(1);
        }
    }

    /// The IOAS that a page table translates with in the end; nested ones have no first stage here, addresses pass it unchanged.
    pub(crate) fn ioas_of(&self, hwpt: Id) -> Option<Id> {
        match self.hwpts.get(&hwpt)?.parent {
            Parent::Ioas(ioas) => Some(ioas),
            Parent::Hwpt(parent) | Parent::Viommu { hwpt: parent, .. } => self.hwpts.get(&parent)?.ioas(),
        }
    }

    pub(crate) fn hwpt_alloc(&mut self, env: &mut Env<'_>, request: &HwptAlloc<'_>) -> Result<Id> {
        if (request.kind == 0) != request.data.is_empty() {
            return Err(Errno::INVAL);
        }
        let device = self.devices.get(&request.device).ok_or(Errno::NOENT)?;
        let noiommu = env.slots.get(device.function).is_some_and(|slot| slot.noiommu);
        let hwpt = match self.kind(request.parent) {
            Some(Kind::Ioas) => {
                self.paging_flags(env, request, noiommu)?;
                Hwpt {
                    parent: Parent::Ioas(request.parent),
                    flags: request.flags,
                    fault: None,
                    automatic: false,
                    noiommu,
                    dirty: None,
                }
            }
            Some(Kind::Hwpt | Kind::Viommu) => self.nested(env, request)?,
            _ => return Err(Errno::INVAL),
        };
        let fault = request.fault;
        if fault.is_some_and(|fault| !self.faults.contains_key(&fault)) {
            return Err(Errno::NOENT);
        }
        self.new_hwpt(env, Hwpt { fault, ..hwpt })
    }

    fn paging_flags(&self, env: &Env<'_>, request: &HwptAlloc<'_>, noiommu: bool) -> Result<()> {
        let mut offered = 0;
        if !noiommu {
            offered |= if env.iommu.dirty_tracking { DIRTY_TRACKING } else { 0 };
            offered |= if env.iommu.nesting.is_some() { NEST_PARENT } else { 0 };
            offered |= if env.iommu.pasid_bits > 0 { PASID } else { 0 };
        }
        let refused = request.flags & !offered != 0
            || (request.fault.is_some() && request.flags & NEST_PARENT != 0)
            || !request.data.is_empty();
        if refused { Err(Errno::OPNOTSUPP) } else { Ok(()) }
    }

    fn nested(&self, env: &Env<'_>, request: &HwptAlloc<'_>) -> Result<Hwpt> {
        let kind = env.iommu.nesting.ok_or(Errno::OPNOTSUPP)?;
        if request.flags & !PASID != 0 || request.data.is_empty() {
            return Err(Errno::OPNOTSUPP);
        }
        let parent = match self.viommus.get(&request.parent) {
            Some(viommu) => Parent::Viommu {
                viommu: request.parent,
                hwpt: viommu.hwpt,
            },
            None => {
                let parent = self.hwpts.get(&request.parent).ok_or(Errno::INVAL)?;
                if parent.automatic || !parent.has(NEST_PARENT) || parent.ioas().is_none() {
                    return Err(Errno::INVAL);
                }
                Parent::Hwpt(request.parent)
            }
        };
        if request.kind != kind {
            return Err(Errno::OPNOTSUPP);
        }
        Ok(Hwpt {
            parent,
            flags: request.flags,
            fault: None,
            automatic: false,
            noiommu: false,
            dirty: None,
        })
    }

    /// Enters a page table, and fills it if it is one of an IOAS.
    pub(crate) fn new_hwpt(&mut self, env: &mut Env<'_>, hwpt: Hwpt) -> Result<Id> {
        let (parent, fault) = (hwpt.parent, hwpt.fault);
        let id = self.new_id(Kind::Hwpt);
        self.hwpts.insert(id, hwpt);
        if let Some(fault) = fault {
            self.hold(fault);
        }
        match parent {
            Parent::Ioas(ioas) => {
                self.hold(ioas);
                let aperture = (env.iommu.aperture.start().0, env.iommu.aperture.last().0);
                let smallest = 1_u64 << env.iommu.page_sizes.trailing_zeros().min(63);
                let filled = match self.ioas.get_mut(&ioas) {
                    Some(ioas) => ioas.fill(env.accounts, id, smallest, aperture),
                    None => Err(Errno::NOENT),
                };
                if let Err(errno) = filled {
                    self.remove(env, id);
                    return Err(errno);
                }
            }
            Parent::Hwpt(parent) => self.hold(parent),
            Parent::Viommu { viommu, .. } => self.hold(viommu),
        }
        Ok(id)
    }

    pub(crate) fn hw_info(&self, env: &Env<'_>, device: Id, kind: Option<u32>, to: &mut [u8]) -> Result<HwInfo> {
        let device = self.devices.get(&device).ok_or(Errno::NOENT)?;
        let slot = env.slots.get(device.function).ok_or(Errno::NODEV)?;
        let (own, bytes) = (env.iommu.hw_info.0, &env.iommu.hw_info.1);
        if slot.noiommu || kind.is_some_and(|kind| kind != 0 && kind != own) {
            return Err(Errno::OPNOTSUPP);
        }
        for (at, to) in to.iter_mut().enumerate() {
            *to = bytes.get(at).copied().unwrap_or_default();
        }
        let mut capabilities = 0;
        if env.iommu.dirty_tracking {
            capabilities |= u64::from(uapi::iommufd_hw_capabilities_IOMMU_HW_CAP_DIRTY_TRACKING);
        }
        if !slot.page_requests {
            // Page requests need translation requests, and this machine has no device with one of them only.
            capabilities |= u64::from(uapi::iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED);
        }
        Ok(HwInfo {
            kind: own,
            len: u32::try_from(bytes.len()).map_err(|_error| Errno::OVERFLOW)?,
            capabilities,
            max_pasid_log2: slot.pasid_bits.min(env.iommu.pasid_bits),
        })
    }

    fn tracked(&mut self, id: Id) -> Result<&mut Hwpt> {
        let hwpt = self
            .hwpts
            .get_mut(&id)
            .filter(|hwpt| hwpt.ioas().is_some())
            .ok_or(Errno::NOENT)?;
        if hwpt.has(DIRTY_TRACKING) {
            Ok(hwpt)
        } else {
            Err(Errno::OPNOTSUPP)
        }
    }

    pub(crate) fn set_dirty_tracking(&mut self, id: Id, on: bool) -> Result<()> {
        self.tracked(id)?.dirty = on.then(BTreeMap::new);
        Ok(())
    }

    pub(crate) fn dirty_bitmap(
        &mut self,
        id: Id,
        clear: bool,
        (iova, len): (u64, u64),
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<()> {
        let ioas = self.hwpts.get(&id).and_then(Hwpt::ioas).ok_or(Errno::NOENT)?;
        let alignment = self.ioas(ioas)?.table.alignment();
        let last = iova
            .checked_add(len.checked_sub(1).ok_or(Errno::INVAL)?)
            .ok_or(Errno::OVERFLOW)?;
        let aligned = |to: u64| to != 0 && iova & (to - 1) == 0 && last.wrapping_add(1) & (to - 1) == 0;
        if !aligned(alignment) || !aligned(page_size) {
            return Err(Errno::INVAL);
        }
        let hwpt = self.tracked(id)?;
        let dirty = hwpt.dirty.get_or_insert_default();
        let touched = dirty.range(..=last).filter(|(_, end)| **end >= iova);
        let touched: Vec<_> = touched.map(|(start, end)| (*start, *end)).collect();
        for (start, end) in touched {
            // One that begins before the range is not told, and is cleared all the same (`iova_bitmap_set` has no place for it).
            if start >= iova {
                mark((iova, last), page_size, bitmap, (start, end))?;
            }
            if clear {
                dirty.remove(&start);
            }
        }
        Ok(())
    }

    /// Counts whole entries that make sense; the kernel stops at the first that does not.
    pub(crate) fn invalidate(&self, id: Id, kind: u32, entry_len: u32, entries: &[u8]) -> (u32, Result<()>) {
        let of_hwpt = self.hwpts.get(&id).map(|hwpt| matches!(hwpt.parent, Parent::Hwpt(_)));
        let supported = match (self.kind(id), of_hwpt) {
            (None, _) => Err(Errno::NOENT),
            (Some(Kind::Viommu), _) | (_, Some(true)) => Ok(()),
            (Some(Kind::Hwpt), _) if self.hwpts.get(&id).is_some_and(|hwpt| hwpt.ioas().is_none()) => {
                Err(Errno::OPNOTSUPP)
            }
            _ => Err(Errno::INVAL),
        };
        if entries.is_empty() || supported.is_err() {
            return (0, supported);
        }
        let size = usize::try_from(entry_len).unwrap_or_default();
        if size == 0 || u64::from(entry_len) > PAGE {
            return (0, Err(Errno::INVAL));
        }
        let mut handled = 0;
        for entry in entries.chunks_exact(size) {
            if let Err(errno) = check_entry(kind, entry) {
                return (handled, Err(errno));
            }
            handled += 1;
        }
        (handled, Ok(()))
    }
}

/// Sets the bits of what was written from `first` to `end`, as far as it lies in a bitmap's range.
pub(crate) fn mark(
    (iova, last): (u64, u64),
    page_size: u64,
    bitmap: &mut [u64],
    (first, end): (u64, u64),
) -> Result<()> {
    let (from, to) = (first.max(iova) - iova, end.min(last) - iova);
    for bit in from / page_size..=to / page_size {
        let word = usize::try_from(bit / 64)
            .ok()
            .and_then(|word| bitmap.get_mut(word))
            .ok_or(Errno::FAULT)?;
        *word |= 1 << (bit % 64);
    }
    Ok(())
}

/// An entry of VT-d's first stage is checked as the kernel does (`intel/nested.c`); other kinds are taken as they are.
fn check_entry(kind: u32, entry: &[u8]) -> Result<()> {
    if kind != uapi::iommu_hwpt_invalidate_data_type_IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 {
        return Ok(());
    }
    let word = |at: usize| {
        entry
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_ne_bytes)
    };
    let (Some(address), Some(pages), Some(flags)) = (word(0), word(8), word(16)) else {
        return Err(Errno::INVAL);
    };
    let leaf = u64::from(uapi::iommu_hwpt_vtd_s1_invalidate_flags_IOMMU_VTD_INV_FLAGS_LEAF);
    if flags & !leaf != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let everything = pages == u64::MAX;
    if !address.is_multiple_of(PAGE) || (everything && address != 0) {
        Err(Errno::INVAL)
    } else {
        Ok(())
    }
}
