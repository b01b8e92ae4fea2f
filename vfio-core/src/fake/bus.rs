//! What a device can do to the machine: DMA, interrupts, page requests.

use super::iommu::{Fault, PAGE, Pages, Source};
use super::state::{Shared, State};
use crate::Iova;
use pci::Bdf;
use std::ops::Range;
use std::sync::{Arc, TryLockError};

/// The bus as one device sees it.
#[derive(Debug, Clone, Copy)]
pub struct Bus<'a> {
    shared: &'a Shared,
    function: usize,
}

/// DMA that did not reach memory, as the IOMMU reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("DMA {} of {device} at {iova}: {reason}", if *.write { "write" } else { "read" })]
pub struct DmaFault {
    /// Who did it.
    pub device: Bdf,
    /// The PASID in the request.
    pub pasid: Option<u32>,
    /// The first address that could not be reached.
    pub iova: Iova,
    /// Whether it was a write.
    pub write: bool,
    /// Why.
    pub reason: FaultReason,
}

/// Why DMA did not reach memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultReason {
    /// Bus mastering is off in the Command register.
    #[error("the device is no bus master")]
    NotMaster,
    /// The device, or its PASID, uses no page table.
    #[error("nothing is attached")]
    NotAttached,
    /// Nothing is mapped there.
    #[error("not mapped")]
    NotMapped,
    /// The mapping does not allow it.
    #[error("not permitted")]
    NotPermitted,
    /// What was mapped is gone: a revoked dma-buf, a file that was shortened, a device that was removed.
    #[error("gone")]
    Gone,
}

/// A device's wish to have a page mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// The PASID in the request.
    pub pasid: Option<u32>,
    /// Number of the group, 9 bits; its requests are answered together.
    pub group: u16,
    /// The page's address.
    pub iova: Iova,
    /// It wants to read.
    pub read: bool,
    /// It wants to write.
    pub write: bool,
    /// No more requests follow in this group.
    pub last: bool,
}

/// The answer to a group of page requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageResponse {
    /// The PASID of the requests.
    pub pasid: Option<u32>,
    /// Number of the group.
    pub group: u16,
    /// Whether the pages are there now.
    pub success: bool,
}

/// A page request that nobody takes: no page table with a fault queue is attached, or too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes page requests of this device")]
pub struct Refused;

/// A piece of an access: memory and where in it.
pub(super) type Target = (Arc<Pages>, u64, u64);

impl<'a> Bus<'a> {
    pub(super) fn new(shared: &'a Shared, function: usize) -> Self {
        Self { shared, function }
    }

    /// Reads memory.
    ///
    /// # Errors
    ///
    /// The fault, which is also noted in the machine. What lies before it was read.
    pub fn dma_read(&self, iova: Iova, to: &mut [u8]) -> Result<(), DmaFault> {
        self.dma_read_pasid(None, iova, to)
    }

    /// Writes memory.
    ///
    /// # Errors
    ///
    /// The fault, which is also noted in the machine. What lies before it was written.
    pub fn dma_write(&self, iova: Iova, from: &[u8]) -> Result<(), DmaFault> {
        self.dma_write_pasid(None, iova, from)
    }

    /// Reads memory of a process address space.
    ///
    /// # Errors
    ///
    /// As [`dma_read`](Self::dma_read).
    pub fn dma_read_pasid(&self, pasid: Option<u32>, iova: Iova, to: &mut [u8]) -> Result<(), DmaFault> {
        self.dma(pasid, iova, to.len(), false, |pages, at, part| {
            let to = to.get_mut(part).unwrap_or_default();
            match pages.source() {
                Source::Registers { .. } => self.peer(pages, at, Transfer::Read(to)),
                Source::Memory { .. } | Source::File { .. } => pages.read(at, to).is_ok(),
            }
        })
    }

    /// Writes memory of a process address space.
    ///
    /// # Errors
    ///
    /// As [`dma_write`](Self::dma_write).
    pub fn dma_write_pasid(&self, pasid: Option<u32>, iova: Iova, from: &[u8]) -> Result<(), DmaFault> {
        self.dma(pasid, iova, from.len(), true, |pages, at, part| {
            let from = from.get(part).unwrap_or_default();
            match pages.source() {
                Source::Registers { .. } => self.peer(pages, at, Transfer::Write(from)),
                Source::Memory { .. } | Source::File { .. } => pages.write(at, from).is_ok(),
            }
        })
    }

    fn dma(
        &self,
        pasid: Option<u32>,
        iova: Iova,
        len: usize,
        write: bool,
        mut transfer: impl FnMut(&Pages, u64, Range<usize>) -> bool,
    ) -> Result<(), DmaFault> {
        let (targets, mut failure) = {
            let mut state = self.shared.state();
            state.translate(self.shared, self.function, pasid, iova.0, len as u64, write)
        };
        let mut done = 0_usize;
        for (pages, at, len) in targets {
            let part = done..done + usize::try_from(len).unwrap_or_default();
            if !transfer(&pages, at, part.clone()) {
                failure = Some((iova.0.wrapping_add(done as u64), FaultReason::Gone));
                break;
            }
            done = part.end;
        }
        let Some((at, reason)) = failure else { return Ok(()) };
        let device = self.shared.slot(self.function).map(|slot| slot.bdf);
        let fault = DmaFault {
            device: device.unwrap_or(NOBODY),
            pasid,
            iova: Iova(at),
            write,
            reason,
        };
        self.shared.state().faults.push(fault);
        Err(fault)
    }

    /// DMA to another device's registers. A device that is busy with the very access that leads here answers nothing.
    fn peer(&self, pages: &Pages, at: u64, transfer: Transfer<'_>) -> bool {
        let Source::Registers {
            function,
            region,
            ranges,
            start,
            revocations,
        } = pages.source()
        else {
            return false;
        };
        let mut at = start - pages.head() + at;
        let Some(slot) = self.shared.slot(*function) else {
            return false;
        };
        let answers = self
            .shared
            .state()
            .functions
            .get(*function)
            .is_some_and(|function| function.answers_mapped() && function.revocations == *revocations);
        if !answers {
            return false;
        }
        let mut device = match slot.device.try_lock() {
            Ok(device) => device,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let bus = Bus::new(self.shared, *function);
        let mut locate = |len: usize| {
            let offset = locate(ranges, at)?;
            let aligned = offset.is_multiple_of(4) && len >= 4;
            let width = if aligned { 4 } else { 1 };
            at += width;
            Some((offset, width))
        };
        match transfer {
            Transfer::Read(mut to) => {
                while !to.is_empty() {
                    let Some((offset, width)) = locate(to.len()) else {
                        return false;
                    };
                    let value = device
                        .read(*region, offset, if width == 4 { 4 } else { 1 }, &bus)
                        .to_le_bytes();
                    let (now, rest) = to.split_at_mut(usize::try_from(width).unwrap_or(1));
                    for (to, from) in now.iter_mut().zip(value) {
                        *to = from;
                    }
                    to = rest;
                }
            }
            Transfer::Write(mut from) => {
                while !from.is_empty() {
                    let Some((offset, width)) = locate(from.len()) else {
                        return false;
                    };
                    let (now, rest) = from.split_at(usize::try_from(width).unwrap_or(1));
                    let value = now.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                    device.write(*region, offset, if width == 4 { 4 } else { 1 }, value, &bus);
                    from = rest;
                }
            }
        }
        true
    }

    /// Sets the level of the INTx pin.
    pub fn intx(&self, asserted: bool) {
        let mut state = self.shared.state();
        if let Some(function) = state.functions.get_mut(self.function) {
            function.irqs.set_level(asserted, &function.config);
        }
    }

    /// Sends an MSI. Nobody hears it while MSI is off or the vector has no eventfd.
    pub fn msi(&self, vector: u32) {
        self.message(super::vfio::irq::MSI, vector);
    }

    /// Sends an MSI-X message. Nobody hears it while MSI-X is off or the vector has no eventfd.
    pub fn msix(&self, vector: u32) {
        self.message(super::vfio::irq::MSIX, vector);
    }

    fn message(&self, index: u32, vector: u32) {
        let mut state = self.shared.state();
        if let Some(function) = state.functions.get_mut(self.function) {
            // A message is a write of the device to memory.
            if function.config.bus_master() {
                function.irqs.message(index, vector);
            }
        }
    }

    /// Asks for a page. Requests of a group are delivered together, with the last one.
    ///
    /// # Errors
    ///
    /// [`Refused`] at once when nobody can be asked; the whole group is gone then.
    pub fn request_page(&self, request: PageRequest) -> Result<(), Refused> {
        use iommufd_bindings::iommufd as uapi;
        let mut permissions = 0;
        if request.read {
            permissions |= uapi::iommu_hwpt_pgfault_perm_IOMMU_PGFAULT_PERM_READ;
        }
        if request.write {
            permissions |= uapi::iommu_hwpt_pgfault_perm_IOMMU_PGFAULT_PERM_WRITE;
        }
        let fault = Fault {
            pasid: request.pasid,
            group: u32::from(request.group & 0x1ff),
            last: request.last,
            permissions,
            address: request.iova.0 / PAGE * PAGE,
        };
        self.shared
            .state()
            .request_page(self.shared, self.function, fault)
            .map_err(|_error| Refused)
    }

    /// Reports an event to the guest's queue of the device's virtual IOMMU (`IOMMU_VEVENTQ_ALLOC`).
    ///
    /// # Errors
    ///
    /// [`Refused`] when the device has no virtual IOMMU, or that no queue of this kind.
    pub fn report_vevent(&self, kind: u32, data: &[u8]) -> Result<(), Refused> {
        self.shared
            .state()
            .report_vevent(self.function, kind, data)
            .map_err(|_error| Refused)
    }
}

enum Transfer<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

/// Where byte `at` of a dma-buf is in its region.
fn locate(ranges: &[Range<u64>], mut at: u64) -> Option<u64> {
    for range in ranges {
        let len = range.end - range.start;
        if at < len {
            return Some(range.start + at);
        }
        at -= len;
    }
    None
}

/// Stands for a device that is not there.
const NOBODY: Bdf = Bdf::new(pci::Segment(0), pci::RoutingId(0));

impl State {
    /// What a device's access reaches, and where and why it ends early.
    fn translate(
        &mut self,
        shared: &Shared,
        function: usize,
        pasid: Option<u32>,
        iova: u64,
        len: u64,
        write: bool,
    ) -> (Vec<Target>, Option<(u64, FaultReason)>) {
        let mut targets = Vec::new();
        let (mut at, mut left) = (iova, len);
        while left > 0 {
            match self.translate_one(shared, function, pasid, at, left, write) {
                Ok(target) => {
                    at = at.wrapping_add(target.2);
                    left -= target.2;
                    targets.push(target);
                }
                Err(reason) => return (targets, Some((at, reason))),
            }
        }
        (targets, None)
    }
}
