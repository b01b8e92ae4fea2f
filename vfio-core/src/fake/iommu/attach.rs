//! Which page table a device translates with (`device.c`).

use super::context::{Context, Env, Kind};
use super::hwpt::{Hwpt, PASID, Parent};
use super::table::Owner;
use crate::sys::Result;
use crate::sys::iommufd::Id;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// The key of what is attached without a PASID (`IOMMU_NO_PASID`).
pub(crate) const NO_PASID: u32 = 0;

/// A device that is bound.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Index in the machine.
    pub(crate) function: usize,
    pub(crate) group: u32,
    pub(crate) vdevice: Option<Id>,
}

/// Page tables of one IOMMU group, by PASID.
pub(crate) type GroupAttachments = BTreeMap<u32, Attached>;

/// All devices of a group use the same page table for the same PASID.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) hwpt: Id,
    pub(crate) devices: BTreeSet<Id>,
}

impl Context {
    pub(crate) fn bind(&mut self, function: usize, group: u32) -> Id {
        let id = self.new_id(Kind::Device);
        self.devices.insert(
            id,
            Bound {
                function,
                group,
                vdevice: None,
            },
        );
        // The driver that bound it.
        self.hold(id);
        id
    }

    /// Detaches everything and lets the device go.
    pub(crate) fn unbind(&mut self, env: &mut Env<'_>, device: Id) {
        let Some(bound) = self.devices.get(&device) else { return };
        let vdevice = bound.vdevice;
        let pasids: Vec<u32> = self
            .groups
            .get(&bound.group)
            .into_iter()
            .flat_map(|group| group.keys().rev().copied())
            .collect();
        for pasid in pasids {
            self.detach(env, device, pasid);
        }
        if let Some(vdevice) = vdevice {
            self.remove(env, vdevice);
        }
        self.remove(env, device);
    }

    pub(crate) fn attached(&self, device: Id, pasid: u32) -> Option<&Attached> {
        let group = self.devices.get(&device)?.group;
        let attached = self.groups.get(&group)?.get(&pasid)?;
        attached.devices.contains(&device).then_some(attached)
    }

    /// Attaches to a page table, or moves to another; returns the page table in use.
    pub(crate) fn attach(&mut self, env: &mut Env<'_>, device: Id, pasid: u32, table: Id) -> Result<Id> {
        let replace = self.attached(device, pasid).is_some();
        match self.kind(table) {
            None => Err(Errno::NOENT),
            Some(Kind::Hwpt) => self.change(env, device, pasid, table, replace).map(|()| table),
            Some(Kind::Ioas) => self.attach_automatic(env, device, pasid, table, replace),
            Some(_) => Err(Errno::INVAL),
        }
    }

    /// Uses a page table that the kernel made for this IOAS, or makes one.
    fn attach_automatic(&mut self, env: &mut Env<'_>, device: Id, pasid: u32, ioas: Id, replace: bool) -> Result<Id> {
        let of_ioas = |hwpt: &Hwpt| hwpt.automatic && hwpt.ioas() == Some(ioas);
        let candidates: Vec<Id> = self
            .hwpts
            .iter()
            .filter(|(_, hwpt)| of_ioas(hwpt))
            .map(|(id, _)| *id)
            .collect();
        for hwpt in candidates {
            match self.change(env, device, pasid, hwpt, replace) {
                Err(Errno::INVAL) => {}
                result => return result.map(|()| hwpt),
            }
        }
        let function = self.devices.get(&device).ok_or(Errno::NOENT)?.function;
        let noiommu = env.slots.get(function).is_some_and(|slot| slot.noiommu);
        let parent = Parent::Ioas(ioas);
        let hwpt = Hwpt {
            parent,
            flags: 0,
            fault: None,
            automatic: false,
            noiommu,
            dirty: None,
        };
        let id = self.new_hwpt(env, hwpt)?;
        if let Err(errno) = self.change(env, device, pasid, id, replace) {
            self.remove(env, id);
            return Err(errno);
        }
        if let Some(hwpt) = self.hwpts.get_mut(&id) {
            hwpt.automatic = true;
        }
        Ok(id)
    }

    fn change(&mut self, env: &mut Env<'_>, device: Id, pasid: u32, hwpt: Id, replace: bool) -> Result<()> {
        if replace {
            self.replace(env, device, pasid, hwpt)
        } else {
            self.attach_new(env, device, pasid, hwpt)
        }
    }

    fn attach_new(&mut self, env: &mut Env<'_>, device: Id, pasid: u32, hwpt: Id) -> Result<()> {
        let bound = self.devices.get(&device).ok_or(Errno::NOENT)?;
        let (function, group) = (bound.function, bound.group);
        let current = self
            .groups
            .get(&group)
            .and_then(|group| group.get(&pasid))
            .map(|attached| attached.hwpt);
        if current.is_some_and(|current| current != hwpt) {
            return Err(Errno::INVAL);
        }
        let ioas = self.hwpts.get(&hwpt).and_then(Hwpt::ioas);
        let reserve = ioas.filter(|_| pasid == NO_PASID);
        if let Some(ioas) = reserve {
            self.reserve(env, function, device, ioas)?;
        }
        if current.is_none()
            && let Err(errno) = self.can_attach(env, function, group, pasid, hwpt)
        {
            if let Some(ioas) = reserve {
                self.ioas(ioas)?.table.release(Owner::Device(device));
            }
            return Err(errno);
        }
        let group = self.groups.entry(group).or_default();
        let attached = group.entry(pasid).or_insert_with(|| Attached {
            hwpt,
            devices: BTreeSet::new(),
        });
        attached.devices.insert(device);
        self.hold(hwpt);
        self.hold(device);
        Ok(())
    }

    fn replace(&mut self, env: &mut Env<'_>, device: Id, pasid: u32, hwpt: Id) -> Result<()> {
        let bound = self.devices.get(&device).ok_or(Errno::NOENT)?;
        let (function, group) = (bound.function, bound.group);
        let attached = self.attached(device, pasid).ok_or(Errno::INVAL)?;
        let (old, devices) = (attached.hwpt, attached.devices.clone());
        if old == hwpt {
            return Ok(());
        }
        let ioas_of = |context: &Self, hwpt: Id| context.hwpts.get(&hwpt).and_then(Hwpt::ioas);
        let (old_ioas, new_ioas) = (ioas_of(self, old), ioas_of(self, hwpt));
        let moves = pasid == NO_PASID && old_ioas != new_ioas;
        if let Some(ioas) = new_ioas.filter(|_| moves) {
            for id in &devices {
                let function = self.devices.get(id).map_or(function, |bound| bound.function);
                if let Err(errno) = self.reserve(env, function, *id, ioas) {
                    self.release(&devices, ioas);
                    return Err(errno);
                }
            }
        }
        if let Err(errno) = self.can_attach(env, function, group, pasid, hwpt) {
            if let Some(ioas) = new_ioas.filter(|_| moves) {
                self.release(&devices, ioas);
            }
            return Err(errno);
        }
        self.answer_pending(env, old, group, pasid);
        if let Some(ioas) = old_ioas.filter(|_| moves) {
            self.release(&devices, ioas);
        }
        if let Some(attached) = self.groups.get_mut(&group).and_then(|group| group.get_mut(&pasid)) {
            attached.hwpt = hwpt;
        }
        for _ in &devices {
            self.hold(hwpt);
            self.put(old);
        }
        self.end_automatic(env, old);
        Ok(())
    }

    /// Detaches; nothing happens when nothing is attached.
    pub(crate) fn detach(&mut self, env: &mut Env<'_>, device: Id, pasid: u32) {
        let Some(attached) = self.attached(device, pasid) else {
            return;
        };
        let (hwpt, last) = (attached.hwpt, attached.devices.len() == 1);
        let Some(group) = self.devices.get(&device).map(|bound| bound.group) else {
            return;
        };
        if last {
            self.answer_pending(env, hwpt, group, pasid);
        }
        if let Some(attachments) = self.groups.get_mut(&group) {
            if last {
                attachments.remove(&pasid);
            } else if let Some(attached) = attachments.get_mut(&pasid) {
                attached.devices.remove(&device);
            }
        }
        if let Some(ioas) = self.hwpts.get(&hwpt).and_then(Hwpt::ioas).filter(|_| pasid == NO_PASID) {
            self.release(&BTreeSet::from([device]), ioas);
        }
        self.put(hwpt);
        self.put(device);
        self.end_automatic(env, hwpt);
    }

    fn end_automatic(&mut self, env: &mut Env<'_>, hwpt: Id) {
        if self.hwpts.get(&hwpt).is_some_and(|hwpt| hwpt.automatic) && !self.is_used(hwpt) {
            self.remove(env, hwpt);
        }
    }

    /// What the IOMMU and its driver refuse.
    fn can_attach(&self, env: &Env<'_>, function: usize, group: u32, pasid: u32, hwpt: Id) -> Result<()> {
        let hwpt = self.hwpts.get(&hwpt).ok_or(Errno::NOENT)?;
        let slot = env.slots.get(function).ok_or(Errno::NODEV)?;
        if hwpt.fault.is_some() && slot.physical.is_some() && slot.page_requests {
            return Err(Errno::INVAL);
        }
        let attachments = self.groups.get(&group);
        let of_rid = attachments
            .and_then(|group| group.get(&NO_PASID))
            .and_then(|attached| self.hwpts.get(&attached.hwpt));
        let with_pasid = attachments.is_some_and(|group| group.keys().any(|pasid| *pasid != NO_PASID));
        let compatible = match pasid {
            NO_PASID => hwpt.has(PASID) || !with_pasid,
            _ => hwpt.has(PASID) && of_rid.is_none_or(|hwpt| hwpt.has(PASID)),
        };
        if !compatible {
            return Err(Errno::INVAL);
        }
        // A device without PASIDs is passed over in silence.
        let pasids = 1_u64 << slot.pasid_bits.min(env.iommu.pasid_bits);
        if pasid != NO_PASID && slot.pasid_bits > 0 && u64::from(pasid) >= pasids {
            return Err(Errno::INVAL);
        }
        if hwpt.fault.is_some() && !slot.page_requests {
            Err(Errno::NODEV)
        } else {
            Ok(())
        }
    }

    fn reserve(&mut self, env: &Env<'_>, function: usize, device: Id, ioas: Id) -> Result<()> {
        if env.slots.get(function).is_some_and(|slot| slot.noiommu) {
            return Ok(());
        }
        let table = &mut self.ioas(ioas)?.table;
        let owner = Owner::Device(device);
        for range in &env.iommu.reserved {
            table
                .reserve(range.start().0, range.last().0, owner)
                .inspect_err(|_| table.release(owner))?;
        }
        Ok(())
    }

    fn release(&mut self, devices: &BTreeSet<Id>, ioas: Id) {
        if let Some(ioas) = self.ioas.get_mut(&ioas) {
            for device in devices {
                ioas.table.release(Owner::Device(*device));
            }
        }
    }

    /// Page requests that nobody answered yet are refused when their page table goes.
    fn answer_pending(&mut self, env: &mut Env<'_>, hwpt: Id, group: u32, pasid: u32) {
        let Some(fault) = self.hwpts.get(&hwpt).and_then(|hwpt| hwpt.fault) else {
            return;
        };
        if let Some(queue) = self.faults.get_mut(&fault) {
            env.answers
                .extend(queue.abort(|pending| pending.group == group && pending.pasid == pasid));
        }
    }
}
