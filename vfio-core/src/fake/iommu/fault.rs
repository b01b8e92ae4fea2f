//! Page requests of devices, and the queue in which they are read and answered (`eventq.c`, `io-pgfault.c`).

use super::attach::NO_PASID;
use super::context::{Context, Env, Kind};
use crate::sys::Result;
use crate::sys::iommufd::Id;
use iommufd_bindings::iommufd as uapi;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes of `struct iommu_hwpt_pgfault`.
pub(crate) const FAULT_LEN: usize = 40;
/// Bytes of `struct iommu_hwpt_page_response`.
pub(crate) const RESPONSE_LEN: usize = 8;

const PASID_VALID: u32 = uapi::iommu_hwpt_pgfault_flags_IOMMU_PGFAULT_FLAGS_PASID_VALID;
const LAST_PAGE: u32 = uapi::iommu_hwpt_pgfault_flags_IOMMU_PGFAULT_FLAGS_LAST_PAGE;

/// One page that a device asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) pasid: Option<u32>,
    pub(crate) group: u32,
    pub(crate) last: bool,
    /// `IOMMU_PGFAULT_PERM_*`.
    pub(crate) permissions: u32,
    pub(crate) address: u64,
}

/// What a device hears about a group of its page requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) function: usize,
    pub(crate) pasid: Option<u32>,
    pub(crate) group: u32,
    pub(crate) success: bool,
}

/// A whole group of requests that waits for its answer.
#[derive(Debug)]
pub(crate) struct Pending {
    function: usize,
    device: Id,
    /// The IOMMU group of the device.
    pub(crate) group: u32,
    /// The PASID whose page table it concerns.
    pub(crate) pasid: u32,
    faults: Vec<Fault>,
}

/// A queue of page requests.
#[derive(Debug)]
pub(crate) struct FaultQueue {
    deliver: VecDeque<Pending>,
    response: BTreeMap<u32, Pending>,
    pub(crate) ready: Ready,
}

/// Readable while there is something to read.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    event: Arc<OwnedFd>,
    on: bool,
}

impl Ready {
    pub(crate) fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            event: Arc::new(event),
            on: false,
        })
    }

    pub(crate) fn event(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.event)
    }

    pub(crate) fn set(&mut self, on: bool) {
        let changed = match (self.on, on) {
            (false, true) => write(&self.event, &1_u64.to_ne_bytes()),
            (true, false) => read(&self.event, &mut [0_u8; 8]),
            _ => return,
        };
        // An eventfd of our own takes a 1 and gives it back.
        debug_assert!(changed.is_ok(), "eventfd: {changed:?}");
        self.on = on;
    }
}

impl Pending {
    fn answer(&self, success: bool) -> Option<Answer> {
        let last = self.faults.last()?;
        Some(Answer {
            function: self.function,
            pasid: last.pasid,
            group: last.group,
            success,
        })
    }
}

impl FaultQueue {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            deliver: VecDeque::new(),
            response: BTreeMap::new(),
            ready: Ready::new()?,
        })
    }

    /// Refuses the requests that match.
    pub(crate) fn abort(&mut self, matches: impl Fn(&Pending) -> bool) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut keep = |pending: &Pending| {
            let aborted = matches(pending);
            answers.extend(aborted.then(|| pending.answer(false)).flatten());
            !aborted
        };
        self.deliver.retain(&mut keep);
        self.response.retain(|_, pending| keep(pending));
        self.ready.set(!self.deliver.is_empty());
        answers
    }

    /// Whole groups only; 0 bytes when there is none.
    pub(crate) fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        if !to.len().is_multiple_of(FAULT_LEN) {
            return Err(Errno::SPIPE);
        }
        let mut done = 0;
        while let Some(pending) = self.deliver.front() {
            let len = pending.faults.len() * FAULT_LEN;
            let Some(to) = to.get_mut(done..done + len) else {
                if done == 0 {
                    return Err(Errno::INVAL);
                }
                break;
            };
            let cookie = self.free_cookie();
            for (fault, to) in pending.faults.iter().zip(to.chunks_exact_mut(FAULT_LEN)) {
                to.copy_from_slice(&record(fault, pending.device, cookie));
            }
            done += len;
            if let Some(pending) = self.deliver.pop_front() {
                self.response.insert(cookie, pending);
            }
        }
        self.ready.set(!self.deliver.is_empty());
        Ok(done)
    }

    pub(crate) fn write(&mut self, from: &[u8], answers: &mut Vec<Answer>) -> Result<usize> {
        if !from.len().is_multiple_of(RESPONSE_LEN) {
            return Err(Errno::SPIPE);
        }
        let mut done = 0;
        for response in from.as_chunks::<RESPONSE_LEN>().0 {
            let [a, b, c, d, e, f, g, h] = *response;
            let (cookie, code) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
            let pending = if code <= 1 { self.response.remove(&cookie) } else { None };
            match pending {
                Some(pending) => answers.extend(pending.answer(code == 0)),
                None if done == 0 => return Err(Errno::INVAL),
                None => break,
            }
            done += RESPONSE_LEN;
        }
        Ok(done)
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.deliver.len() + self.response.len()
    }

    fn free_cookie(&self) -> u32 {
        let mut cookie = 1;
        for taken in self.response.keys() {
            if *taken != cookie {
                break;
            }
            cookie += 1;
        }
        cookie
    }
}

/// `struct iommu_hwpt_pgfault`.
fn record(fault: &Fault, device: Id, cookie: u32) -> [u8; FAULT_LEN] {
    let flags = fault.pasid.map_or(0, |_| PASID_VALID) | if fault.last { LAST_PAGE } else { 0 };
    let [a, b] = split(fault.address);
    let words = [
        flags,
        device,
        fault.pasid.unwrap_or_default(),
        fault.group,
        fault.permissions,
        0,
        a,
        b,
        0,
        cookie,
    ];
    let mut bytes = [0; FAULT_LEN];
    for (word, to) in words.into_iter().zip(bytes.as_chunks_mut::<4>().0) {
        *to = word.to_ne_bytes();
    }
    bytes
}

/// The halves of a `u64` as they lie in memory.
fn split(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

impl Context {
    pub(crate) fn fault_queue_alloc(&mut self) -> Result<(Id, Arc<OwnedFd>)> {
        let queue = FaultQueue::new()?;
        let event = queue.ready.event();
        let id = self.new_id(Kind::FaultQueue);
        self.faults.insert(id, queue);
        // The open file.
        self.hold(id);
        Ok((id, event))
    }

    /// Whether a device's requests for a PASID find a queue.
    pub(crate) fn fault_queue_of(&self, device: Id, pasid: u32) -> Option<Id> {
        self.hwpts.get(&self.attached(device, pasid)?.hwpt)?.fault
    }

    /// Queues a whole group of requests, the last one last.
    pub(crate) fn report_faults(&mut self, env: &Env<'_>, device: Id, faults: Vec<Fault>) -> Result<()> {
        let pasid = faults.last().and_then(|fault| fault.pasid).unwrap_or(NO_PASID);
        let bound = self.devices.get(&device).ok_or(Errno::NODEV)?;
        let (function, group) = (bound.function, bound.group);
        let queue = self
            .fault_queue_of(device, pasid)
            .and_then(|id| self.faults.get_mut(&id))
            .ok_or(Errno::INVAL)?;
        if queue.unanswered() >= env.iommu.page_requests {
            return Err(Errno::OVERFLOW);
        }
        queue.deliver.push_back(Pending {
            function,
            device,
            group,
            pasid,
            faults,
        });
        queue.ready.set(true);
        Ok(())
    }
}
