//! An open device file (`vfio_main.c`, `device_cdev.c`, `vfio_pci_core.c`).

use super::config::Config;
use super::group::GroupFile;
use crate::fake::bus::Bus;
use crate::fake::iommu::{Context, ContextFile, Env};
use crate::fake::state::{Shared, Slot, State};
use crate::sys::Result;
use crate::sys::iommufd::Id;
use rustix::io::Errno;
use std::sync::{Arc, Mutex, PoisonError};

/// A region's place in a device file: its index in these bits and above.
pub(crate) const OFFSET_SHIFT: u32 = 40;
pub(super) const CONFIG: u32 = vfio_bindings::bindings::vfio::VFIO_PCI_CONFIG_REGION_INDEX;

/// An open file, as long as a handle or a mapping of it exists.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) function: usize,
    pub(super) number: i32,
    /// Set by binding, and from the start in a file of a group.
    pub(super) access: Mutex<Option<Granted>>,
    pub(super) group: Option<Arc<GroupFile>>,
}

/// What gives access to the device, held as long as the file is open.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) _iommufd: Option<Arc<ContextFile>>,
}

/// The handle of a user.
#[derive(Debug)]
pub(crate) struct DeviceFile(pub(super) Arc<Opened>);

impl Opened {
    /// Opens `/dev/vfio/devices/vfioN`.
    pub(crate) fn cdev(shared: &Arc<Shared>, function: usize) -> Result<DeviceFile> {
        let mut state = shared.state();
        if state.function(function)?.removed {
            return Err(Errno::NODEV);
        }
        let number = state.new_number();
        state.files.insert(number, format!("/dev/vfio/devices/vfio{function}"));
        drop(state);
        Ok(DeviceFile(Arc::new(Self {
            shared: Arc::clone(shared),
            function,
            number,
            access: Mutex::default(),
            group: None,
        })))
    }

    /// Opens a device of a group; `iommufd` is what the group has in place of a container.
    pub(crate) fn of_group(
        group: Arc<GroupFile>,
        function: usize,
        iommufd: Option<Arc<ContextFile>>,
    ) -> Result<DeviceFile> {
        let shared = Arc::clone(&group.shared);
        let number = shared.settled(|state| {
            let number = state.new_number();
            state.open_device(&shared, function, false, iommufd.as_ref().map(|file| file.number))?;
            let bdf = shared
                .slot(function)
                .map(|slot| slot.bdf.to_string())
                .unwrap_or_default();
            state.files.insert(number, format!("device {bdf} of its group"));
            Ok(number)
        })?;
        let file = Self {
            shared,
            function,
            number,
            access: Mutex::new(Some(Granted { _iommufd: iommufd })),
            group: Some(group),
        };
        file.start_device();
        Ok(DeviceFile(Arc::new(file)))
    }

    pub(super) fn granted(&self) -> bool {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A call that needs access to the device.
    pub(super) fn step<T>(&self, name: &'static str, act: impl FnOnce(&mut State, &Slot) -> Result<T>) -> Result<T> {
        self.shared.gate.enter(name)?;
        self.act(act)
    }

    fn act<T>(&self, act: impl FnOnce(&mut State, &Slot) -> Result<T>) -> Result<T> {
        if !self.granted() {
            return Err(Errno::INVAL);
        }
        let slot = self.shared.slot(self.function).ok_or(Errno::NODEV)?;
        self.shared.settled(|state| {
            let function = state.function(self.function)?;
            if function.removed {
                return Err(Errno::NODEV);
            }
            function.wake();
            act(state, slot)
        })
    }

    /// A call on the iommufd that the device is bound to.
    pub(super) fn on_iommufd<T>(
        &self,
        state: &mut State,
        act: impl FnOnce(&mut Context, &mut Env<'_>, Id) -> Result<T>,
    ) -> Result<T> {
        // Attaching is of files of their own; a group's device uses what its group does.
        let bound = state.function(self.function)?.bound.filter(|_| self.group.is_none());
        let (iommufd, id) = bound.ok_or(Errno::NOTTY)?;
        let (context, mut env) = state.context(&self.shared, iommufd).ok_or(Errno::BADF)?;
        act(context, &mut env, id)
    }

    /// The device as its first user finds it.
    pub(super) fn start_device(&self) {
        if self
            .shared
            .state()
            .functions
            .get(self.function)
            .is_some_and(|function| function.open == 1)
        {
            self.reset_device();
        }
    }

    pub(crate) fn reset_device(&self) {
        if let Some(slot) = self.shared.slot(self.function) {
            slot.device.lock().unwrap_or_else(PoisonError::into_inner).reset();
        }
    }

    /// Reads or writes registers in the widths that the kernel uses: as wide as alignment allows, at most 4 bytes.
    fn registers(&self, region: u32, offset: u64, len: usize, mut access: impl FnMut(u64, u32, usize)) {
        let _ = region;
        let mut at = 0_usize;
        while at < len {
            let place = offset + at as u64;
            let width = [4_usize, 2, 1]
                .into_iter()
                .find(|width| place.is_multiple_of(*width as u64) && len - at >= *width);
            let width = width.unwrap_or(1);
            access(place, u32::try_from(width).unwrap_or(1), at);
            at += width;
        }
    }

    pub(super) fn read(&self, region: u32, offset: u64, to: &mut [u8]) {
        let Some(slot) = self.shared.slot(self.function) else {
            return;
        };
        let bus = Bus::new(&self.shared, self.function);
        let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
        self.registers(region, offset, to.len(), |place, width, at| {
            let value = device.read(region, place, width, &bus).to_le_bytes();
            for (to, from) in to
                .iter_mut()
                .skip(at)
                .zip(value.iter().take(usize::try_from(width).unwrap_or(1)))
            {
                *to = *from;
            }
        });
    }

    pub(super) fn write(&self, region: u32, offset: u64, from: &[u8]) {
        let Some(slot) = self.shared.slot(self.function) else {
            return;
        };
        let bus = Bus::new(&self.shared, self.function);
        let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
        self.registers(region, offset, from.len(), |place, width, at| {
            let bytes = from.iter().skip(at).take(usize::try_from(width).unwrap_or(1));
            let value = bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            device.write(region, place, width, value, &bus);
        });
    }

    /// Which region an offset is in, and how many bytes of an access lie inside.
    pub(super) fn place(slot: &Slot, config: &Config, offset: u64, len: usize) -> Result<(u32, u64, usize)> {
        let index = u32::try_from(offset >> OFFSET_SHIFT).map_err(|_error| Errno::INVAL)?;
        let inside = offset & ((1 << OFFSET_SHIFT) - 1);
        let size = match slot.region(index) {
            _ if index == CONFIG => config.len(),
            Some(region) => region.size,
            None => return Err(Errno::INVAL),
        };
        let left = size.checked_sub(inside).filter(|left| *left > 0).ok_or(Errno::INVAL)?;
        let len = usize::try_from(left).map_or(len, |left| len.min(left));
        Ok((index, inside, len))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let last = self.shared.settled(|state| {
            state.files.remove(&self.number);
            let granted = self.access.get_mut().unwrap_or_else(PoisonError::into_inner).is_some();
            granted && state.close_device(&self.shared, self.function)
        });
        if last {
            self.reset_device();
        }
    }
}
