//! A small kernel for these tests: objects with users, address spaces with mappings, and failures on request.

use crate::sys::Result;
use crate::sys::iommufd::{Calls, HwInfo, HwptAlloc, Id, Queue};
use crate::sys::located::Located;
use crate::sys::space::Lent;
use crate::{Access, StableMemory};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

#[derive(Debug, Default)]
pub(super) struct Machine {
    state: Mutex<State>,
    observer: OnceLock<Observer>,
}

/// Is told of each call as it begins.
struct Observer(Box<dyn Fn(&'static str) + Send + Sync>);

#[derive(Debug, Default)]
pub(super) struct State {
    last: Id,
    /// By id, the ids that each depends on.
    pub(super) objects: BTreeMap<Id, Vec<Id>>,
    pub(super) destroyed: Vec<Id>,
    pub(super) mappings: BTreeMap<(Id, u64), Piece>,
    /// What calls of that name answer next.
    failures: Vec<(&'static str, Errno)>,
    /// Mappings at these places cannot be unmapped.
    pub(super) locked: Vec<(Id, u64)>,
    /// What the next unmap returns too few.
    pub(super) short_by: u64,
    /// Where the next mapping goes instead.
    pub(super) elsewhere: Option<u64>,
    pub(super) ranges: Vec<(u64, u64)>,
    pub(super) alignment: u64,
    pub(super) hw_info: Vec<u8>,
    open_queues: Vec<Id>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) len: u64,
    /// Address of the memory.
    pub(super) memory: usize,
}

impl Machine {
    pub(super) fn new() -> Arc<Self> {
        let machine = Self::default();
        machine.state().ranges = vec![(0x1000, 0xffff_ffff)];
        machine.state().alignment = 0x1000;
        Arc::new(machine)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn fail(&self, call: &'static str, errno: Errno) {
        self.state().failures.push((call, errno));
    }

    pub(super) fn observe(&self, observer: impl Fn(&'static str) + Send + Sync + 'static) {
        assert!(self.observer.set(Observer(Box::new(observer))).is_ok(), "one is enough");
    }

    /// Lets other threads in, then begins a call.
    fn begin(&self, call: &'static str) -> Result<MutexGuard<'_, State>> {
        std::thread::yield_now();
        if let Some(Observer(observe)) = self.observer.get() {
            observe(call);
        }
        let mut state = self.state();
        match state.failures.iter().position(|(name, _)| *name == call) {
            Some(at) => Err(state.failures.remove(at).1),
            None => Ok(state),
        }
    }

    fn make(&self, call: &'static str, parents: &[Id]) -> Result<Id> {
        let mut state = self.begin(call)?;
        assert!(
            parents.iter().all(|id| state.objects.contains_key(id)),
            "{call} over {parents:?}"
        );
        state.last += 1;
        let id = state.last;
        state.objects.insert(id, parents.to_vec());
        Ok(id)
    }

    fn queue(self: &Arc<Self>, id: Id) -> Box<dyn Queue> {
        self.state().open_queues.push(id);
        Box::new(Events {
            machine: Arc::clone(self),
            id,
        })
    }
}

impl State {
    fn overlaps(&self, ioas: Id, start: u64, last: u64) -> bool {
        let inside = self.mappings.range((ioas, 0)..=(ioas, u64::MAX));
        inside
            .into_iter()
            .any(|((_, other), piece)| *other <= last && start <= other + (piece.len - 1))
    }

    fn place(&mut self, ioas: Id, iova: Option<u64>, piece: Piece) -> Result<u64> {
        let start = self.elsewhere.take().or(iova).unwrap_or(0x10_0000);
        let last = start.checked_add(piece.len - 1).ok_or(Errno::OVERFLOW)?;
        if !start.is_multiple_of(self.alignment)
            || !self.ranges.iter().any(|(first, end)| *first <= start && last <= *end)
        {
            return Err(Errno::INVAL);
        }
        if self.overlaps(ioas, start, last) {
            return Err(Errno::EXIST);
        }
        self.mappings.insert((ioas, start), piece);
        Ok(start)
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// What the tests open; a wrapper, because queues hold the machine.
#[derive(Debug)]
pub(super) struct Open(pub(super) Arc<Machine>);

impl Calls for Open {
    fn destroy(&self, id: Id) -> Result<()> {
        let mut state = self.0.begin("destroy")?;
        let used = state.objects.values().any(|parents| parents.contains(&id));
        let mapped = state
            .mappings
            .keys()
            .any(|(ioas, start)| *ioas == id && state.locked.contains(&(id, *start)));
        if used || mapped || state.open_queues.contains(&id) {
            return Err(Errno::BUSY);
        }
        state.mappings.retain(|(ioas, _), _| *ioas != id);
        state.objects.remove(&id).ok_or(Errno::NOENT)?;
        state.destroyed.push(id);
        Ok(())
    }

    fn ioas_alloc(&self) -> Result<Id> {
        self.0.make("ioas_alloc", &[])
    }

    fn ioas_iova_ranges(&self, _: Id, ranges: &mut [(u64, u64)]) -> Result<(u32, u64)> {
        let state = self.0.begin("ioas_iova_ranges")?;
        ranges.iter_mut().zip(&state.ranges).for_each(|(to, from)| *to = *from);
        Ok((state.ranges.len().try_into().unwrap(), state.alignment))
    }

    fn ioas_allow_iovas(&self, _: Id, _: &[(u64, u64)]) -> Result<()> {
        self.0.begin("ioas_allow_iovas").map(drop)
    }

    fn ioas_map(
        &self,
        ioas: Id,
        memory: &Lent<Located>,
        part: Range<usize>,
        iova: Option<u64>,
        _: Access,
    ) -> Result<u64> {
        let piece = Piece {
            len: part.len() as u64,
            memory: memory.address().addr() + part.start,
        };
        self.0.begin("ioas_map")?.place(ioas, iova, piece)
    }

    fn ioas_map_file(
        &self,
        ioas: Id,
        _: BorrowedFd<'_>,
        _: u64,
        len: u64,
        iova: Option<u64>,
        _: Access,
    ) -> Result<u64> {
        self.0
            .begin("ioas_map_file")?
            .place(ioas, iova, Piece { len, memory: 0 })
    }

    fn ioas_copy(&self, to: Id, from: Lent<(Id, u64)>, len: u64, iova: Option<u64>, _: Access) -> Result<u64> {
        let mut state = self.0.begin("ioas_copy")?;
        let piece = *state
            .mappings
            .get(&*from)
            .filter(|piece| piece.len == len)
            .ok_or(Errno::NOENT)?;
        state.place(to, iova, piece)
    }

    fn ioas_unmap(&self, ioas: Id, iova: u64, len: u64) -> Result<u64> {
        let last = iova.saturating_add(len - 1);
        let mut unmapped = 0;
        let mut next = Some(iova);
        // As the kernel does: one piece after the other, never going back, and the first that cannot go ends it with what went before
        // gone.
        while let Some(from) = next.filter(|from| *from <= last) {
            let mut state = self.0.begin("ioas_unmap")?;
            let found = state.mappings.range((ioas, 0)..=(ioas, u64::MAX));
            let first = found
                .into_iter()
                .find(|((_, start), piece)| *start <= last && from <= start + (piece.len - 1));
            let Some((&key, &piece)) = first else { break };
            let piece_last = key.1 + (piece.len - 1);
            if state.locked.contains(&key) {
                return Err(Errno::BUSY);
            }
            if key.1 < from || piece_last > last {
                return Err(Errno::NOENT);
            }
            state.mappings.remove(&key);
            unmapped += piece.len;
            next = piece_last.checked_add(1);
        }
        let everything = (iova, len) == (0, u64::MAX);
        if unmapped == 0 && !everything {
            return Err(Errno::NOENT);
        }
        Ok(unmapped - std::mem::take(&mut self.0.state().short_by))
    }

    fn ioas_change_process(&self) -> Result<()> {
        self.0.begin("ioas_change_process").map(drop)
    }

    fn ioas_noiommu_get_pa(&self, _: Id, _: u64) -> Result<(u64, u64)> {
        Err(Errno::NOTTY)
    }

    fn option_get(&self, _: u32, _: Id) -> Result<u64> {
        Ok(7)
    }

    fn option_set(&self, _: u32, _: Id, _: u64) -> Result<()> {
        self.0.begin("option_set").map(drop)
    }

    fn vfio_ioas_get(&self) -> Result<Id> {
        Err(Errno::NODEV)
    }

    fn vfio_ioas_set(&self, _: Id) -> Result<()> {
        Ok(())
    }

    fn vfio_ioas_clear(&self) -> Result<()> {
        Ok(())
    }

    fn hwpt_alloc(&self, request: &HwptAlloc<'_>) -> Result<Id> {
        let parents: Vec<Id> = std::iter::once(request.parent).chain(request.fault).collect();
        self.0.make("hwpt_alloc", &parents)
    }

    fn get_hw_info(&self, _: Id, kind: Option<u32>, data: &mut [u8]) -> Result<HwInfo> {
        let state = self.0.begin("get_hw_info")?;
        data.iter_mut().zip(&state.hw_info).for_each(|(to, from)| *to = *from);
        Ok(HwInfo {
            kind: kind.unwrap_or(99),
            len: state.hw_info.len().try_into().unwrap(),
            capabilities: 1 << 63 | 8,
            max_pasid_log2: 20,
        })
    }

    fn hwpt_set_dirty_tracking(&self, _: Id, _: bool) -> Result<()> {
        Err(Errno::OPNOTSUPP)
    }

    fn hwpt_get_dirty_bitmap(&self, _: Id, _: bool, _: u64, _: u64, _: u64, bitmap: &mut [u64]) -> Result<()> {
        bitmap.fill(u64::MAX);
        Ok(())
    }

    fn hwpt_invalidate(&self, _: Id, _: u32, entry_len: u32, entries: &[u8]) -> (u32, Result<()>) {
        let count = u32::try_from(entries.len()).unwrap() / entry_len;
        if count > 2 {
            (2, Err(Errno::IO))
        } else {
            (count, Ok(()))
        }
    }

    fn fault_queue_alloc(&self) -> Result<(Id, Box<dyn Queue>)> {
        let id = self.0.make("fault_queue_alloc", &[])?;
        Ok((id, self.0.queue(id)))
    }

    fn viommu_alloc(&self, _: Id, hwpt: Id, _: u32, _: &mut [u8]) -> Result<Id> {
        self.0.make("viommu_alloc", &[hwpt])
    }

    fn vdevice_alloc(&self, viommu: Id, device: Id, _: u64) -> Result<Id> {
        self.0.make("vdevice_alloc", &[viommu, device])
    }

    fn veventq_alloc(&self, viommu: Id, _: u32, _: u32) -> Result<(Id, Box<dyn Queue>)> {
        let id = self.0.make("veventq_alloc", &[viommu])?;
        Ok((id, self.0.queue(id)))
    }

    /// In order: each queue depends on the one that was made before it.
    fn hw_queue_alloc(&self, viommu: Id, _: u32, index: u32, _: u64, _: u64) -> Result<Id> {
        let before = self.0.state().last;
        let parents = if index == 0 { vec![viommu] } else { vec![viommu, before] };
        self.0.make("hw_queue_alloc", &parents)
    }

    fn number(&self) -> i32 {
        -1
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        Ok(None)
    }
}

#[derive(Debug)]
struct Events {
    machine: Arc<Machine>,
    id: Id,
}

impl Queue for Events {
    fn read(&self, _: &mut [u8]) -> Result<usize> {
        Ok(0)
    }

    fn write(&self, from: &[u8]) -> Result<usize> {
        Ok(from.len())
    }

    fn ready(&self) -> BorrowedFd<'_> {
        unreachable!("nobody polls it")
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let id = self.id;
        self.machine.state().open_queues.retain(|open| *open != id);
    }
}
