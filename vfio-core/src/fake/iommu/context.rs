//! The objects of one open `/dev/iommu`: numbers, users, destruction.

use super::attach::{Bound, GroupAttachments};
use super::calls::ContextFile;
use super::fault::{Answer, FaultQueue};
use super::hwpt::{Hwpt, Parent};
use super::ioas::Ioas;
use super::pages::{Account, Accounts};
use super::viommu::{HwQueue, Vdevice, VeventQueue, Viommu};
use crate::fake::options::Iommu;
use crate::fake::state::Slot;
use crate::sys::Result;
use crate::sys::iommufd::Id;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::Weak;

/// What one open `/dev/iommu` holds.
#[derive(Debug, Default)]
pub(crate) struct Context {
    ids: BTreeMap<Id, Entry>,
    pub(crate) ioas: BTreeMap<Id, Ioas>,
    pub(crate) hwpts: BTreeMap<Id, Hwpt>,
    pub(crate) devices: BTreeMap<Id, Bound>,
    pub(crate) faults: BTreeMap<Id, FaultQueue>,
    pub(crate) viommus: BTreeMap<Id, Viommu>,
    pub(crate) vdevices: BTreeMap<Id, Vdevice>,
    pub(crate) veventqs: BTreeMap<Id, VeventQueue>,
    pub(crate) hw_queues: BTreeMap<Id, HwQueue>,
    /// What is attached, by IOMMU group.
    pub(crate) groups: BTreeMap<u32, GroupAttachments>,
    pub(crate) vfio_ioas: Option<Id>,
    pub(crate) noiommu_mode: bool,
    pub(crate) account_process: bool,
    pub(crate) file: Weak<ContextFile>,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    /// Objects, attachments and open files that need it.
    users: u32,
}

/// Kinds of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ioas,
    Hwpt,
    Device,
    FaultQueue,
    Viommu,
    Vdevice,
    VeventQueue,
    HwQueue,
}

/// What the objects need of the machine.
#[derive(Debug)]
pub(crate) struct Env<'a> {
    pub(crate) accounts: &'a mut Accounts,
    /// Page responses for the devices, which hear of them when the state is no longer locked.
    pub(crate) answers: &'a mut Vec<Answer>,
    pub(crate) iommu: &'a Iommu,
    pub(crate) slots: &'a [Slot],
}

impl Context {
    pub(crate) fn new(file: Weak<ContextFile>) -> Self {
        Self {
            file,
            ..Self::default()
        }
    }

    /// The lowest free number, as the kernel gives them.
    pub(crate) fn new_id(&mut self, kind: Kind) -> Id {
        let mut id = 1;
        for taken in self.ids.keys() {
            if *taken != id {
                break;
            }
            id += 1;
        }
        self.ids.insert(id, Entry { kind, users: 0 });
        id
    }

    pub(crate) fn kind(&self, id: Id) -> Option<Kind> {
        self.ids.get(&id).map(|entry| entry.kind)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn account(&self) -> Account {
        if self.account_process {
            Account::Process
        } else {
            Account::User
        }
    }

    pub(crate) fn hold(&mut self, id: Id) {
        if let Some(entry) = self.ids.get_mut(&id) {
            entry.users += 1;
        }
    }

    pub(crate) fn put(&mut self, id: Id) {
        if let Some(entry) = self.ids.get_mut(&id) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    pub(crate) fn is_used(&self, id: Id) -> bool {
        self.ids.get(&id).is_some_and(|entry| entry.users > 0)
    }

    /// `IOMMU_DESTROY`.
    pub(crate) fn destroy(&mut self, env: &mut Env<'_>, id: Id) -> Result<()> {
        let entry = self.ids.get(&id).ok_or(Errno::NOENT)?;
        if entry.users > 0 {
            return Err(Errno::BUSY);
        }
        self.remove(env, id);
        Ok(())
    }

    /// Takes an object out without asking who uses it.
    pub(crate) fn remove(&mut self, env: &mut Env<'_>, id: Id) {
        let Some(entry) = self.ids.remove(&id) else { return };
        match entry.kind {
            Kind::Ioas => self.end_ioas(env, id),
            Kind::Hwpt => self.end_hwpt(env, id),
            Kind::Device => drop(self.devices.remove(&id)),
            Kind::FaultQueue => {
                if let Some(mut queue) = self.faults.remove(&id) {
                    env.answers.extend(queue.abort(|_| true));
                }
            }
            Kind::Viommu => {
                if let Some(viommu) = self.viommus.remove(&id) {
                    self.put(viommu.hwpt);
                }
            }
            Kind::Vdevice => self.end_vdevice(id),
            Kind::VeventQueue => {
                if let Some(queue) = self.veventqs.remove(&id) {
                    self.put(queue.viommu);
                }
            }
            Kind::HwQueue => self.end_hw_queue(env, id),
        }
    }

    fn end_ioas(&mut self, env: &mut Env<'_>, id: Id) {
        if self.vfio_ioas == Some(id) {
            self.vfio_ioas = None;
        }
        if let Some(mut ioas) = self.ioas.remove(&id) {
            // Errors are of areas that stay, and the whole space goes.
            let (_, _) = ioas.unmap(env.accounts, 0, u64::MAX);
        }
    }

    fn end_hwpt(&mut self, env: &mut Env<'_>, id: Id) {
        let Some(hwpt) = self.hwpts.remove(&id) else { return };
        match hwpt.parent {
            Parent::Ioas(ioas) => {
                if let Some(ioas) = self.ioas.get_mut(&ioas) {
                    ioas.unfill(env.accounts, id);
                }
                self.put(ioas);
            }
            Parent::Hwpt(parent) => self.put(parent),
            Parent::Viommu { viommu, .. } => self.put(viommu),
        }
        if let Some(fault) = hwpt.fault {
            self.put(fault);
        }
    }

    /// The last handle on the file is gone: everything ends, leaves first. Returns what nobody had destroyed.
    pub(crate) fn close(&mut self, env: &mut Env<'_>) -> Vec<String> {
        let left = self.objects();
        while !self.ids.is_empty() {
            let leaf = self.ids.iter().find(|(_, entry)| entry.users == 0).map(|(id, _)| *id);
            // Users that nobody can be any more would be an error of this machine; end all the same.
            let Some(id) = leaf.or_else(|| self.ids.keys().next().copied()) else {
                break;
            };
            self.remove(env, id);
        }
        left
    }

    /// What exists that somebody has to destroy, in words.
    pub(crate) fn objects(&self) -> Vec<String> {
        let mut objects = Vec::new();
        for (id, entry) in &self.ids {
            match entry.kind {
                Kind::Hwpt if self.hwpts.get(id).is_some_and(|hwpt| hwpt.automatic) => {}
                Kind::Ioas if self.ioas.get(id).is_some_and(|ioas| ioas.automatic) => {}
                Kind::Device => {}
                kind => objects.push(format!("{} {id}", kind.name())),
            }
            if let Some(ioas) = self.ioas.get(id) {
                objects.extend(
                    ioas.table
                        .areas()
                        .map(|(start, area)| format!("mapping {start:#x}-{:#x} in IOAS {id}", area.last)),
                );
            }
        }
        objects
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ioas => "IOAS",
            Self::Hwpt => "HWPT",
            Self::Device => "device",
            Self::FaultQueue => "fault queue",
            Self::Viommu => "virtual IOMMU",
            Self::Vdevice => "virtual device",
            Self::VeventQueue => "virtual event queue",
            Self::HwQueue => "hardware queue",
        }
    }
}
