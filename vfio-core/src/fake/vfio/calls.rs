//! What is asked of an open device file (`vfio_main.c`, `vfio_pci_core.c`).

use super::config::Effect;
use super::file::{CONFIG, DeviceFile, Granted, OFFSET_SHIFT, Opened};
use super::function::IoEventFd;
use super::mapping::Mapping;
use super::{info, irq};
use crate::Access;
use crate::fake::device::Abilities;
use crate::sys::Result;
use crate::sys::iommufd::Id;
use crate::sys::mmio::Map;
use crate::sys::vfio::{DependentDevice, DeviceCalls, GroupCalls, IrqData};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};

impl DeviceCalls for DeviceFile {
    fn bind_iommufd(&self, iommufd: i32, token: Option<[u8; 16]>) -> Result<Id> {
        let file = &self.0;
        file.shared.gate.enter("VFIO_DEVICE_BIND_IOMMUFD")?;
        if iommufd == -1 || file.group.is_some() {
            return Err(Errno::INVAL);
        }
        let mut access = file.access.lock().unwrap_or_else(PoisonError::into_inner);
        if access.is_some() {
            return Err(Errno::INVAL);
        }
        let context = file
            .shared
            .state()
            .contexts
            .get(&iommufd)
            .map(|context| context.file.clone());
        let context = context.and_then(|context| context.upgrade()).ok_or(Errno::BADF)?;
        let id = file.shared.settled(|state| {
            let slot = file.shared.slot(file.function).ok_or(Errno::NODEV)?;
            if state.function(file.function)?.removed {
                return Err(Errno::NODEV);
            }
            if state.groups.get(&slot.group).is_some_and(|group| group.open) {
                return Err(Errno::BUSY);
            }
            state.match_token(&file.shared, file.function, token)?;
            state.open_device(&file.shared, file.function, true, Some(iommufd))?;
            state
                .function(file.function)?
                .bound
                .map(|(_, id)| id)
                .ok_or(Errno::NODEV)
        })?;
        file.start_device();
        *access = Some(Granted {
            _iommufd: Some(context),
        });
        Ok(id)
    }

    fn attach(&self, table: Id, pasid: Option<u32>) -> Result<Id> {
        self.0.step("VFIO_DEVICE_ATTACH_IOMMUFD_PT", |state, _| {
            self.0.on_iommufd(state, |context, env, id| {
                context.attach(env, id, pasid.unwrap_or_default(), table)
            })
        })
    }

    fn detach(&self, pasid: Option<u32>) -> Result<()> {
        let file = &self.0;
        file.shared.gate.enter("VFIO_DEVICE_DETACH_IOMMUFD_PT")?;
        if !file.granted() {
            return Err(Errno::INVAL);
        }
        // A device that is being removed can still be detached.
        file.shared.settled(|state| {
            file.on_iommufd(state, |context, env, id| {
                context.detach(env, id, pasid.unwrap_or_default());
                Ok(())
            })
        })
    }

    fn info(&self) -> Result<Vec<u8>> {
        self.0.step("VFIO_DEVICE_GET_INFO", |_, slot| Ok(info::device(slot)))
    }

    fn region_info(&self, index: u32) -> Result<Vec<u8>> {
        self.0.step("VFIO_DEVICE_GET_REGION_INFO", |state, slot| {
            info::region(slot, &state.function(self.0.function)?.config, index)
        })
    }

    fn irq_info(&self, index: u32) -> Result<(u32, u32)> {
        self.0.step("VFIO_DEVICE_GET_IRQ_INFO", |_, slot| {
            let count = irq::count(&slot.description, index)?;
            Ok((irq::flags(&slot.description, index), count))
        })
    }

    fn set_irqs(&self, index: u32, start: u32, action: u32, data: IrqData<'_>) -> Result<()> {
        self.0.step("VFIO_DEVICE_SET_IRQS", |state, slot| {
            let function = state.function(self.0.function)?;
            function
                .irqs
                .set(&slot.description, &function.config, (index, start, action), data)
        })
    }

    fn reset(&self) -> Result<()> {
        self.0.step("VFIO_DEVICE_RESET", |state, slot| {
            if !slot.description.has(Abilities::RESET) {
                return Err(Errno::INVAL);
            }
            state.function(self.0.function)?.after_reset();
            Ok(())
        })?;
        self.0.reset_device();
        Ok(())
    }

    fn hot_reset_info(&self) -> Result<(u32, Vec<DependentDevice>)> {
        self.0.step("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", |state, _| {
            state.hot_reset_info(&self.0.shared, self.0.function)
        })
    }

    fn hot_reset(&self, groups: &[&dyn GroupCalls]) -> Result<()> {
        let numbers: Vec<i32> = groups.iter().map(|group| group.number()).collect();
        let reset = self.0.step("VFIO_DEVICE_PCI_HOT_RESET", |state, _| {
            state.hot_reset(&self.0.shared, self.0.function, &numbers)
        })?;
        for slot in reset.into_iter().filter_map(|function| self.0.shared.slot(function)) {
            slot.device.lock().unwrap_or_else(PoisonError::into_inner).reset();
        }
        Ok(())
    }

    fn ioeventfd(&self, offset: u64, width: u32, value: u64, event: Option<BorrowedFd<'_>>) -> Result<()> {
        self.0.step("VFIO_DEVICE_IOEVENTFD", |state, slot| {
            let function = state.function(self.0.function)?;
            let (region, offset, len) = Opened::place(
                slot,
                &function.config,
                offset,
                usize::try_from(width).unwrap_or_default(),
            )?;
            let whole = u32::try_from(len) == Ok(width)
                && matches!(width, 1 | 2 | 4 | 8)
                && offset.is_multiple_of(width.into());
            if region > 5 || !whole || slot.in_msix_table(region, offset, width) {
                return Err(Errno::INVAL);
            }
            let same = |known: &IoEventFd| {
                (known.region, known.offset, known.width, known.value) == (region, offset, width, value)
            };
            let known = function.ioeventfds.iter().position(same);
            match (known, event) {
                (Some(_), Some(_)) => Err(Errno::EXIST),
                (None, None) => Err(Errno::NODEV),
                (Some(at), None) => {
                    function.ioeventfds.remove(at);
                    Ok(())
                }
                (None, Some(event)) => {
                    let event = irq::event(event)?;
                    function.ioeventfds.push(IoEventFd {
                        region,
                        offset,
                        width,
                        value,
                        event,
                    });
                    Ok(())
                }
            }
        })
    }

    fn feature(&self, flags: u32, data: &mut [u8]) -> Result<()> {
        self.0.step("VFIO_DEVICE_FEATURE", |state, slot| {
            state.function(self.0.function)?.feature(slot, flags, data)
        })
    }

    fn feature_descriptor(&self, flags: u32, data: &mut [u8]) -> Result<OwnedFd> {
        self.0.step("VFIO_DEVICE_FEATURE", |state, slot| {
            state.export_dma_buf(self.0.function, slot, flags, data)
        })
    }

    fn set_migration_state(&self, to: u32) -> Result<(u32, Option<OwnedFd>)> {
        let file = &self.0;
        let support = file.step("VFIO_DEVICE_FEATURE", |_, slot| {
            slot.description.migration.ok_or(Errno::NOTTY)
        })?;
        let slot = file.shared.slot(file.function).ok_or(Errno::NODEV)?;
        // The device first: it may use the bus, and the machine's state with it, while it saves.
        let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
        let mut migration = std::mem::take(&mut file.shared.state().function(file.function)?.migration);
        let result = migration.go(support, to, &mut **device);
        let now = migration.state();
        file.shared.state().function(file.function)?.migration = migration;
        Ok((now, result?))
    }

    fn precopy_info(&self, stream: BorrowedFd<'_>) -> Result<(u32, u64, u64)> {
        self.0.step("VFIO_MIG_GET_PRECOPY_INFO", |state, _| {
            state.function(self.0.function)?.migration.precopy_info(stream)
        })
    }

    fn dma_logging_start(&self, page_size: u64, ranges: &[(u64, u64)]) -> Result<u64> {
        self.0.step("VFIO_DEVICE_FEATURE_DMA_LOGGING_START", |state, slot| {
            state
                .function(self.0.function)?
                .dma_logging_start(slot, page_size, ranges)
        })
    }

    fn dma_logging_report(&self, iova: u64, len: u64, page_size: u64, bitmap: &mut [u64]) -> Result<()> {
        self.0.step("VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT", |state, slot| {
            state
                .function(self.0.function)?
                .dma_logging_report(slot, (iova, len), page_size, bitmap)
        })
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        let (region, at, len, decodes) = self.0.step("pread", |state, slot| {
            let function = state.function(self.0.function)?;
            let (region, at, len) = Opened::place(slot, &function.config, offset, to.len())?;
            let at_place = usize::try_from(at).map_err(|_error| Errno::INVAL)?;
            let to = to.get_mut(..len).unwrap_or_default();
            if region == CONFIG && function.answers_config() {
                function.config.read(at_place, to);
            } else if region == CONFIG {
                to.fill(0xff);
            }
            Ok((region, at, len, function.answers()))
        })?;
        match to.get_mut(..len) {
            _ if region == CONFIG => {}
            Some(to) if decodes => self.0.read(region, at, to),
            // BARs and the ROM do not answer while memory is off.
            _ => return Err(Errno::IO),
        }
        self.0.shared.settle();
        Ok(len)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<usize> {
        if from.is_empty() {
            return Ok(0);
        }
        let (region, at, len, decodes, effect) = self.0.step("pwrite", |state, slot| {
            let function = state.function(self.0.function)?;
            let (region, at, len) = Opened::place(slot, &function.config, offset, from.len())?;
            let mut effect = Effect::Nothing;
            if region == CONFIG {
                let place = usize::try_from(at).map_err(|_error| Errno::INVAL)?;
                if function.answers_config() {
                    effect = function.config.write(place, from.get(..len).unwrap_or_default());
                }
                match effect {
                    Effect::Nothing => {}
                    Effect::Command => {
                        function.revocations += u64::from(!function.config.memory());
                        function.irqs.command_changed(&function.config);
                    }
                    Effect::Reset => function.after_reset(),
                }
            } else if !slot.region(region).is_some_and(|region| region.write) {
                return Err(Errno::INVAL);
            }
            Ok((region, at, len, function.answers(), effect))
        })?;
        match from.get(..len) {
            _ if effect == Effect::Reset => self.0.reset_device(),
            _ if region == CONFIG => {}
            Some(from) if decodes => self.0.write(region, at, from),
            _ => return Err(Errno::IO),
        }
        self.0.shared.settle();
        Ok(len)
    }

    fn map(&self, offset: u64, len: usize, access: Access, alignment: usize, _beyond: usize) -> Result<Map> {
        if !alignment.is_power_of_two() || access.is_empty() {
            return Err(Errno::INVAL);
        }
        let file = &self.0;
        let (region, base, key) = file.step("mmap", |state, slot| {
            let index = u32::try_from(offset >> OFFSET_SHIFT).map_err(|_error| Errno::INVAL)?;
            let base = offset & ((1 << OFFSET_SHIFT) - 1);
            let region = slot.region(index).filter(|region| region.mmap).ok_or(Errno::INVAL)?;
            let end = base.checked_add(len as u64).ok_or(Errno::INVAL)?;
            let sparse =
                region.sparse.is_empty() || region.sparse.iter().any(|part| part.start <= base && end <= part.end);
            let pages = base.is_multiple_of(4096) && len.is_multiple_of(4096) && len > 0;
            if !pages || end > region.size.next_multiple_of(4096) || !sparse {
                return Err(Errno::INVAL);
            }
            let key = state.new_key();
            state.function(file.function)?.maps.insert(key, (index, base, len));
            Ok((index, base, key))
        })?;
        let registers = Arc::new(Mapping {
            file: Arc::clone(file),
            region,
            key,
        });
        Ok(Map::Fake { registers, base, len })
    }

    fn number(&self) -> i32 {
        self.0.number
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        self.0.shared.gate.enter("dup")?;
        Ok(None)
    }
}
