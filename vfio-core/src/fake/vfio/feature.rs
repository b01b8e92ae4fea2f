//! `VFIO_DEVICE_FEATURE`.

use super::function::{DmaLog, Function, LowPower};
use super::{irq, migration};
use crate::fake::device::Abilities;
use crate::fake::iommu::{PAGE, Source, mark};
use crate::fake::state::{DmaBuf, Shared, Slot, State};
use crate::sys::Result;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vfio_bindings::bindings::vfio as uapi;

const GET: u32 = uapi::VFIO_DEVICE_FEATURE_GET;
const SET: u32 = uapi::VFIO_DEVICE_FEATURE_SET;
const PROBE: u32 = uapi::VFIO_DEVICE_FEATURE_PROBE;

/// Whether the feature is to be used (or only probed), for one that can be got and set as `supported` says.
fn check(flags: u32, data: &[u8], supported: u32, len: usize) -> Result<bool> {
    let operation = flags & (GET | SET);
    if operation & !supported != 0 {
        return Err(Errno::INVAL);
    }
    if flags & PROBE != 0 {
        return Ok(false);
    }
    if operation == 0 || operation == GET | SET || data.len() < len {
        return Err(Errno::INVAL);
    }
    Ok(true)
}

fn put(data: &mut [u8], bytes: &[u8]) {
    for (to, from) in data.iter_mut().zip(bytes) {
        *to = *from;
    }
}

impl Function {
    pub(crate) fn feature(&mut self, slot: &Slot, flags: u32, data: &mut [u8]) -> Result<()> {
        let support = slot.description.migration;
        match flags & uapi::VFIO_DEVICE_FEATURE_MASK {
            uapi::VFIO_DEVICE_FEATURE_PCI_VF_TOKEN => {
                if !slot.has_vfs {
                    return Err(Errno::NOTTY);
                }
                if check(flags, data, SET, 16)? {
                    put(&mut self.token.0, data);
                }
                Ok(())
            }
            uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY => {
                if check(flags, data, SET, 0)? {
                    self.enter_low_power(None)
                } else {
                    Ok(())
                }
            }
            uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP => {
                if !check(flags, data, SET, 8)? {
                    return Ok(());
                }
                let number = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).unwrap_or(-1);
                let event = by_number(number)?;
                self.enter_low_power(Some(irq::event(event.as_fd())?))
            }
            uapi::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT => {
                if check(flags, data, SET, 0)? {
                    self.low_power = None;
                }
                Ok(())
            }
            uapi::VFIO_DEVICE_FEATURE_MIGRATION => {
                let support = support.ok_or(Errno::NOTTY)?;
                if check(flags, data, GET, 8)? {
                    put(data, &u64::from(migration::flags(support)).to_ne_bytes());
                }
                Ok(())
            }
            uapi::VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE => {
                support.ok_or(Errno::NOTTY)?;
                if check(flags, data, GET | SET, 8)? {
                    put(data, &self.migration.state().to_ne_bytes());
                    put(data.get_mut(4..).unwrap_or_default(), &(-1_i32).to_ne_bytes());
                }
                Ok(())
            }
            uapi::VFIO_DEVICE_FEATURE_MIG_DATA_SIZE => {
                support.ok_or(Errno::NOTTY)?;
                if check(flags, data, GET, 8)? {
                    let regions = slot.description.regions.iter().map(|region| region.size).sum::<u64>();
                    put(data, &regions.to_ne_bytes());
                }
                Ok(())
            }
            uapi::VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 => {
                if !support.is_some_and(|support| support.pre_copy) {
                    return Err(Errno::INVAL);
                }
                check(flags, data, SET, 0).map(|_| ())
            }
            uapi::VFIO_DEVICE_FEATURE_DMA_LOGGING_START => {
                logs(slot)?;
                // With ranges it comes as a call of its own.
                if check(flags, data, SET, 24)? {
                    Err(Errno::INVAL)
                } else {
                    Ok(())
                }
            }
            uapi::VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP => {
                logs(slot)?;
                if check(flags, data, SET, 0)? {
                    self.dma_log = None;
                }
                Ok(())
            }
            uapi::VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT => {
                logs(slot)?;
                if check(flags, data, GET, 32)? {
                    Err(Errno::INVAL)
                } else {
                    Ok(())
                }
            }
            uapi::VFIO_DEVICE_FEATURE_DMA_BUF => {
                if check(flags, data, GET, 16)? {
                    Err(Errno::INVAL)
                } else {
                    Ok(())
                }
            }
            _ => Err(Errno::NOTTY),
        }
    }

    fn enter_low_power(&mut self, wakeup: Option<OwnedFd>) -> Result<()> {
        if self.low_power.is_some() {
            return Err(Errno::INVAL);
        }
        self.revocations += 1;
        self.low_power = Some(LowPower { wakeup });
        Ok(())
    }

    pub(crate) fn dma_logging_start(&mut self, slot: &Slot, page_size: u64, ranges: &[(u64, u64)]) -> Result<u64> {
        logs(slot)?;
        if ranges.is_empty() {
            return Err(Errno::INVAL);
        }
        // Ranges fit into one page.
        if ranges.len() > 256 {
            return Err(Errno::TOOBIG);
        }
        let page_size = page_size.max(1).next_power_of_two();
        for (at, (iova, len)) in ranges.iter().enumerate() {
            if !iova.is_multiple_of(page_size) || !len.is_multiple_of(page_size) {
                return Err(Errno::INVAL);
            }
            let end = iova.checked_add(*len).ok_or(Errno::OVERFLOW)?;
            if ranges
                .iter()
                .take(at)
                .any(|(start, len)| *iova < start + len && *start < end)
            {
                return Err(Errno::INVAL);
            }
        }
        if self.dma_log.is_some() {
            return Err(Errno::INVAL);
        }
        let page_size = page_size.max(PAGE);
        self.dma_log = Some(DmaLog {
            page_size,
            ranges: ranges.to_vec(),
            dirty: BTreeSet::new(),
        });
        Ok(page_size)
    }

    pub(crate) fn dma_logging_report(
        &mut self,
        slot: &Slot,
        (iova, len): (u64, u64),
        page_size: u64,
        bitmap: &mut [u64],
    ) -> Result<()> {
        logs(slot)?;
        if page_size < PAGE || !page_size.is_power_of_two() {
            return Err(Errno::INVAL);
        }
        let last = iova
            .checked_add(len)
            .ok_or(Errno::OVERFLOW)?
            .checked_sub(1)
            .ok_or(Errno::INVAL)?;
        let log = self.dma_log.as_mut().ok_or(Errno::INVAL)?;
        // Pages that the device keeps track of are marked as a whole.
        let per_page = log.page_size / PAGE;
        let whole: BTreeSet<u64> = log.dirty.iter().map(|page| page / per_page * per_page).collect();
        log.dirty = whole.iter().flat_map(|page| *page..page + per_page).collect();
        let told: Vec<u64> = log.dirty.range(iova / PAGE..=last / PAGE).copied().collect();
        for page in told {
            let written = (page * PAGE, page * PAGE + (PAGE - 1));
            mark((iova, last), page_size, bitmap, written)?;
            log.dirty.remove(&page);
        }
        Ok(())
    }
}

fn logs(slot: &Slot) -> Result<()> {
    if slot.description.has(Abilities::DMA_LOGGING) {
        Ok(())
    } else {
        Err(Errno::NOTTY)
    }
}

/// The file that a number in a request means.
fn by_number(number: i32) -> Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::INVAL);
    }
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(own, number, PidfdGetfdFlags::empty())
}

impl State {
    /// A dma-buf of parts of a BAR. The descriptor is a memfd of the right size: what it is known by, and nothing to map.
    pub(crate) fn export_dma_buf(&mut self, function: usize, slot: &Slot, flags: u32, data: &[u8]) -> Result<OwnedFd> {
        if flags & uapi::VFIO_DEVICE_FEATURE_MASK != uapi::VFIO_DEVICE_FEATURE_DMA_BUF || !check(flags, data, GET, 16)?
        {
            return Err(Errno::INVAL);
        }
        let word = |at: usize| {
            data.get(at..)
                .and_then(<[u8]>::first_chunk)
                .map(|bytes| u32::from_ne_bytes(*bytes))
                .ok_or(Errno::INVAL)
        };
        let long = |at: usize| {
            data.get(at..)
                .and_then(<[u8]>::first_chunk)
                .map(|bytes| u64::from_ne_bytes(*bytes))
                .ok_or(Errno::FAULT)
        };
        let (index, reserved, count) = (
            word(0)?,
            word(8)?,
            usize::try_from(word(12)?).map_err(|_error| Errno::INVAL)?,
        );
        if count == 0 || reserved != 0 {
            return Err(Errno::INVAL);
        }
        let region = slot.region(index).filter(|_| index < 6).ok_or(Errno::NODEV)?;
        let mut ranges = Vec::new();
        for at in (16_usize..).step_by(16).take(count) {
            let (offset, len) = (long(at)?, long(at + 8)?);
            let end = offset.checked_add(len).ok_or(Errno::OVERFLOW)?;
            if len == 0 || !offset.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) || end > region.size {
                return Err(Errno::INVAL);
            }
            ranges.push(offset..end);
        }
        let size = ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        let file = memfd_create("dma-buf", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, size)?;
        let stat = fstat(&file)?;
        let identity = file.try_clone().map_err(|_error| Errno::MFILE)?;
        self.dma_bufs
            .retain(|dma_buf| dma_buf.function != function || !dma_buf.revoked);
        self.dma_bufs.push(DmaBuf {
            _file: identity,
            key: (stat.st_dev, stat.st_ino),
            function,
            region: index,
            ranges,
            size,
            revoked: false,
        });
        Ok(file)
    }
}

impl Shared {
    /// What a file is if it is one of our dma-bufs; EINVAL beyond its end.
    pub(crate) fn dma_buf(&self, file: BorrowedFd<'_>, start: u64, len: u64) -> Result<Option<Source>> {
        let stat = fstat(file)?;
        let state = self.state();
        let Some(known) = state
            .dma_bufs
            .iter()
            .find(|known| known.key == (stat.st_dev, stat.st_ino))
        else {
            return Ok(None);
        };
        if start.checked_add(len).is_none_or(|end| end > known.size) {
            return Err(Errno::INVAL);
        }
        let function = state.functions.get(known.function).ok_or(Errno::NODEV)?;
        if known.revoked || !function.answers_mapped() {
            return Err(Errno::NODEV);
        }
        let revocations = function.revocations;
        let (function, region, ranges) = (known.function, known.region, known.ranges.clone());
        // Mapped through the chosen ranges, which follow one another in the dma-buf.
        Ok(Some(Source::Registers {
            function,
            region,
            ranges,
            start,
            revocations,
        }))
    }
}
