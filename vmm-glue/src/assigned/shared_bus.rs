//! Reset of the bus of a slot, when the guest asks its port for one.
//!
//! A guest that resets the bus means every function on it. VFIO resets a whole slot or bus of the host where all that is on it is in one user's hands
//! (`VFIO_DEVICE_PCI_HOT_RESET`): that is done once for all functions of the guest's slot, where they are all that it reaches. Otherwise each
//! is reset by itself.

use super::reset::NO_RESET;
use super::state::Live;
use crate::{Error, Result};
use ::pci::Bdf;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use vfio_core::info::DeviceFlags;
use vfio_core::{BoundDevice, ErrorKind, Group, HotResetSet, Owner};

/// The functions of one slot.
#[derive(Debug)]
pub struct SharedBus {
    functions: Vec<Bdf>,
    /// Theirs, where they were opened through groups.
    groups: Vec<Group>,
    /// What another one's reset came to for those that went down since: whether they were reset with it, or are to be by themselves. No bus is
    /// reset under a function that is up again.
    known: Mutex<BTreeMap<Bdf, bool>>,
}

impl SharedBus {
    /// Of these functions, and of these groups where they were opened through groups.
    #[must_use]
    pub fn new(functions: Vec<Bdf>, groups: Vec<Group>) -> Self {
        Self {
            functions,
            groups,
            known: Mutex::default(),
        }
    }

    /// A function has gone down: what was done to it before does not count any more.
    pub(super) fn forget(&self, function: Bdf) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&function);
    }

    /// Resets the bus, unless that was done with another function; `false` where it cannot be had.
    fn reset(&self, device: &BoundDevice, function: Bdf) -> Result<bool> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(is_reset) = known.remove(&function) {
            return Ok(is_reset);
        }
        let set = match device.hot_reset_set() {
            Err(error) if matches!(error.kind, ErrorKind::Unsupported { .. }) => return Ok(false),
            set => set?,
        };
        let Some(groups) = self.groups_of(&set) else {
            return Ok(false);
        };
        let reset = device.hot_reset(&groups);
        let others = self.functions.iter().filter(|other| **other != function);
        let affected = others.filter(|other| set.functions.iter().any(|affected| affected.bdf == **other));
        known.extend(affected.map(|other| (*other, reset.is_ok())));
        reset?;
        tracing::debug!(%function, "the bus was reset, with {} function(s)", set.functions.len());
        Ok(true)
    }

    /// The groups that prove that all of the set is in this slot, or in nobody's hands; `None` where it is not.
    fn groups_of(&self, set: &HotResetSet) -> Option<Vec<&Group>> {
        let mut affected = set.functions.iter();
        let is_ours =
            affected.all(|affected| self.functions.contains(&affected.bdf) || affected.owner == Owner::SameGroup);
        let find = |id| self.groups.iter().find(|group| group.id() == Some(id));
        let groups = set.groups().into_iter().map(find).collect::<Option<Vec<_>>>();
        groups.filter(|_| is_ours && set.is_owned != Some(false))
    }
}

impl Live {
    /// Resets the device with its bus, or else by itself.
    pub(super) fn reset_with_bus(&mut self, command: u16) -> Result<()> {
        let bus = self.bus.as_ref();
        let is_reset = bus.map_or(Ok(false), |(bus, function)| bus.reset(&self.device, *function));
        match is_reset {
            Ok(true) => self.set_command(command),
            Ok(false) if !self.device.info().flags.contains(DeviceFlags::RESET) => {
                self.set_command(command)?;
                Err(Error::new("reset the bus", NO_RESET))
            }
            Ok(false) => self.reset(command),
            Err(error) => self.reset(command).and(Err(error)),
        }
    }
}
