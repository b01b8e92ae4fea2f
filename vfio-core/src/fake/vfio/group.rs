//! Group files (`group.c`).

use super::container::ContainerFile;
use super::file::Opened;
use crate::fake::iommu::ContextFile;
use crate::fake::state::Shared;
use crate::sys::Result;
use crate::sys::vfio::{ContainerCalls, DeviceCalls, GroupCalls};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_bindings::bindings::vfio as uapi;

/// What is known of a group.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) open: bool,
    /// Number of the open file.
    pub(crate) number: i32,
    /// Number of its container, or of the iommufd in place of one.
    pub(crate) container: Option<i32>,
}

/// An open group file.
#[derive(Debug)]
pub(crate) struct GroupFile {
    pub(crate) shared: Arc<Shared>,
    group: u32,
    number: i32,
    container: Mutex<Option<Held>>,
}

/// A group holds its container.
#[derive(Debug, Clone)]
enum Held {
    Container(Arc<ContainerFile>),
    Iommufd(Arc<ContextFile>),
}

/// The handle of a user.
#[derive(Debug)]
pub(crate) struct Handle(Arc<GroupFile>);

impl GroupFile {
    pub(crate) fn open(shared: &Arc<Shared>, group: u32) -> Result<Handle> {
        let mut state = shared.state();
        let members = || {
            shared
                .slots
                .iter()
                .zip(&state.functions)
                .filter(|(slot, _)| slot.group == group)
        };
        if members().all(|(_, function)| function.removed) {
            return Err(Errno::NODEV);
        }
        if members().any(|(_, function)| function.cdev) {
            return Err(Errno::BUSY);
        }
        let number = state.new_number();
        let known = state.groups.entry(group).or_default();
        if known.open {
            return Err(Errno::BUSY);
        }
        *known = Group {
            open: true,
            number,
            container: None,
        };
        state.files.insert(number, format!("/dev/vfio/{group}"));
        drop(state);
        let container = Mutex::default();
        Ok(Handle(Arc::new(Self {
            shared: Arc::clone(shared),
            group,
            number,
            container,
        })))
    }

    fn leave(&self, held: &Held) {
        self.shared.settled(|state| {
            if let Some(group) = state.groups.get_mut(&self.group) {
                group.container = None;
            }
            if let Held::Container(container) = held {
                state.leave_container(container.number, self.group);
            }
        });
    }
}

impl Drop for GroupFile {
    fn drop(&mut self) {
        let held = self.container.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(held) = &held {
            self.leave(held);
        }
        let mut state = self.shared.state();
        state.files.remove(&self.number);
        if let Some(group) = state.groups.get_mut(&self.group) {
            group.open = false;
        }
    }
}

impl GroupCalls for Handle {
    fn status(&self) -> Result<u32> {
        let file = &self.0;
        file.shared.gate.enter("VFIO_GROUP_GET_STATUS")?;
        let state = file.shared.state();
        let container = state.groups.get(&file.group).and_then(|group| group.container);
        Ok(match container {
            Some(_) => uapi::VFIO_GROUP_FLAGS_CONTAINER_SET | uapi::VFIO_GROUP_FLAGS_VIABLE,
            None if state.owner_of(&file.shared, file.group).is_none() => uapi::VFIO_GROUP_FLAGS_VIABLE,
            None => 0,
        })
    }

    fn set_container(&self, container: &dyn ContainerCalls) -> Result<()> {
        let file = &self.0;
        file.shared.gate.enter("VFIO_GROUP_SET_CONTAINER")?;
        let number = container.number();
        let mut own = file.container.lock().unwrap_or_else(PoisonError::into_inner);
        if own.is_some() {
            return Err(Errno::INVAL);
        }
        let (container, iommufd) = {
            let state = file.shared.state();
            let container = state.containers.get(&number).map(|container| container.file.clone());
            (
                container,
                state.contexts.get(&number).map(|context| context.file.clone()),
            )
        };
        let container = container.and_then(|container| container.upgrade());
        let iommufd = iommufd.and_then(|iommufd| iommufd.upgrade());
        let held = match (container, iommufd) {
            (Some(container), _) => Held::Container(container),
            (None, Some(iommufd)) => Held::Iommufd(iommufd),
            (None, None) => return Err(Errno::BADF),
        };
        file.shared.settled(|state| {
            let noiommu = file.shared.is_noiommu(file.group);
            match &held {
                Held::Container(_) => {
                    if state.owner_of(&file.shared, file.group).is_some() {
                        return Err(Errno::PERM);
                    }
                    state.join_container(&file.shared, number, file.group, noiommu)?;
                }
                Held::Iommufd(_) => {
                    let (context, _) = state.context(&file.shared, number).ok_or(Errno::BADF)?;
                    if !noiommu {
                        context.ensure_compatible_ioas()?;
                    } else if context.vfio_ioas.is_some() {
                        return Err(Errno::INVAL);
                    } else {
                        context.noiommu_mode = true;
                    }
                }
            }
            state.groups.entry(file.group).or_default().container = Some(number);
            Ok(())
        })?;
        *own = Some(held);
        Ok(())
    }

    fn unset_container(&self) -> Result<()> {
        let file = &self.0;
        file.shared.gate.enter("VFIO_GROUP_UNSET_CONTAINER")?;
        let mut own = file.container.lock().unwrap_or_else(PoisonError::into_inner);
        let held = own.as_ref().ok_or(Errno::INVAL)?;
        // Open devices hold the group's file, which `self` is one handle on.
        if matches!(held, Held::Container(_)) && file.shared.has_open_device(file.group) {
            return Err(Errno::BUSY);
        }
        file.leave(held);
        *own = None;
        Ok(())
    }

    fn device(&self, name: &str) -> Result<Arc<dyn DeviceCalls>> {
        let file = &self.0;
        file.shared.gate.enter("VFIO_GROUP_GET_DEVICE_FD")?;
        let (bdf, options) = name.split_once(' ').unwrap_or((name, ""));
        let member = |slot: &crate::fake::state::Slot| slot.group == file.group && slot.bdf.to_string() == bdf;
        let function = file.shared.slots.iter().position(member).ok_or(Errno::NODEV)?;
        let token = parse_token(options)?;
        file.shared.state().match_token(&file.shared, function, token)?;
        let held = file.container.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let iommufd = match held.ok_or(Errno::INVAL)? {
            Held::Container(container) => {
                if !file
                    .shared
                    .state()
                    .containers
                    .get(&container.number)
                    .is_some_and(|known| known.is_set())
                {
                    return Err(Errno::INVAL);
                }
                None
            }
            Held::Iommufd(iommufd) => Some(iommufd).filter(|_| !file.shared.is_noiommu(file.group)),
        };
        Ok(Arc::new(Opened::of_group(Arc::clone(file), function, iommufd)?))
    }

    fn number(&self) -> i32 {
        self.0.number
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        self.0.shared.gate.enter("dup")?;
        Ok(None)
    }
}

impl Shared {
    pub(crate) fn is_noiommu(&self, group: u32) -> bool {
        self.slots.iter().any(|slot| slot.group == group && slot.noiommu)
    }

    fn has_open_device(&self, group: u32) -> bool {
        let state = self.state();
        self.slots
            .iter()
            .zip(&state.functions)
            .any(|(slot, function)| slot.group == group && function.open > 0)
    }
}

/// The options behind a device's name: `vf_token=UUID` or nothing.
fn parse_token(options: &str) -> Result<Option<[u8; 16]>> {
    let mut token = None;
    for option in options.split(' ').filter(|option| !option.is_empty()) {
        let uuid = option
            .strip_prefix("vf_token=")
            .filter(|_| token.is_none())
            .ok_or(Errno::INVAL)?;
        let digits: String = uuid.chars().filter(|c| *c != '-').collect();
        if uuid.len() != 36 || digits.len() != 32 {
            return Err(Errno::INVAL);
        }
        let value = u128::from_str_radix(&digits, 16).map_err(|_error| Errno::INVAL)?;
        token = Some(value.to_be_bytes());
    }
    Ok(token)
}
