//! What the driver keeps for one device while the machine runs.

use super::config::Config;
use super::irq::{self, Irqs};
use super::migration::Migration;
use crate::VfToken;
use crate::fake::iommu::{Fault, PAGE};
use crate::sys::iommufd::Id;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

/// The state of a device.
#[derive(Debug)]
pub(crate) struct Function {
    /// Pulled out.
    pub(crate) removed: bool,
    /// So many accesses to its configuration space are not answered.
    pub(crate) silence: u32,
    /// How many files have it open.
    pub(crate) open: u32,
    /// The open file is one of `/dev/vfio/devices`.
    pub(crate) cdev: bool,
    /// Number of the iommufd and the device's id in it.
    pub(crate) bound: Option<(i32, Id)>,
    pub(crate) config: Config,
    pub(crate) irqs: Irqs,
    pub(crate) low_power: Option<LowPower>,
    pub(crate) migration: Migration,
    pub(crate) dma_log: Option<DmaLog>,
    pub(crate) ioeventfds: Vec<IoEventFd>,
    /// Mapped parts of its regions.
    pub(crate) maps: BTreeMap<u64, (u32, u64, usize)>,
    /// The token that its VFs are opened with.
    pub(crate) token: VfToken,
    /// Open VFs.
    pub(crate) token_users: u32,
    /// Page requests whose group is not complete.
    pub(crate) partial: Vec<Fault>,
    /// How often its registers stopped answering where they are mapped: what is mapped of a dma-buf before is gone.
    pub(crate) revocations: u64,
}

/// The user let the device sleep.
#[derive(Debug)]
pub(crate) struct LowPower {
    pub(crate) wakeup: Option<OwnedFd>,
}

/// Pages that the device wrote.
#[derive(Debug)]
pub(crate) struct DmaLog {
    pub(crate) page_size: u64,
    pub(crate) ranges: Vec<(u64, u64)>,
    pub(crate) dirty: BTreeSet<u64>,
}

/// An eventfd that writes a register.
#[derive(Debug)]
pub(crate) struct IoEventFd {
    pub(crate) region: u32,
    pub(crate) offset: u64,
    pub(crate) width: u32,
    pub(crate) value: u64,
    pub(crate) event: OwnedFd,
}

impl Function {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            removed: false,
            silence: 0,
            open: 0,
            cdev: false,
            bound: None,
            config,
            irqs: Irqs::default(),
            low_power: None,
            migration: Migration::default(),
            dma_log: None,
            ioeventfds: Vec::new(),
            maps: BTreeMap::new(),
            token: VfToken([0; 16]),
            token_users: 0,
            partial: Vec::new(),
            revocations: 0,
        }
    }

    /// Whether an access to its configuration space is answered.
    pub(crate) fn answers_config(&mut self) -> bool {
        let answers = self.silence == 0;
        self.silence = self.silence.saturating_sub(1);
        answers
    }

    /// Whether its registers answer.
    pub(crate) fn answers(&self) -> bool {
        !self.removed && self.config.memory()
    }

    /// Whether they answer where they are mapped; a call would wake the device, an access to memory does not.
    pub(crate) fn answers_mapped(&self) -> bool {
        self.answers() && self.low_power.is_none()
    }

    /// The state in which a user gets the device, and in which the last one leaves it.
    pub(crate) fn start_over(&mut self) {
        self.config.enable();
        self.irqs.close();
        self.low_power = None;
        self.dma_log = None;
        self.ioeventfds.clear();
        self.after_reset();
    }

    /// A reset leaves configuration space as it was, bus mastering included: the kernel saves it before and restores it after.
    pub(crate) fn after_reset(&mut self) {
        self.revocations += 1;
        self.migration.reset();
        self.partial.clear();
        self.irqs.set_level(false, &self.config);
    }

    /// A write of the device to memory, for its log.
    pub(crate) fn log_write(&mut self, first: u64, last: u64) {
        let Some(log) = &mut self.dma_log else { return };
        let pages = first / PAGE..=last / PAGE;
        let inside = |page: &u64| {
            let address = page * PAGE;
            log.ranges
                .iter()
                .any(|(start, len)| address >= *start && address - start < *len)
        };
        log.dirty.extend(pages.filter(inside));
    }

    /// The device is used, or does something on its own: it wakes, and says so. Without an eventfd for that it sleeps on afterwards.
    pub(crate) fn wake(&mut self) {
        if let Some(wakeup) = self.low_power.as_mut().and_then(|low_power| low_power.wakeup.take()) {
            irq::signal(Some(&wakeup));
            self.low_power = None;
        }
    }
}
