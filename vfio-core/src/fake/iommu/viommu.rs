//! Slices of an IOMMU for a guest: virtual IOMMUs, their devices, events and queues (`viommu.c`, `eventq.c`).

use super::context::{Context, Env, Kind};
use super::fault::Ready;
use super::hwpt::{Hwpt, NEST_PARENT};
use super::pages::PAGE;
use crate::sys::Result;
use crate::sys::iommufd::Id;
use iommufd_bindings::iommufd::iommu_veventq_flag_IOMMU_VEVENTQ_FLAG_LOST_EVENTS as LOST_EVENTS;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes of `struct iommufd_vevent_header`.
const HEADER_LEN: usize = 8;
/// More events than any queue may hold.
const LARGEST_DEPTH: u32 = 1 << 19;

#[derive(Debug)]
pub(crate) struct Viommu {
    pub(crate) hwpt: Id,
}

#[derive(Debug)]
pub(crate) struct Vdevice {
    viommu: Id,
    device: Id,
    virtual_id: u64,
}

/// A queue of events; what does not fit leaves a note with the number of the last event that was lost.
#[derive(Debug)]
pub(crate) struct VeventQueue {
    pub(crate) viommu: Id,
    kind: u32,
    depth: usize,
    sequence: u32,
    events: VecDeque<Vevent>,
    pub(crate) ready: Ready,
}

#[derive(Debug)]
struct Vevent {
    sequence: u32,
    /// `None` is the note of lost events.
    data: Option<Vec<u8>>,
}

/// A queue in guest memory that hardware reads by physical address.
#[derive(Debug)]
pub(crate) struct HwQueue {
    viommu: Id,
    index: u32,
    range: (u64, u64),
}

impl Context {
    pub(crate) fn viommu_alloc(&mut self, env: &Env<'_>, device: Id, hwpt: Id, kind: u32) -> Result<Id> {
        if kind == 0 {
            return Err(Errno::OPNOTSUPP);
        }
        self.devices.get(&device).ok_or(Errno::NOENT)?;
        if env.iommu.viommu != Some(kind) {
            return Err(Errno::OPNOTSUPP);
        }
        let parent = self
            .hwpts
            .get(&hwpt)
            .filter(|hwpt| hwpt.ioas().is_some())
            .ok_or(Errno::NOENT)?;
        if !parent.has(NEST_PARENT) {
            return Err(Errno::INVAL);
        }
        let id = self.new_id(Kind::Viommu);
        self.viommus.insert(id, Viommu { hwpt });
        self.hold(hwpt);
        Ok(id)
    }

    pub(crate) fn vdevice_alloc(&mut self, viommu: Id, device: Id, virtual_id: u64) -> Result<Id> {
        self.viommus.get(&viommu).ok_or(Errno::NOENT)?;
        let bound = self.devices.get(&device).ok_or(Errno::NOENT)?;
        let taken = self
            .vdevices
            .values()
            .any(|vdevice| (vdevice.viommu, vdevice.virtual_id) == (viommu, virtual_id));
        if bound.vdevice.is_some() || taken {
            return Err(Errno::EXIST);
        }
        let id = self.new_id(Kind::Vdevice);
        self.vdevices.insert(
            id,
            Vdevice {
                viommu,
                device,
                virtual_id,
            },
        );
        if let Some(bound) = self.devices.get_mut(&device) {
            bound.vdevice = Some(id);
        }
        self.hold(viommu);
        Ok(id)
    }

    pub(crate) fn end_vdevice(&mut self, id: Id) {
        let Some(vdevice) = self.vdevices.remove(&id) else {
            return;
        };
        if let Some(bound) = self.devices.get_mut(&vdevice.device) {
            bound.vdevice = None;
        }
        self.put(vdevice.viommu);
    }

    pub(crate) fn veventq_alloc(&mut self, viommu: Id, kind: u32, depth: u32) -> Result<(Id, Arc<OwnedFd>)> {
        if kind == 0 {
            return Err(Errno::OPNOTSUPP);
        }
        if depth == 0 || depth > LARGEST_DEPTH {
            return Err(Errno::INVAL);
        }
        self.viommus.get(&viommu).ok_or(Errno::NOENT)?;
        if self
            .veventqs
            .values()
            .any(|queue| (queue.viommu, queue.kind) == (viommu, kind))
        {
            return Err(Errno::EXIST);
        }
        let ready = Ready::new()?;
        let event = ready.event();
        let depth = usize::try_from(depth).map_err(|_error| Errno::INVAL)?;
        let id = self.new_id(Kind::VeventQueue);
        let queue = VeventQueue {
            viommu,
            kind,
            depth,
            sequence: 0,
            events: VecDeque::new(),
            ready,
        };
        self.veventqs.insert(id, queue);
        self.hold(viommu);
        // The open file.
        self.hold(id);
        Ok((id, event))
    }

    /// An event of a device reaches the queue of its virtual IOMMU.
    pub(crate) fn report_vevent(&mut self, device: Id, kind: u32, data: &[u8]) -> Result<()> {
        let vdevice = self
            .devices
            .get(&device)
            .and_then(|bound| bound.vdevice)
            .ok_or(Errno::NOENT)?;
        let viommu = self.vdevices.get(&vdevice).ok_or(Errno::NOENT)?.viommu;
        let of = |queue: &&mut VeventQueue| (queue.viommu, queue.kind) == (viommu, kind);
        let queue = self.veventqs.values_mut().find(of).ok_or(Errno::OPNOTSUPP)?;
        queue.report(data);
        Ok(())
    }

    pub(crate) fn hw_queue_alloc(
        &mut self,
        env: &mut Env<'_>,
        viommu: Id,
        kind: u32,
        index: u32,
        iova: u64,
        len: u64,
    ) -> Result<Id> {
        if kind == 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let less_one = len.checked_sub(1).ok_or(Errno::INVAL)?;
        let last = iova.checked_add(less_one).ok_or(Errno::OVERFLOW)?;
        let hwpt = self.viommus.get(&viommu).ok_or(Errno::NOENT)?.hwpt;
        if env.iommu.hw_queue != Some(kind) {
            return Err(Errno::OPNOTSUPP);
        }
        // Queues are made in order.
        let queues = self.hw_queues.values().filter(|queue| queue.viommu == viommu);
        let next = u32::try_from(queues.clone().count()).map_err(|_error| Errno::OVERFLOW)?;
        if queues.clone().any(|queue| queue.index == index) {
            return Err(Errno::EXIST);
        }
        if index > next {
            return Err(Errno::IO);
        }
        let ioas = self.hwpts.get(&hwpt).and_then(Hwpt::ioas).ok_or(Errno::NOENT)?;
        let start = iova / PAGE * PAGE;
        let end = last | (PAGE - 1);
        let ioas = self.ioas(ioas)?;
        let parts = ioas.table.parts(start, end - start + 1)?;
        if parts.len() > 1 {
            // Not contiguous in physical memory.
            return Err(Errno::FAULT);
        }
        ioas.table.lock(start, end, true);
        let id = self.new_id(Kind::HwQueue);
        self.hw_queues.insert(
            id,
            HwQueue {
                viommu,
                index,
                range: (start, end),
            },
        );
        self.hold(viommu);
        Ok(id)
    }

    pub(crate) fn end_hw_queue(&mut self, _env: &mut Env<'_>, id: Id) {
        let Some(queue) = self.hw_queues.remove(&id) else {
            return;
        };
        let hwpt = self.viommus.get(&queue.viommu).map(|viommu| viommu.hwpt);
        let ioas = hwpt.and_then(|hwpt| self.ioas_of(hwpt));
        if let Some(ioas) = ioas.and_then(|ioas| self.ioas.get_mut(&ioas)) {
            ioas.table.lock(queue.range.0, queue.range.1, false);
        }
        self.put(queue.viommu);
    }
}

impl VeventQueue {
    fn report(&mut self, data: &[u8]) {
        if self.events.back().is_some_and(|event| event.data.is_none()) {
            self.events.pop_back();
        }
        let held = self.events.iter().filter(|event| event.data.is_some()).count();
        let data = (held < self.depth).then(|| data.to_vec());
        self.events.push_back(Vevent {
            sequence: self.sequence,
            data,
        });
        self.sequence = (self.sequence + 1) & (u32::MAX >> 1);
        self.ready.set(true);
    }

    pub(crate) fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        if to.len() < HEADER_LEN {
            return Err(Errno::INVAL);
        }
        let mut done = 0;
        while let Some(event) = self.events.front() {
            let data = event.data.as_deref().unwrap_or_default();
            let Some(to) = to.get_mut(done..done + HEADER_LEN + data.len()) else {
                if done == 0 {
                    return Err(Errno::INVAL);
                }
                break;
            };
            let flags = if event.data.is_none() { LOST_EVENTS } else { 0 };
            let (header, rest) = to.split_at_mut(HEADER_LEN);
            let (first, second) = header.split_at_mut(HEADER_LEN / 2);
            first.copy_from_slice(&flags.to_ne_bytes());
            second.copy_from_slice(&event.sequence.to_ne_bytes());
            rest.copy_from_slice(data);
            done += HEADER_LEN + data.len();
            self.events.pop_front();
        }
        self.ready.set(!self.events.is_empty());
        Ok(done)
    }
}
