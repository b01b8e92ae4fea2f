//! From a group of page requests to its answer.

use super::region::Region;
use super::{DemandSpace, Unit, len};
use crate::{Error, Iova, IovaRange, Obstacle, Result};
use std::collections::{BTreeMap, BTreeSet};
use vfio_core::iommufd::{ObjectId, PageAccess, PageRequest, PageRequestGroup, Response};
use vfio_core::{Access, Errno, ErrorKind};

/// Groups that one call serves at most, so that a device which asks without end does not keep its caller.
const GROUPS: usize = 256;
/// Units that are evicted at most for one that the kernel does not map, however much it could hold.
const TRIES: u32 = 16;
const NO_REGION: Error = Error::Invalid("no region");

impl DemandSpace {
    /// Serves the groups of page requests that wait, up to 256 of them, and returns how many that were. Never waits for one: wait for
    /// [`ready`](Self::ready) for that. Ends early before a group that would evict what this call has brought, so that devices can use
    /// it first ([`is_crowded`](Self::is_crowded)).
    ///
    /// A group is answered as invalid when it asks for what was not added or for access that was not given, carries another PASID,
    /// needs more than the budget, or when memory cannot be had; [`Statistics`](super::Statistics) tell which. None of that is an error
    /// here.
    ///
    /// # Errors
    ///
    /// Those of the source.
    pub fn serve(&mut self) -> Result<usize> {
        self.round += 1;
        for served in 0..GROUPS {
            let group = match self.deferred.take() {
                Some(deferred) => deferred,
                None => {
                    let Some(group) = self.source.next()? else {
                        return Ok(served);
                    };
                    self.statistics.groups += 1;
                    self.statistics.requests += group.requests.len() as u64;
                    group
                }
            };
            if let Some(group) = self.serve_group(group, served == 0)? {
                self.statistics.deferred += 1;
                self.deferred = Some(group);
                return Ok(served);
            }
        }
        Ok(GROUPS)
    }

    /// Gives the group back, unanswered, if there is no room beside what earlier ones of the round brought.
    fn serve_group(&mut self, group: PageRequestGroup, is_first: bool) -> Result<Option<PageRequestGroup>> {
        let wanted = self.wanted(&group);
        // What fits nowhere is refused at once.
        let may_wait = wanted.is_ok() && !is_first;
        let served = wanted.and_then(|(starts, repeated)| {
            self.bring_all(&starts)?;
            Ok((starts, repeated))
        });
        let response = match &served {
            Ok((_, repeated)) => {
                self.statistics.repeated += repeated;
                Response::Success
            }
            Err(error) if may_wait && (matches!(error, Error::NoSpace { .. }) || is_shortage(error)) => {
                return Ok(Some(group));
            }
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
        let device = group.requests.first().map(|request| request.device);
        // The device waits: what is mapped ahead comes after the answer.
        match group.respond(response) {
            // Its device was detached, and that has answered it.
            Err(error) if matches!(error.kind, ErrorKind::NotFound(_)) => self.statistics.late += 1,
            answered => answered?,
        }
        if let (Ok((starts, _)), Some(device)) = (served, device) {
            self.map_ahead(device, &starts);
        }
        Ok(None)
    }

    /// The units that a group asks for, sorted, and how many of its requests are for what is there already.
    fn wanted(&self, group: &PageRequestGroup) -> Result<(Vec<Iova>, u64)> {
        let (mut starts, mut repeated) = (BTreeSet::new(), 0);
        for request in &group.requests {
            let asked = range_of(request).unwrap_or(IovaRange::ALL);
            let access = access_of(request.access).filter(|_| request.pasid == self.options.pasid);
            let of_request = self.units_of(asked, access.ok_or(Error::NotAllowed(asked))?)?;
            let is_there = of_request.iter().all(|start| self.is_mapped(*start));
            repeated += u64::from(is_there);
            starts.extend(of_request);
            self.within_budget(starts.len() as u64)?;
        }
        Ok((starts.into_iter().collect(), repeated))
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

    /// Maps units that are not mapped yet. They are as used now.
    pub(super) fn bring_all(&mut self, starts: &[Iova]) -> Result<()> {
        // Those that are there must not go to make room for the others.
        for start in starts {
            if let Some(unit) = self.units.get_mut(start) {
                unit.round = self.round;
                self.order.touch(*start);
            }
        }
        for start in starts {
            let was_evicted = self.evicted.contains(*start);
            if self.bring(*start)? {
                self.statistics.mapped += 1;
                self.statistics.refaults += u64::from(was_evicted);
            }
        }
        Ok(())
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
        let range = self.region_at(start)?.unit(start, self.options.unit);
        let range = range.ok_or(NO_REGION)?;
        let need = len(range);
        // Once, and first: evicting frees no memory, only room to map.
        self.region_at(start)?.populate(range)?;
        while self.statistics.resident_bytes + need > self.options.budget {
            if !self.evict() {
                return Err(self.over_budget(need));
            }
        }
        let mut tries = 0;
        let mapping = loop {
            match self.region_at(start)?.map(&self.space, range) {
                Ok(mapping) => break mapping,
                // A limit that is lower than the budget: memory that may be locked, mappings of a container.
                Err(error) if is_shortage(&error) && tries < TRIES && self.evict() => tries += 1,
                Err(error) => return Err(error),
            }
        };
        let unit = Unit {
            range,
            mapping: Some(mapping),
            round: self.round,
        };
        self.units.insert(start, unit);
        if !self.pins.contains_key(&start) {
            self.order.insert(start);
        }
        self.statistics.resident_bytes += need;
        self.statistics.peak_bytes = self.statistics.peak_bytes.max(self.statistics.resident_bytes);
        Ok(true)
    }

    fn region_at(&self, start: Iova) -> Result<&Region> {
        let before = self.regions.range(..=start).next_back();
        before.map(|(_, region)| region).ok_or(NO_REGION)
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
                    let most = self.options.budget / self.options.unit;
                    self.evicted.insert(victim, usize::try_from(most).unwrap_or(usize::MAX));
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
            // An unmapping of it failed before.
            None => {
                return Err(Error::InUse {
                    wanted: unit.range,
                    range: unit.range,
                    by: Obstacle::Leaked,
                });
            }
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

    /// Maps what a device is likely to ask for next. May evict, but nothing that this round uses, and never more than half of the budget.
    fn map_ahead(&mut self, device: ObjectId, starts: &[Iova]) {
        let mut asked = BTreeMap::new();
        for start in starts {
            if let Ok(region) = self.region_at(*start) {
                let (_, last) = asked.entry(region.range().start()).or_insert((*start, *start));
                *last = *start;
            }
        }
        let mut most = self.options.budget / self.options.unit / 2;
        for (region, (first, last)) in asked {
            let key = (device, region);
            let count = u64::from(self.ahead.units(key, first)).min(most);
            most -= count;
            let next = self.map_after(region, last, count);
            self.ahead.ended(key, next);
        }
    }

    /// Maps up to `count` units of a region after one, and returns the next.
    fn map_after(&mut self, region: Iova, last: Iova, count: u64) -> Option<Iova> {
        let end = self.regions.get(&region)?.range().last();
        let mut next = last.checked_add(self.options.unit);
        for _ in 0..count {
            let Some(start) = next.filter(|start| *start <= end) else {
                break;
            };
            match self.bring(start) {
                Ok(is_new) => self.statistics.prefetched += u64::from(is_new),
                // Nobody has asked for it.
                Err(error) => {
                    tracing::debug!(%error, "not mapped ahead");
                    break;
                }
            }
            next = start.checked_add(self.options.unit);
        }
        next
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
