//! The machine: what it is built of, and what a test asks of it.

use super::bus::{Bus, DmaFault};
use super::device::{Description, Device, Region};
use super::gate::Gate;
use super::iommu::{Accounts, Answer, Context, Env};
use super::options::Iommu;
use super::vfio::{Function, Group, Type1, config::Config};
use crate::{Step, System};
use pci::{Bdf, GroupId};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A machine in memory. Cheap to clone; all clones are the same machine.
#[derive(Debug, Clone)]
pub struct Machine {
    shared: Arc<Shared>,
}

/// What a machine is to be built of.
#[derive(Debug)]
pub struct Builder {
    shared: Shared,
}

/// The machine without its handles.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    state: Mutex<State>,
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

impl Machine {
    /// Begins a machine with the default [`Iommu`], iommufd, type 1 containers, and no limit of locked memory.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            shared: Shared {
                gate: Gate::default(),
                state: Mutex::default(),
                slots: Vec::new(),
                bystanders: Vec::new(),
                iommu: Iommu::default(),
                mapping_limit: u16::MAX.into(),
                iommufd: true,
                type1: true,
            },
        }
    }

    /// The system whose files are this machine's: `/dev/iommu`, `/dev/vfio/devices/vfioN` with N counting devices from 0 in the order in which they
    /// were added, `/dev/vfio/GROUP`, `/dev/vfio/vfio`.
    #[must_use]
    pub fn system(&self) -> System {
        System::from_files(Arc::new(super::files::FakeFiles(Arc::clone(&self.shared))))
    }

    /// The path of a device's own file.
    #[must_use]
    pub fn cdev_path(&self, bdf: Bdf) -> Option<std::path::PathBuf> {
        let at = self.position(bdf)?;
        let prefix = if self.shared.slot(at)?.noiommu { "noiommu-" } else { "" };
        Some(format!("/dev/vfio/devices/{prefix}vfio{at}").into())
    }

    /// Makes a call fail: the `n`-th from now, the next one for 0. Whatever was to fail before is forgotten.
    ///
    /// The call does nothing but fail. Opening, every ioctl, reads, writes and `mmap` are calls; closing is none.
    pub fn fail_nth(&self, n: u32, errno: Errno) {
        self.shared.gate.fail_nth(n, errno);
    }

    /// Makes the next call of this name fail, for example `IOMMU_IOAS_UNMAP`.
    pub fn fail_next(&self, name: &'static str, errno: Errno) {
        self.shared.gate.fail_next(name, errno);
    }

    /// The call that was made to fail, if it has been made.
    #[must_use]
    pub fn failed(&self) -> Option<Step> {
        self.shared.gate.failed()
    }

    /// All calls so far, by name: `IOMMU_IOAS_MAP`, `VFIO_DEVICE_RESET`, `open`, `pread`, `mmap`.
    #[must_use]
    pub fn calls(&self) -> Vec<Step> {
        self.shared.gate.names()
    }

    /// Forgets the calls so far, and what was to fail.
    pub fn forget_calls(&self) {
        self.shared.gate.forget();
    }

    /// DMA that did not reach memory so far.
    #[must_use]
    pub fn faults(&self) -> Vec<DmaFault> {
        self.shared.state().faults.clone()
    }

    /// Memory that is pinned and accounted, in bytes.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        self.shared.state().accounts.pinned()
    }

    /// What is still open, mapped or attached, in words. Empty when every handle is gone and nothing was leaked.
    #[must_use]
    pub fn leaks(&self) -> Vec<String> {
        let state = self.shared.state();
        let mut leaks: Vec<String> = state.files.values().map(|file| format!("open: {file}")).collect();
        for context in state.contexts.values() {
            leaks.push("open: /dev/iommu".to_owned());
            leaks.extend(context.objects());
        }
        for container in state.containers.values() {
            leaks.push("open: /dev/vfio/vfio".to_owned());
            leaks.extend(container.describe());
        }
        for (slot, function) in self.shared.slots.iter().zip(&state.functions) {
            let bdf = slot.bdf;
            leaks.extend(function.bound.map(|_| format!("{bdf} is bound")));
            leaks.extend(function.irqs.describe().map(|irqs| format!("{bdf}: {irqs}")));
            let maps = function.maps.values();
            leaks.extend(
                maps.map(|(region, at, len)| format!("{bdf}: {len:#x} bytes of region {region} at {at:#x} are mapped")),
            );
            leaks.extend(
                function
                    .ioeventfds
                    .iter()
                    .map(|event| format!("{bdf}: an ioeventfd at {:#x}", event.offset)),
            );
        }
        if state.accounts.pinned() > 0 {
            leaks.push(format!("{} bytes are pinned", state.accounts.pinned()));
        }
        leaks
    }

    /// Objects and mappings that nobody had destroyed when their file was closed, in words: the kernel ended them, their owner did not.
    #[must_use]
    pub fn abandoned(&self) -> Vec<String> {
        self.shared.state().abandoned.clone()
    }

    /// Forgets what was abandoned, and the faults.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.abandoned.clear();
        state.faults.clear();
    }

    /// Pulls a device out. Its user is asked to let go (REQ) and told of an error (ERR); every further call answers ENODEV, except
    /// detaching; registers read as all ones.
    pub fn remove(&self, bdf: Bdf) {
        let Some(at) = self.position(bdf) else { return };
        if let Ok(function) = self.shared.state().function(at) {
            function.irqs.raise_request();
            function.irqs.raise_error();
            function.removed = true;
        }
    }

    /// The kernel asks the user of a device to let it go (REQ).
    pub fn request_release(&self, bdf: Bdf) {
        if let Some(Ok(function)) = self.position(bdf).map(|at| {
            self.shared
                .state()
                .function(at)
                .map(|function| function.irqs.raise_request())
        }) {
            let () = function;
        }
    }

    /// Something happens to a device: its [`Device::poke`] is called. A device that sleeps wakes.
    pub fn poke(&self, bdf: Bdf) {
        let Some(at) = self.position(bdf) else { return };
        if let Ok(function) = self.shared.state().function(at) {
            function.wake();
        }
        if let Some(slot) = self.shared.slot(at) {
            let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
            device.poke(&Bus::new(&self.shared, at));
        }
        self.shared.settle();
    }

    /// Does what waits for an eventfd that was signalled meanwhile.
    pub fn settle(&self) {
        self.shared.settle();
    }

    fn position(&self, bdf: Bdf) -> Option<usize> {
        self.shared.slots.iter().position(|slot| slot.bdf == bdf)
    }
}

impl Builder {
    /// Chooses the IOMMU.
    #[must_use]
    pub fn iommu(mut self, iommu: Iommu) -> Self {
        self.shared.iommu = iommu;
        self
    }

    /// Limits locked memory (RLIMIT_MEMLOCK), in bytes.
    #[must_use]
    pub fn memlock(self, limit: u64) -> Self {
        self.shared.state().accounts.limit = Some(limit);
        self
    }

    /// Limits the mappings of a type 1 container (`dma_entry_limit`).
    #[must_use]
    pub fn mapping_limit(mut self, limit: u32) -> Self {
        self.shared.mapping_limit = limit;
        self
    }

    /// Whether there is `/dev/iommu`, and with it `/dev/vfio/devices`.
    #[must_use]
    pub fn iommufd(mut self, there: bool) -> Self {
        self.shared.iommufd = there;
        self
    }

    /// Whether there is `/dev/vfio/vfio`.
    #[must_use]
    pub fn type1(mut self, there: bool) -> Self {
        self.shared.type1 = there;
        self
    }

    /// Adds a device.
    #[must_use]
    pub fn device(self, bdf: Bdf, group: GroupId, device: impl Device + 'static) -> Self {
        self.add(bdf, group, None, false, Box::new(device))
    }

    /// Adds a virtual function of a device that was added before.
    #[must_use]
    pub fn virtual_function(mut self, bdf: Bdf, group: GroupId, of: Bdf, device: impl Device + 'static) -> Self {
        let physical = self.shared.slots.iter().position(|slot| slot.bdf == of);
        if let Some(slot) = physical.and_then(|at| self.shared.slots.get_mut(at)) {
            slot.has_vfs = true;
        }
        self.add(bdf, group, physical, false, Box::new(device))
    }

    /// Adds a device that no IOMMU translates for.
    #[must_use]
    pub fn device_without_iommu(self, bdf: Bdf, group: GroupId, device: impl Device + 'static) -> Self {
        self.add(bdf, group, None, true, Box::new(device))
    }

    /// Adds a function with a driver of the host: its group is not viable.
    #[must_use]
    pub fn bystander(mut self, bdf: Bdf, group: GroupId) -> Self {
        self.shared.bystanders.push((bdf, group.0));
        self
    }

    fn add(
        mut self,
        bdf: Bdf,
        group: GroupId,
        physical: Option<usize>,
        noiommu: bool,
        device: Box<dyn Device>,
    ) -> Self {
        let description = device.description();
        self.shared
            .state()
            .functions
            .push(Function::new(Config::new(&description)));
        self.shared.slots.push(Slot {
            bdf,
            group: group.0,
            noiommu,
            physical,
            has_vfs: false,
            pasid_bits: description.pasid_bits,
            page_requests: description.page_requests,
            description,
            device: Mutex::new(device),
        });
        self
    }

    /// The machine.
    #[must_use]
    pub fn build(self) -> Machine {
        Machine {
            shared: Arc::new(self.shared),
        }
    }
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

    /// Delivers page responses, unmasks INTx and writes registers as eventfds say.
    pub(crate) fn settle(&self) {
        loop {
            let (answers, writes) = {
                let mut state = self.state();
                let answers = std::mem::take(&mut state.answers);
                (answers, state.signalled_writes())
            };
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
    pub(crate) fn new_number(&mut self) -> i32 {
        self.last_number += 1;
        (1 << 20) + self.last_number
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

    pub(crate) fn decodes_memory(&self, function: usize) -> bool {
        self.functions.get(function).is_some_and(Function::decodes_memory)
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
