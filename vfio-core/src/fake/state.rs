//! The machine inside: what it is, and what changes while it runs.

use super::bus::{Bus, DmaFault};
use super::device::{Description, Device, Region};
use super::gate::Gate;
use super::iommu::{Accounts, Answer, Context, Env};
use super::options::Iommu;
use super::vfio::{Function, Group, Type1};
use pci::Bdf;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The machine without its handles.
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    pub(super) state: Mutex<State>,
    pub(crate) slots: Vec<Slot>,
    /// Functions with drivers of the host, and their groups.
    pub(crate) bystanders: Vec<(Bdf, u32)>,
    pub(crate) iommu: Iommu,
    pub(crate) mapping_limit: u32,
    pub(crate) iommufd: bool,
    pub(crate) type1: bool,
}

/// A device and where it is.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) bdf: Bdf,
    pub(crate) group: u32,
    pub(crate) noiommu: bool,
    /// The PF, of a VF.
    pub(crate) physical: Option<usize>,
    pub(crate) has_vfs: bool,
    pub(crate) pasid_bits: u8,
    pub(crate) page_requests: bool,
    pub(crate) description: Description,
    pub(crate) device: Mutex<Box<dyn Device>>,
}

/// What changes while the machine runs.
#[derive(Debug, Default)]
pub(crate) struct State {
    last_number: i32,
    last_key: u64,
    pub(crate) contexts: BTreeMap<i32, Context>,
    pub(crate) containers: BTreeMap<i32, Type1>,
    pub(crate) groups: BTreeMap<u32, Group>,
    pub(crate) functions: Vec<Function>,
    /// Open files of devices and groups, by number.
    pub(crate) files: BTreeMap<i32, String>,
    pub(crate) dma_bufs: Vec<DmaBuf>,
    pub(crate) accounts: Accounts,
    pub(crate) answers: Vec<Answer>,
    pub(crate) faults: Vec<DmaFault>,
    pub(crate) abandoned: Vec<String>,
    pub(crate) mistakes: Vec<String>,
}

/// Parts of a region that were handed out as a file.
#[derive(Debug)]
pub(crate) struct DmaBuf {
    /// Keeps the identity from being used again.
    pub(crate) _file: OwnedFd,
    /// Device and inode of the file.
    pub(crate) key: (u64, u64),
    pub(crate) function: usize,
    pub(crate) region: u32,
    pub(crate) ranges: Vec<Range<u64>>,
    pub(crate) size: u64,
    pub(crate) revoked: bool,
}

impl Slot {
    pub(crate) fn region(&self, index: u32) -> Option<&Region> {
        self.description.regions.iter().find(|region| region.index == index)
    }

    /// Whether an access touches the MSI-X table.
    pub(crate) fn in_msix_table(&self, region: u32, offset: u64, width: u32) -> bool {
        self.description.msix.is_some_and(|msix| {
            let (start, len) = (u64::from(msix.offset), 16 * u64::from(msix.vectors));
            u32::from(msix.bar) == region && offset < start + len && start < offset + u64::from(width)
        })
    }
}

/// Short: every handle holds it.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a machine of ")?;
        f.debug_list().entries(self.slots.iter().map(|slot| slot.bdf)).finish()
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slot(&self, function: usize) -> Option<&Slot> {
        self.slots.get(function)
    }

    /// Changes the state, and tells devices afterwards what they are to hear. Not for code that runs inside a device.
    pub(crate) fn settled<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let result = act(&mut self.state());
        self.settle();
        result
    }

    /// Delivers page responses, unmasks INTx, writes registers as eventfds say, and lets go of memory.
    pub(crate) fn settle(&self) {
        loop {
            let (answers, writes, released) = {
                let mut state = self.state();
                let answers = std::mem::take(&mut state.answers);
                (answers, state.signalled_writes(), state.accounts.take_released())
            };
            drop(released);
            if answers.is_empty() && writes.is_empty() {
                return;
            }
            for answer in answers {
                let Some(slot) = self.slot(answer.function) else {
                    continue;
                };
                let response = super::PageResponse {
                    pasid: answer.pasid,
                    group: u16::try_from(answer.group).unwrap_or_default(),
                    success: answer.success,
                };
                let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
                device.page_response(response, &Bus::new(self, answer.function));
            }
            for (function, region, offset, width, value) in writes {
                let Some(slot) = self.slot(function) else { continue };
                let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
                device.write(region, offset, width, value, &Bus::new(self, function));
            }
        }
    }
}

impl State {
    /// A number for a new file. They begin high, so that none is taken for a real descriptor.
    /// Below -1: no descriptor of the running kernel, so that files of both kinds are never taken for one another.
    pub(crate) fn new_number(&mut self) -> i32 {
        self.last_number += 1;
        -1 - self.last_number
    }

    pub(crate) fn new_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    /// The objects of an iommufd, and what they need.
    pub(crate) fn context<'a>(&'a mut self, shared: &'a Shared, number: i32) -> Option<(&'a mut Context, Env<'a>)> {
        let context = self.contexts.get_mut(&number)?;
        let env = Env {
            accounts: &mut self.accounts,
            answers: &mut self.answers,
            iommu: &shared.iommu,
            slots: &shared.slots,
        };
        Some((context, env))
    }

    pub(crate) fn answers_mapped(&self, function: usize) -> bool {
        self.functions.get(function).is_some_and(Function::answers_mapped)
    }

    /// Register writes whose eventfd was signalled; INTx is unmasked on the way.
    fn signalled_writes(&mut self) -> Vec<(usize, u32, u64, u32, u64)> {
        let mut writes = Vec::new();
        for (at, function) in self.functions.iter_mut().enumerate() {
            function.irqs.settle(&function.config);
            for event in &function.ioeventfds {
                if super::vfio::irq::consume(&event.event) {
                    writes.push((at, event.region, event.offset, event.width, event.value));
                }
            }
        }
        writes
    }
}
