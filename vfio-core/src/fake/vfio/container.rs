//! Container files (`container.c`), and `/dev/iommu` as one (`vfio_compat.c`).

use super::type1::{INFO_LEN, Type1, add_ranges, info};
use crate::Access;
use crate::fake::iommu::{Accounts, Context, ContextFile, Env, PAGE, Source};
use crate::fake::options::Iommu;
use crate::fake::state::{Shared, State};
use crate::sys::Result;
use crate::sys::located::Located;
use crate::sys::space::Lent;
use crate::sys::vfio::ContainerCalls;
use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vfio_bindings::bindings::vfio as uapi;

/// An open `/dev/vfio/vfio`; groups hold it too.
#[derive(Debug)]
pub(crate) struct ContainerFile {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: i32,
}

/// The handle of a user.
#[derive(Debug)]
pub(crate) struct Handle(Arc<ContainerFile>);

/// `/dev/iommu` as a container.
#[derive(Debug)]
pub(crate) struct Compatible(pub(crate) Arc<ContextFile>);

impl ContainerFile {
    pub(crate) fn open(shared: &Arc<Shared>) -> Handle {
        let mut state = shared.state();
        let number = state.new_number();
        let file = Arc::new(Self {
            shared: Arc::clone(shared),
            number,
        });
        state
            .containers
            .insert(number, Type1::new(Arc::downgrade(&file), shared.mapping_limit));
        drop(state);
        Handle(file)
    }

    fn step<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut Type1, &mut Accounts, &Iommu) -> Result<T>,
    ) -> Result<T> {
        self.shared.gate.enter(name)?;
        self.shared.settled(|state| {
            let container = state.containers.get_mut(&self.number).ok_or(Errno::BADF)?;
            act(container, &mut state.accounts, &self.shared.iommu)
        })
    }
}

impl Drop for ContainerFile {
    fn drop(&mut self) {
        self.shared.settled(|state| {
            if let Some(mut container) = state.containers.remove(&self.number) {
                container.end(&mut state.accounts);
            }
        });
    }
}

impl State {
    pub(crate) fn join_container(&mut self, shared: &Shared, number: i32, group: u32, noiommu: bool) -> Result<()> {
        let container = self.containers.get_mut(&number).ok_or(Errno::BADF)?;
        // Groups with and without an IOMMU do not mix.
        if !container.groups.is_empty() && container.noiommu != noiommu {
            return Err(Errno::PERM);
        }
        debug_assert!(!shared.slots.is_empty(), "a group has a device");
        container.noiommu = noiommu;
        container.groups.insert(group);
        Ok(())
    }

    pub(crate) fn leave_container(&mut self, number: i32, group: u32) {
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        container.groups.remove(&group);
        if container.groups.is_empty() {
            self.abandoned.extend(container.describe());
            container.end(&mut self.accounts);
        }
    }
}

impl ContainerCalls for Handle {
    fn api_version(&self) -> Result<i32> {
        self.0.step("VFIO_GET_API_VERSION", |_, _, _| Ok(0))
    }

    fn check_extension(&self, extension: u32) -> Result<i32> {
        self.0.shared.gate.enter("VFIO_CHECK_EXTENSION")?;
        let noiommu = self.0.shared.slots.iter().any(|slot| slot.noiommu);
        let state = self.0.shared.state();
        let container = state.containers.get(&self.0.number).ok_or(Errno::BADF)?;
        Ok(match extension {
            uapi::VFIO_NOIOMMU_IOMMU => i32::from(noiommu && (container.groups.is_empty() || container.noiommu)),
            uapi::VFIO_TYPE1_IOMMU | uapi::VFIO_TYPE1v2_IOMMU | uapi::VFIO_UNMAP_ALL => i32::from(!container.noiommu),
            uapi::VFIO_UPDATE_VADDR => i32::from(container.is_set() && !container.noiommu),
            uapi::VFIO_DMA_CC_IOMMU => i32::from(container.is_set() && !container.noiommu),
            _ => 0,
        })
    }

    fn set_iommu(&self, kind: u32) -> Result<()> {
        self.0
            .step("VFIO_SET_IOMMU", |container, _, _| container.set_iommu(kind))
    }

    fn info(&self) -> Result<Vec<u8>> {
        self.0
            .step("VFIO_IOMMU_GET_INFO", |container, _, iommu| container.info(iommu))
    }

    fn map_dma(&self, memory: &Lent<Located>, part: Range<usize>, iova: u64, access: Access) -> Result<()> {
        self.0.step("VFIO_IOMMU_MAP_DMA", |container, accounts, iommu| {
            let source = Source::of_memory(memory, &part)?;
            container.map(accounts, iommu, source, iova, access)
        })
    }

    fn unmap_dma(&self, iova: u64, len: u64, bitmap: Option<(u64, &mut [u64])>) -> Result<u64> {
        self.0.step("VFIO_IOMMU_UNMAP_DMA", |container, accounts, iommu| {
            container.unmap(accounts, iommu, iova, len, bitmap)
        })
    }

    fn unmap_all(&self) -> Result<u64> {
        self.0.step("VFIO_IOMMU_UNMAP_DMA", |container, accounts, _| {
            container.unmap_everything(accounts)
        })
    }

    fn dirty_start(&self) -> Result<()> {
        self.0
            .step("VFIO_IOMMU_DIRTY_PAGES", |container, _, _| container.set_tracking(true))
    }

    fn dirty_stop(&self) -> Result<()> {
        self.0.step("VFIO_IOMMU_DIRTY_PAGES", |container, _, _| {
            container.set_tracking(false)
        })
    }

    fn dirty_get(&self, iova: u64, len: u64, page_size: u64, bitmap: &mut [u64]) -> Result<()> {
        self.0.step("VFIO_IOMMU_DIRTY_PAGES", |container, _, iommu| {
            container.dirty(iommu, iova, len, page_size, bitmap)
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

impl Compatible {
    /// A command that acts on the IOAS of the container.
    fn on_ioas<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut Context, &mut Env<'_>, u32) -> Result<T>,
    ) -> Result<T> {
        self.0.shared.gate.enter(name)?;
        self.0.with(|context, env| {
            let ioas = context.compatible_ioas()?;
            act(context, env, ioas)
        })
    }
}

impl ContainerCalls for Compatible {
    fn api_version(&self) -> Result<i32> {
        self.0.shared.gate.enter("VFIO_GET_API_VERSION")?;
        Ok(0)
    }

    fn check_extension(&self, extension: u32) -> Result<i32> {
        self.0.shared.gate.enter("VFIO_CHECK_EXTENSION")?;
        let noiommu = self.0.shared.slots.iter().any(|slot| slot.noiommu);
        self.0.with(|context, _| match extension {
            uapi::VFIO_TYPE1_IOMMU | uapi::VFIO_TYPE1v2_IOMMU | uapi::VFIO_UNMAP_ALL => {
                Ok(i32::from(!context.noiommu_mode))
            }
            uapi::VFIO_NOIOMMU_IOMMU => Ok(i32::from(noiommu)),
            uapi::VFIO_DMA_CC_IOMMU => context.compatible_ioas().map(|_| 1),
            _ => Ok(0),
        })
    }

    fn set_iommu(&self, kind: u32) -> Result<()> {
        self.0.shared.gate.enter("VFIO_SET_IOMMU")?;
        self.0.with(|context, _| match (kind, context.noiommu_mode) {
            (uapi::VFIO_NOIOMMU_IOMMU, true) => Ok(()),
            (uapi::VFIO_TYPE1_IOMMU, false) => {
                let ioas = context.compatible_ioas()?;
                context.ioas(ioas)?.table.set_large_pages(false)
            }
            (uapi::VFIO_TYPE1v2_IOMMU, false) => context.compatible_ioas().map(|_| ()),
            _ => Err(Errno::INVAL),
        })
    }

    fn info(&self) -> Result<Vec<u8>> {
        self.on_ioas("VFIO_IOMMU_GET_INFO", |context, env, ioas| {
            let table = &context.ioas(ioas)?.table;
            let mut chain = super::info::Chain::new(INFO_LEN);
            chain.add(uapi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, &u32::MAX.to_ne_bytes());
            add_ranges(&mut chain, &table.ranges());
            let sizes = if table.filled() { env.iommu.page_sizes } else { u64::MAX };
            Ok(info(
                (sizes & !(PAGE - 1)) | if sizes & (PAGE - 1) != 0 { PAGE } else { 0 },
                &chain,
            ))
        })
    }

    fn map_dma(&self, memory: &Lent<Located>, part: Range<usize>, iova: u64, access: Access) -> Result<()> {
        self.on_ioas("VFIO_IOMMU_MAP_DMA", |context, env, ioas| {
            let source = Source::of_memory(memory, &part)?;
            context.ioas_map(env, ioas, source, Some(iova), access).map(|_| ())
        })
    }

    fn unmap_dma(&self, iova: u64, len: u64, bitmap: Option<(u64, &mut [u64])>) -> Result<u64> {
        self.on_ioas("VFIO_IOMMU_UNMAP_DMA", |context, env, id| {
            if bitmap.is_some() {
                return Err(Errno::INVAL);
            }
            let less_one = len.checked_sub(1).ok_or(Errno::INVAL)?;
            let last = iova.checked_add(less_one).ok_or(Errno::OVERFLOW)?;
            let ioas = context.ioas(id)?;
            // Version 1 may cut mappings, which are of small pages then.
            if !ioas.table.large_pages() {
                ioas.cut(env.accounts, last)?;
                iova.checked_sub(1)
                    .map_or(Ok(()), |before| ioas.cut(env.accounts, before))?;
            }
            let (bytes, result) = ioas.unmap(env.accounts, iova, last);
            result.map(|()| bytes)
        })
    }

    fn unmap_all(&self) -> Result<u64> {
        self.on_ioas("VFIO_IOMMU_UNMAP_DMA", |context, env, id| {
            let (bytes, result) = context.ioas(id)?.unmap(env.accounts, 0, u64::MAX);
            result.map(|()| bytes)
        })
    }

    fn dirty_start(&self) -> Result<()> {
        self.0.shared.gate.enter("VFIO_IOMMU_DIRTY_PAGES")?;
        Err(Errno::NOTTY)
    }

    fn dirty_stop(&self) -> Result<()> {
        self.dirty_start()
    }

    fn dirty_get(&self, _iova: u64, _len: u64, _page_size: u64, _bitmap: &mut [u64]) -> Result<()> {
        self.dirty_start()
    }

    fn number(&self) -> i32 {
        self.0.number
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        self.0.shared.gate.enter("dup")?;
        Ok(None)
    }
}
