//! Opening and closing a device, VF tokens, and resets of several devices at once.

use super::Function;
use crate::VfToken;
use crate::fake::state::{Shared, State};
use crate::sys::Result;
use crate::sys::vfio::DependentDevice;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio as uapi;

impl State {
    pub(crate) fn function(&mut self, index: usize) -> Result<&mut Function> {
        self.functions.get_mut(index).ok_or(Errno::NODEV)
    }

    /// One more file uses the device; the first one binds it to the iommufd.
    pub(crate) fn open_device(
        &mut self,
        shared: &Shared,
        index: usize,
        cdev: bool,
        iommufd: Option<i32>,
    ) -> Result<()> {
        let slot = shared.slot(index).ok_or(Errno::NODEV)?;
        let function = self.function(index)?;
        if function.removed {
            return Err(Errno::NODEV);
        }
        // Only a group's device can be opened several times.
        if function.open > 0 && cdev {
            return Err(Errno::INVAL);
        }
        if function.open == 0 {
            if let Some(number) = iommufd {
                self.bind(shared, index, number, !cdev)?;
            }
            let function = self.function(index)?;
            function.start_over();
            function.cdev = cdev;
            if let Some(physical) = slot.physical {
                self.function(physical)?.token_users += 1;
            }
        }
        self.function(index)?.open += 1;
        Ok(())
    }

    fn bind(&mut self, shared: &Shared, index: usize, number: i32, compatible: bool) -> Result<()> {
        let slot = shared.slot(index).ok_or(Errno::NODEV)?;
        let group = slot.group;
        if !slot.noiommu && self.owner_of(shared, group).is_some_and(|owner| owner != number) {
            return Err(Errno::PERM);
        }
        let (context, mut env) = self.context(shared, number).ok_or(Errno::BADF)?;
        let id = context.bind(index, group);
        if compatible && !slot.noiommu {
            let attached = context
                .compatible_ioas()
                .and_then(|ioas| context.attach(&mut env, id, 0, ioas));
            if let Err(errno) = attached {
                context.unbind(&mut env, id);
                return Err(errno);
            }
        }
        self.function(index)?.bound = Some((number, id));
        Ok(())
    }

    /// Who does the DMA of a group: an iommufd or a container by its number, -1 for a driver of the host.
    pub(crate) fn owner_of(&self, shared: &Shared, group: u32) -> Option<i32> {
        if shared.bystanders.iter().any(|(_, of)| *of == group) {
            return Some(-1);
        }
        let container = self.groups.get(&group).and_then(|group| group.container);
        let members = shared
            .slots
            .iter()
            .zip(&self.functions)
            .filter(|(slot, _)| slot.group == group);
        let bound = members
            .filter_map(|(_, function)| function.bound)
            .map(|(number, _)| number)
            .next();
        container.or(bound)
    }

    /// One file less; whether it was the last, so that the device is reset.
    pub(crate) fn close_device(&mut self, shared: &Shared, index: usize) -> bool {
        let Ok(function) = self.function(index) else {
            return false;
        };
        function.open = function.open.saturating_sub(1);
        if function.open > 0 {
            return false;
        }
        let bound = function.bound.take();
        function.start_over();
        function.cdev = false;
        self.revoke(index);
        if let Some((number, id)) = bound
            && let Some((context, mut env)) = self.context(shared, number)
        {
            context.unbind(&mut env, id);
        }
        if let Some(physical) = shared.slot(index).and_then(|slot| slot.physical)
            && let Ok(physical) = self.function(physical)
        {
            physical.token_users = physical.token_users.saturating_sub(1);
        }
        true
    }

    fn revoke(&mut self, index: usize) {
        for dma_buf in &mut self.dma_bufs {
            dma_buf.revoked |= dma_buf.function == index;
        }
    }

    /// Whether a token opens the device (`vfio_pci_core_match_token_uuid`).
    pub(crate) fn match_token(&mut self, shared: &Shared, index: usize, token: Option<[u8; 16]>) -> Result<()> {
        let slot = shared.slot(index).ok_or(Errno::NODEV)?;
        if let Some(physical) = slot.physical {
            let wanted = self.function(physical)?.token;
            return if token == Some(wanted.0) {
                Ok(())
            } else {
                Err(Errno::ACCESS)
            };
        }
        if !slot.has_vfs {
            return if token.is_none() { Ok(()) } else { Err(Errno::INVAL) };
        }
        let function = self.function(index)?;
        match token {
            _ if function.token_users > 0 && token != Some(function.token.0) => Err(Errno::ACCESS),
            Some(token) => {
                function.token = VfToken(token);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The devices that share a bus, and so a reset.
    fn neighbours(shared: &Shared, index: usize) -> Vec<usize> {
        let bus = |index: usize| {
            shared
                .slot(index)
                .map(|slot| (slot.bdf.segment, slot.bdf.routing_id.bus()))
        };
        (0..shared.slots.len())
            .filter(|other| bus(*other) == bus(index))
            .collect()
    }

    pub(crate) fn hot_reset_info(&mut self, shared: &Shared, index: usize) -> Result<(u32, Vec<DependentDevice>)> {
        let function = self.function(index)?;
        let own = function.bound.map(|(number, _)| number).filter(|_| function.cdev);
        let owned = uapi::VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
        let mut flags = own.map_or(0, |_| uapi::VFIO_PCI_HOT_RESET_FLAG_DEV_ID | owned);
        let mut devices = Vec::new();
        for other in Self::neighbours(shared, index) {
            let slot = shared.slot(other).ok_or(Errno::NODEV)?;
            let id = match own {
                None => slot.group,
                Some(own) => match self.device_id(shared, other, own) {
                    Some(id) => id,
                    None => {
                        flags &= !owned;
                        // `VFIO_PCI_DEVID_NOT_OWNED`.
                        u32::MAX
                    }
                },
            };
            devices.push(DependentDevice {
                id,
                segment: u16::try_from(slot.bdf.segment.0).unwrap_or(u16::MAX),
                bus: slot.bdf.routing_id.bus(),
                devfn: slot.bdf.routing_id.devfn(),
            });
        }
        // Functions with other drivers are on the bus too.
        let bus = shared
            .slot(index)
            .map(|slot| (slot.bdf.segment, slot.bdf.routing_id.bus()));
        for (bdf, group) in shared
            .bystanders
            .iter()
            .filter(|(bdf, _)| Some((bdf.segment, bdf.routing_id.bus())) == bus)
        {
            flags &= !owned;
            let id = if own.is_some() { u32::MAX } else { *group };
            let segment = u16::try_from(bdf.segment.0).unwrap_or(u16::MAX);
            devices.push(DependentDevice {
                id,
                segment,
                bus: bdf.routing_id.bus(),
                devfn: bdf.routing_id.devfn(),
            });
        }
        Ok((flags, devices))
    }

    /// The id of a device in an iommufd; 0 if only others of its group are there (`VFIO_PCI_DEVID_OWNED`).
    fn device_id(&self, shared: &Shared, index: usize, iommufd: i32) -> Option<u32> {
        let bound = self.functions.get(index)?.bound;
        if let Some((number, id)) = bound {
            return (number == iommufd).then_some(id);
        }
        let group = shared.slot(index)?.group;
        (self.owner_of(shared, group) == Some(iommufd)).then_some(0)
    }

    /// Resets everything on the bus, if all of it is the caller's; returns who was reset.
    pub(crate) fn hot_reset(&mut self, shared: &Shared, index: usize, groups: &[i32]) -> Result<Vec<usize>> {
        let (_, devices) = self.hot_reset_info(shared, index)?;
        let neighbours = Self::neighbours(shared, index);
        let function = self.function(index)?;
        let own = function.bound.map(|(number, _)| number).filter(|_| function.cdev);
        if own.is_some() != groups.is_empty() || groups.len() > devices.len() || devices.len() > neighbours.len() {
            return Err(Errno::INVAL);
        }
        for other in &neighbours {
            let owned = match own {
                Some(own) => self.device_id(shared, *other, own).is_some(),
                None => {
                    let group = shared
                        .slot(*other)
                        .map(|slot| slot.group)
                        .and_then(|group| self.groups.get(&group));
                    group.is_some_and(|group| group.open && groups.contains(&group.number))
                }
            };
            if !owned {
                return Err(Errno::INVAL);
            }
        }
        for other in &neighbours {
            self.function(*other)?.after_reset();
        }
        Ok(neighbours)
    }
}
