//! An open `/dev/iommu`, and the files of its queues.

use super::context::{Context, Env, Kind};
use super::pages::Source;
use crate::fake::state::Shared;
use crate::sys::Result;
use crate::sys::iommufd::{Calls, HwInfo, HwptAlloc, Id, Queue};
use crate::sys::located::Located;
use crate::sys::space::Lent;
use crate::{Access, StableMemory};
use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// An open `/dev/iommu`.
#[derive(Debug)]
pub(crate) struct ContextFile {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: i32,
}

/// The way in that a user holds; what is bound holds the file itself.
#[derive(Debug)]
pub(crate) struct Handle(pub(crate) Arc<ContextFile>);

/// The file of a queue.
#[derive(Debug)]
struct QueueFile {
    context: Arc<ContextFile>,
    id: Id,
    event: Arc<OwnedFd>,
}

impl ContextFile {
    /// Opens one.
    pub(crate) fn open(shared: &Arc<Shared>) -> Arc<Self> {
        let mut state = shared.state();
        let number = state.new_number();
        let file = Arc::new(Self {
            shared: Arc::clone(shared),
            number,
        });
        let context = Context::new(Arc::downgrade(&file));
        state.contexts.insert(number, context);
        drop(state);
        file
    }

    /// Does something with the objects, and tells devices afterwards what they are to hear.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Context, &mut Env<'_>) -> Result<T>) -> Result<T> {
        self.shared.settled(|state| {
            let (context, mut env) = state.context(&self.shared, self.number).ok_or(Errno::BADF)?;
            act(context, &mut env)
        })
    }

    fn step<T>(&self, name: &'static str, act: impl FnOnce(&mut Context, &mut Env<'_>) -> Result<T>) -> Result<T> {
        self.shared.gate.enter(name)?;
        self.with(act)
    }
}

impl Drop for ContextFile {
    fn drop(&mut self) {
        self.shared.settled(|state| {
            let left = match state.context(&self.shared, self.number) {
                Some((context, mut env)) => context.close(&mut env),
                None => Vec::new(),
            };
            state.contexts.remove(&self.number);
            state.abandoned.extend(left);
        });
    }
}

impl Calls for Handle {
    fn destroy(&self, id: Id) -> Result<()> {
        let file = &self.0;
        file.shared.gate.enter("IOMMU_DESTROY")?;
        let destroyed = file.with(|context, env| context.destroy(env, id));
        destroyed.inspect_err(|errno| {
            let mistake = format!("IOMMU_DESTROY of {id}: {errno}");
            file.shared.state().mistakes.push(mistake);
        })
    }

    fn ioas_alloc(&self) -> Result<Id> {
        self.0.step("IOMMU_IOAS_ALLOC", |context, _| Ok(context.ioas_alloc()))
    }

    fn ioas_iova_ranges(&self, ioas: Id, ranges: &mut [(u64, u64)]) -> Result<(u32, u64)> {
        self.0.step("IOMMU_IOAS_IOVA_RANGES", |context, _| {
            context.ioas_iova_ranges(ioas, ranges)
        })
    }

    fn ioas_allow_iovas(&self, ioas: Id, ranges: &[(u64, u64)]) -> Result<()> {
        self.0.step("IOMMU_IOAS_ALLOW_IOVAS", |context, _| {
            context.ioas(ioas)?.table.allow(ranges)
        })
    }

    fn ioas_map(
        &self,
        ioas: Id,
        memory: &Lent<Located>,
        part: Range<usize>,
        iova: Option<u64>,
        access: Access,
    ) -> Result<u64> {
        self.0.step("IOMMU_IOAS_MAP", |context, env| {
            let source = Source::of_memory(memory, &part)?;
            context.ioas_map(env, ioas, source, iova, access)
        })
    }

    fn ioas_map_file(
        &self,
        ioas: Id,
        file: BorrowedFd<'_>,
        start: u64,
        len: u64,
        iova: Option<u64>,
        access: Access,
    ) -> Result<u64> {
        self.0.shared.gate.enter("IOMMU_IOAS_MAP_FILE")?;
        let last = start.checked_add(len.checked_sub(1).ok_or(Errno::INVAL)?);
        last.ok_or(Errno::OVERFLOW)?;
        let source = match self.0.shared.dma_buf(file, start, len)? {
            Some(source) => source,
            None => Source::File {
                file: file.try_clone_to_owned().map_err(|_error| Errno::MFILE)?,
                start,
            },
        };
        self.0
            .with(|context, env| context.ioas_map(env, ioas, (source, len), iova, access))
    }

    fn ioas_copy(&self, to: Id, from: Lent<(Id, u64)>, len: u64, iova: Option<u64>, access: Access) -> Result<u64> {
        self.0.step("IOMMU_IOAS_COPY", |context, env| {
            context.ioas_copy(env, to, *from, len, iova, access)
        })
    }

    fn ioas_unmap(&self, ioas: Id, iova: u64, len: u64) -> Result<u64> {
        self.0.step("IOMMU_IOAS_UNMAP", |context, env| {
            context.ioas_unmap(env, ioas, iova, len)
        })
    }

    fn ioas_change_process(&self) -> Result<()> {
        self.0
            .step("IOMMU_IOAS_CHANGE_PROCESS", |context, _| context.change_process())
    }

    fn ioas_noiommu_get_pa(&self, ioas: Id, iova: u64) -> Result<(u64, u64)> {
        self.0.step("IOMMU_IOAS_NOIOMMU_GET_PA", |context, _| {
            context.noiommu_get_pa(ioas, iova)
        })
    }

    fn option_get(&self, option: u32, object: Id) -> Result<u64> {
        self.0
            .step("IOMMU_OPTION", |context, _| context.option(option, object, None))
    }

    fn option_set(&self, option: u32, object: Id, value: u64) -> Result<()> {
        self.0.step("IOMMU_OPTION", |context, _| {
            context.option(option, object, Some(value)).map(|_| ())
        })
    }

    fn vfio_ioas_get(&self) -> Result<Id> {
        self.0.step("IOMMU_VFIO_IOAS", |context, _| context.compatible_ioas())
    }

    fn vfio_ioas_set(&self, ioas: Id) -> Result<()> {
        self.0.step("IOMMU_VFIO_IOAS", |context, _| context.vfio_ioas_set(ioas))
    }

    fn vfio_ioas_clear(&self) -> Result<()> {
        self.0.step("IOMMU_VFIO_IOAS", |context, _| {
            context.vfio_ioas = None;
            Ok(())
        })
    }

    fn hwpt_alloc(&self, request: &HwptAlloc<'_>) -> Result<Id> {
        self.0
            .step("IOMMU_HWPT_ALLOC", |context, env| context.hwpt_alloc(env, request))
    }

    fn get_hw_info(&self, device: Id, kind: Option<u32>, data: &mut [u8]) -> Result<HwInfo> {
        self.0.step("IOMMU_GET_HW_INFO", |context, env| {
            context.hw_info(env, device, kind, data)
        })
    }

    fn hwpt_set_dirty_tracking(&self, hwpt: Id, on: bool) -> Result<()> {
        self.0.step("IOMMU_HWPT_SET_DIRTY_TRACKING", |context, _| {
            context.set_dirty_tracking(hwpt, on)
        })
    }

    fn hwpt_get_dirty_bitmap(
        &self,
        hwpt: Id,
        clear: bool,
        iova: u64,
        len: u64,
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<()> {
        self.0.step("IOMMU_HWPT_GET_DIRTY_BITMAP", |context, _| {
            context.dirty_bitmap(hwpt, clear, (iova, len), page_size, bitmap)
        })
    }

    fn hwpt_invalidate(&self, hwpt: Id, kind: u32, entry_len: u32, entries: &[u8]) -> (u32, Result<()>) {
        let mut handled = 0;
        let result = self.0.step("IOMMU_HWPT_INVALIDATE", |context, _| {
            let result;
            (handled, result) = context.invalidate(hwpt, kind, entry_len, entries);
            result
        });
        (handled, result)
    }

    fn fault_queue_alloc(&self) -> Result<(Id, Box<dyn Queue>)> {
        let (id, event) = self
            .0
            .step("IOMMU_FAULT_QUEUE_ALLOC", |context, _| context.fault_queue_alloc())?;
        Ok((id, self.queue(id, event)))
    }

    fn viommu_alloc(&self, device: Id, hwpt: Id, kind: u32, _data: &mut [u8]) -> Result<Id> {
        self.0.step("IOMMU_VIOMMU_ALLOC", |context, env| {
            context.viommu_alloc(env, device, hwpt, kind)
        })
    }

    fn vdevice_alloc(&self, viommu: Id, device: Id, virtual_id: u64) -> Result<Id> {
        self.0.step("IOMMU_VDEVICE_ALLOC", |context, _| {
            context.vdevice_alloc(viommu, device, virtual_id)
        })
    }

    fn veventq_alloc(&self, viommu: Id, kind: u32, depth: u32) -> Result<(Id, Box<dyn Queue>)> {
        let (id, event) = self.0.step("IOMMU_VEVENTQ_ALLOC", |context, _| {
            context.veventq_alloc(viommu, kind, depth)
        })?;
        Ok((id, self.queue(id, event)))
    }

    fn hw_queue_alloc(&self, viommu: Id, kind: u32, index: u32, iova: u64, len: u64) -> Result<Id> {
        self.0.step("IOMMU_HW_QUEUE_ALLOC", |context, env| {
            context.hw_queue_alloc(env, viommu, kind, index, iova, len)
        })
    }

    fn number(&self) -> i32 {
        self.0.number
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        self.0.shared.gate.enter("dup")?;
        Ok(None)
    }
}

impl Handle {
    fn queue(&self, id: Id, event: Arc<OwnedFd>) -> Box<dyn Queue> {
        Box::new(QueueFile {
            context: Arc::clone(&self.0),
            id,
            event,
        })
    }
}

impl Queue for QueueFile {
    fn read(&self, to: &mut [u8]) -> Result<usize> {
        self.context.step("read", |context, _| match context.kind(self.id) {
            Some(Kind::FaultQueue) => context.faults.get_mut(&self.id).ok_or(Errno::BADF)?.read(to),
            _ => context.veventqs.get_mut(&self.id).ok_or(Errno::BADF)?.read(to),
        })
    }

    fn write(&self, from: &[u8]) -> Result<usize> {
        self.context.step("write", |context, env| {
            // A queue of events is not written to.
            let queue = context.faults.get_mut(&self.id).ok_or(Errno::INVAL)?;
            queue.write(from, env.answers)
        })
    }

    fn ready(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Drop for QueueFile {
    fn drop(&mut self) {
        let closed = self.context.with(|context, _| {
            context.put(self.id);
            Ok(())
        });
        debug_assert!(closed.is_ok(), "the file holds its context");
    }
}

impl Source {
    /// A part of memory, and its length.
    pub(crate) fn of_memory(memory: &Located, part: &Range<usize>) -> Result<(Self, u64)> {
        let len = part.end.checked_sub(part.start).ok_or(Errno::INVAL)?;
        if part.end > memory.len() {
            return Err(Errno::FAULT);
        }
        let source = Self::Memory {
            memory: Arc::new(memory.clone()),
            start: part.start,
        };
        Ok((source, len as u64))
    }
}
