//! From a group of page requests to its answer.

use super::{DemandSpace, Unit, len};
use crate::{Error, Iova, IovaRange, Result};
use std::collections::BTreeSet;
use vfio_core::iommufd::{PageAccess, PageRequest, PageRequestGroup, Response};
use vfio_core::{Access, Errno, ErrorKind};

/// Groups that one call serves at most, so that a device which asks without end does not keep its caller.
const GROUPS: usize = 256;

impl DemandSpace {
    /// Serves the groups of page requests that wait, up to 256 of them, and returns how many that were. Never waits for one: wait for
    /// [`ready`](Self::ready) for that.
    ///
    /// A group is answered as invalid when it asks for what was not added or for access that was not given, carries another PASID,
    /// needs more than the budget, or when memory cannot be had; [`Statistics`](super::Statistics) tell which. None of that is an error
    /// here.
    ///
    /// # Errors
    ///
    /// Those of the source.
    pub fn serve(&mut self) -> Result<usize> {
        for served in 0..GROUPS {
            let Some(group) = self.source.next()? else {
                return Ok(served);
            };
            self.serve_group(group)?;
        }
        Ok(GROUPS)
    }

    fn serve_group(&mut self, group: PageRequestGroup) -> Result<()> {
        self.round += 1;
        self.statistics.groups += 1;
        self.statistics.requests += group.requests.len() as u64;
        let served = self.wanted(&group).and_then(|starts| {
            self.statistics.mapped += self.bring_all(&starts)?;
            Ok(starts)
        });
        let response = match &served {
            Ok(_) => Response::Success,
            Err(error) => {
                let count = match error {
                    Error::NotAllowed(_) => &mut self.statistics.refused,
                    Error::NoSpace { .. } => &mut self.statistics.over_budget,
                    _ => &mut self.statistics.failed,
                };
                *count += 1;
                tracing::debug!(%error, index = group.index, "page requests are refused");
                Response::Invalid
            }
        };
        // The device waits: what is mapped ahead comes after the answer.
        match group.respond(response) {
            // Its device was detached, and that has answered it.
            Err(error) if matches!(error.kind, ErrorKind::NotFound(_)) => self.statistics.late += 1,
            answered => answered?,
        }
        if let Ok(starts) = served {
            self.map_ahead(&starts);
        }
        Ok(())
    }

    /// The units that a group asks for, sorted.
    fn wanted(&mut self, group: &PageRequestGroup) -> Result<Vec<Iova>> {
        let mut starts = BTreeSet::new();
        for request in &group.requests {
            let asked = range_of(request).unwrap_or(IovaRange::ALL);
            let access = access_of(request.access).filter(|_| request.pasid == self.options.pasid);
            let of_request = self.units_of(asked, access.ok_or(Error::NotAllowed(asked))?)?;
            let is_there = of_request.iter().all(|start| self.is_mapped(*start));
            self.statistics.repeated += u64::from(is_there);
            starts.extend(of_request);
            self.within_budget(starts.len() as u64)?;
        }
        Ok(starts.into_iter().collect())
    }

    /// First IOVAs of the units of a range: one that lies in one region with at least this access, and is no larger than the budget.
    pub(super) fn units_of(&self, range: IovaRange, access: Access) -> Result<Vec<Iova>> {
        let region = self
            .regions
            .range(..=range.start())
            .next_back()
            .map(|(_, region)| region);
        let may = region.is_some_and(|region| region.range().contains(&range) && region.access().contains(access));
        if !may {
            return Err(Error::NotAllowed(range));
        }
        let unit = self.options.unit;
        let (first, last) = (range.start().0 / unit, range.last().0 / unit);
        self.within_budget(last - first + 1)?;
        Ok((first..=last).map(|number| Iova(number * unit)).collect())
    }

    fn within_budget(&self, units: u64) -> Result<()> {
        if units <= self.options.budget / self.options.unit {
            Ok(())
        } else {
            Err(self.over_budget(units.saturating_mul(self.options.unit)))
        }
    }

    /// Maps units that are not mapped yet, and returns how many these were. They are as used now.
    pub(super) fn bring_all(&mut self, starts: &[Iova]) -> Result<u64> {
        // Those that are there must not go to make room for the others.
        for start in starts {
            if let Some(unit) = self.units.get_mut(start) {
                unit.round = self.round;
                self.order.touch(*start);
            }
        }
        let mut mapped = 0;
        for start in starts {
            mapped += u64::from(self.bring(*start)?);
        }
        Ok(mapped)
    }

    pub(super) fn is_mapped(&self, start: Iova) -> bool {
        let unit = self.units.get(&start);
        // The whole space may have been unmapped meanwhile. What is stuck is mapped.
        unit.is_some_and(|unit| unit.mapping.as_ref().is_none_or(super::DmaMapping::is_mapped))
    }

    /// Maps a unit, if it is not.
    fn bring(&mut self, start: Iova) -> Result<bool> {
        if self.is_mapped(start) {
            return Ok(false);
        }
        if self.units.contains_key(&start) {
            self.order.remove(start);
            self.unmap(start)?;
        }
        let (_, region) = self
            .regions
            .range(..=start)
            .next_back()
            .ok_or(Error::Invalid("no region"))?;
        let range = region
            .unit(start, self.options.unit)
            .ok_or(Error::Invalid("no region"))?;
        let need = len(range);
        while self.statistics.resident_bytes + need > self.options.budget {
            if !self.evict() {
                return Err(self.over_budget(need));
            }
        }
        let mapping = loop {
            let (_, region) = self
                .regions
                .range(..=start)
                .next_back()
                .ok_or(Error::Invalid("no region"))?;
            match region.map(&self.space, range) {
                Ok(mapping) => break mapping,
                // A limit that is lower than the budget: memory that may be locked, mappings of a container.
                Err(error) if is_shortage(&error) && self.evict() => {}
                Err(error) => return Err(error),
            }
        };
        let unit = Unit {
            range,
            mapping: Some(mapping),
            pins: 0,
            round: self.round,
        };
        self.units.insert(start, unit);
        self.order.insert(start);
        self.statistics.resident_bytes += need;
        self.statistics.peak_bytes = self.statistics.peak_bytes.max(self.statistics.resident_bytes);
        Ok(true)
    }

    /// Unmaps one unit that this round does not use; `false` if there is none.
    fn evict(&mut self) -> bool {
        loop {
            let (units, round) = (&self.units, self.round);
            let is_protected = |start| units.get(&start).is_some_and(|unit: &Unit| unit.round == round);
            let Some(victim) = self.order.victim(is_protected) else {
                return false;
            };
            match self.unmap(victim) {
                Ok(()) => {
                    self.statistics.evicted += 1;
                    return true;
                }
                Err(error) => tracing::error!(iova = %victim, %error, "not evicted"),
            }
        }
    }

    /// Unmaps a unit that the order does not have. On failure it stays, for ever.
    pub(super) fn unmap(&mut self, start: Iova) -> Result<()> {
        let Some(unit) = self.units.get_mut(&start) else {
            return Ok(());
        };
        let bytes = len(unit.range);
        match unit.mapping.take() {
            None => return Err(Error::InUse(unit.range)),
            Some(mapping) => {
                if let Err(error) = mapping.unmap() {
                    self.statistics.stuck += 1;
                    return Err(error);
                }
            }
        }
        self.units.remove(&start);
        self.statistics.resident_bytes -= bytes;
        Ok(())
    }

    /// Maps what a device is likely to ask for next. May evict, but nothing that this group uses, and never more than half of the budget.
    fn map_ahead(&mut self, starts: &[Iova]) {
        let (Some(&first), Some(&last)) = (starts.first(), starts.last()) else {
            return;
        };
        let unit = self.options.unit;
        let most = self.options.budget / unit / 2;
        let count = u64::from(self.ahead.units(first)).min(most);
        let mut next = last.checked_add(unit);
        for _ in 0..count {
            let in_region =
                |iova: &Iova| IovaRange::new(*iova, 1).is_some_and(|byte| self.units_of(byte, Access::empty()).is_ok());
            let Some(start) = next.filter(in_region) else { break };
            match self.bring(start) {
                Ok(is_new) => self.statistics.prefetched += u64::from(is_new),
                // Nobody has asked for it.
                Err(error) => {
                    tracing::debug!(%error, "not mapped ahead");
                    break;
                }
            }
            next = start.checked_add(unit);
        }
        self.ahead.ended(next);
    }

    fn over_budget(&self, need: u64) -> Error {
        Error::NoSpace {
            len: need,
            alignment: self.options.unit,
        }
    }
}

/// What a request asks for; a length of 0 is a byte.
fn range_of(request: &PageRequest) -> Option<IovaRange> {
    IovaRange::new(request.iova, u64::from(request.length.max(1)))
}

/// What the mapping must allow; `None` for what no mapping gives. Executing is reading, for an IOMMU without its own bit for it.
fn access_of(asked: PageAccess) -> Option<Access> {
    if asked.contains(PageAccess::PRIV) {
        return None;
    }
    let mut access = Access::empty();
    access.set(Access::READ, asked.intersects(PageAccess::READ | PageAccess::EXEC));
    access.set(Access::WRITE, asked.contains(PageAccess::WRITE));
    Some(access)
}

/// Whether unmapping something else can help.
fn is_shortage(error: &Error) -> bool {
    let Error::Kernel(error) = error else { return false };
    matches!(error.kind, ErrorKind::MemlockExceeded { .. } | ErrorKind::MappingLimit)
        || error.errno() == Some(Errno::NOMEM)
}
