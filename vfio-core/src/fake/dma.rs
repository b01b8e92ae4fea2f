//! How an access of a device finds memory, and how its requests find whom to ask.

use super::bus::{FaultReason, Target};
use super::iommu::Fault;
use super::state::{Shared, State};
use crate::Access;
use crate::sys::Result;
use rustix::io::Errno;
use std::sync::Arc;

/// As many page requests as a device may have before the last one of a group.
const LARGEST_GROUP: usize = 4096;

impl State {
    /// The first piece of an access: memory and how much of it.
    pub(super) fn translate_one(
        &mut self,
        shared: &Shared,
        index: usize,
        pasid: Option<u32>,
        iova: u64,
        len: u64,
        write: bool,
    ) -> std::result::Result<Target, FaultReason> {
        let function = self.functions.get(index).ok_or(FaultReason::Gone)?;
        if function.removed {
            return Err(FaultReason::Gone);
        }
        if !function.config.bus_master() {
            return Err(FaultReason::NotMaster);
        }
        let target = match (shared.slot(index), function.bound) {
            (Some(slot), _) if slot.noiommu => self.physical(iova, len),
            (_, Some((number, device))) => self.translate_iommufd(shared, number, device, pasid, iova, len, write),
            (Some(slot), None) => self.translate_type1(slot.group, iova, len, write),
            (None, None) => Err(FaultReason::Gone),
        }?;
        if write && let Some(function) = self.functions.get_mut(index) {
            function.log_write(iova, iova + (target.2 - 1));
        }
        Ok(target)
    }

    #[expect(clippy::too_many_arguments, reason = "an access is all of these")]
    fn translate_iommufd(
        &mut self,
        shared: &Shared,
        number: i32,
        device: u32,
        pasid: Option<u32>,
        iova: u64,
        len: u64,
        write: bool,
    ) -> std::result::Result<Target, FaultReason> {
        let (context, _) = self.context(shared, number).ok_or(FaultReason::NotAttached)?;
        let hwpt = context
            .attached(device, pasid.unwrap_or_default())
            .ok_or(FaultReason::NotAttached)?
            .hwpt;
        let ioas = context.ioas_of(hwpt).ok_or(FaultReason::NotAttached)?;
        let table = &context.ioas.get(&ioas).ok_or(FaultReason::NotAttached)?.table;
        let (start, area) = table.find(iova).ok_or(FaultReason::NotMapped)?;
        permit(area.access, write)?;
        let len = len.min((area.last - iova).saturating_add(1));
        let target = (Arc::clone(&area.pages), area.start_byte + (iova - start), len);
        if write {
            context.mark_written(hwpt, shared.iommu.page_sizes, iova, iova + (len - 1));
        }
        Ok(target)
    }

    fn translate_type1(
        &self,
        group: u32,
        iova: u64,
        len: u64,
        write: bool,
    ) -> std::result::Result<Target, FaultReason> {
        let number = self
            .groups
            .get(&group)
            .and_then(|group| group.container)
            .ok_or(FaultReason::NotAttached)?;
        let container = self.containers.get(&number).ok_or(FaultReason::NotAttached)?;
        let (start, mapping) = container.find(iova).ok_or(FaultReason::NotMapped)?;
        permit(mapping.access, write)?;
        let len = len.min((mapping.last - iova).saturating_add(1));
        Ok((Arc::clone(&mapping.pages), mapping.pages.head() + (iova - start), len))
    }

    /// Without an IOMMU a device uses physical addresses, and reaches whatever memory is pinned.
    fn physical(&self, address: u64, len: u64) -> std::result::Result<Target, FaultReason> {
        for ioas in self
            .contexts
            .values()
            .flat_map(|context| context.ioas.values())
            .filter(|ioas| ioas.table.filled())
        {
            for (start, area) in ioas.table.areas() {
                let end = area.start_byte + (area.last - start);
                let byte = area
                    .pages
                    .byte_of(address)
                    .filter(|byte| (area.start_byte..=end).contains(byte));
                if let Some(byte) = byte {
                    return Ok((Arc::clone(&area.pages), byte, len.min(end - byte + 1)));
                }
            }
        }
        Err(FaultReason::NotMapped)
    }

    /// Takes a page request; a group is passed on with its last one.
    pub(super) fn request_page(&mut self, shared: &Shared, index: usize, fault: Fault) -> Result<()> {
        let slot = shared.slot(index).ok_or(Errno::NODEV)?;
        let function = self.function(index)?;
        if !slot.page_requests || function.removed || !function.config.bus_master() {
            return Err(Errno::INVAL);
        }
        let bound = function.bound.ok_or(Errno::INVAL)?;
        let (context, _) = self.context(shared, bound.0).ok_or(Errno::INVAL)?;
        let taken = context.fault_queue_of(bound.1, fault.pasid.unwrap_or_default());
        let function = self.function(index)?;
        if taken.is_none() || function.partial.len() >= LARGEST_GROUP {
            function.partial.retain(|partial| partial.group != fault.group);
            return Err(Errno::INVAL);
        }
        if !fault.last {
            function.partial.push(fault);
            return Ok(());
        }
        let (mut group, rest) = std::mem::take(&mut function.partial)
            .into_iter()
            .partition::<Vec<Fault>, _>(|partial| partial.group == fault.group);
        function.partial = rest;
        group.push(fault);
        let (context, env) = self.context(shared, bound.0).ok_or(Errno::INVAL)?;
        context.report_faults(&env, bound.1, group)
    }

    pub(super) fn report_vevent(&mut self, index: usize, kind: u32, data: &[u8]) -> Result<()> {
        let (number, device) = self.function(index)?.bound.ok_or(Errno::NODEV)?;
        self.contexts
            .get_mut(&number)
            .ok_or(Errno::NODEV)?
            .report_vevent(device, kind, data)
    }
}

fn permit(access: Access, write: bool) -> std::result::Result<(), FaultReason> {
    let wanted = if write { Access::WRITE } else { Access::READ };
    if access.contains(wanted) {
        Ok(())
    } else {
        Err(FaultReason::NotPermitted)
    }
}
