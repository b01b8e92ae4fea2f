//! Resetting a whole slot or bus, with every function on it.
//!
//! Follows `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO` and `VFIO_DEVICE_PCI_HOT_RESET` of `include/uapi/linux/vfio.h`.

use crate::iommufd::ObjectId;
use crate::legacy::Group;
use crate::sys::vfio::{DependentDevice, GroupCalls};
use crate::{BoundDevice, Error, ErrorKind};
use pci::{Bdf, GroupId, RoutingId, Segment};
use rustix::io::Errno;

/// The functions that a hot reset of a device would reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotResetSet {
    /// All of them, the device itself included.
    pub functions: Vec<Affected>,
    /// Whether the kernel would do it as things are; `None` of a device that was opened through a group, where that is proved by handing
    /// over the groups.
    pub is_owned: Option<bool>,
}

/// One function of such a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affected {
    /// The function.
    pub bdf: Bdf,
    /// Who must agree.
    pub owner: Owner,
}

/// Who has a say in the reset of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whoever has this group open.
    Group(GroupId),
    /// It is bound to the same iommufd.
    Device(ObjectId),
    /// It is in the group of a device that is bound to the same iommufd.
    SameGroup,
    /// Somebody else, or a host driver.
    Other,
}

/// `VFIO_PCI_HOT_RESET_FLAG_DEV_ID` and `_DEV_ID_OWNED`.
const BY_DEVICE: u32 = 1 << 0;
const OWNED: u32 = 1 << 1;

const INFO: &str = "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO";

impl BoundDevice {
    /// Asks which functions a hot reset would reset.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where neither slot nor bus can be reset.
    #[doc(alias = "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO")]
    pub fn hot_reset_set(&self) -> Result<HotResetSet, Error> {
        let (flags, devices) = self.calls().hot_reset_info().map_err(|errno| {
            let kind = match errno {
                Errno::NODEV | Errno::NOTTY | Errno::INVAL => ErrorKind::Unsupported {
                    errno,
                    since: "a PCI function whose slot or bus can be reset",
                },
                other => ErrorKind::from_errno(other),
            };
            self.failed(INFO, kind)
        })?;
        Ok(HotResetSet::new(flags, &devices))
    }

    /// Resets the device with all functions of its [`HotResetSet`]. `groups` are all groups concerned, to prove that they are in the hands of this
    /// process; none for a device that is bound to an iommufd.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when a function of the set belongs to somebody else; [`ErrorKind::Unsupported`] where slot and bus cannot be reset,
    /// and (ENOTTY) when the device was reset and did not come back.
    #[doc(alias = "VFIO_DEVICE_PCI_HOT_RESET")]
    pub fn hot_reset(&self, groups: &[&Group]) -> Result<(), Error> {
        let groups: Vec<&dyn GroupCalls> = groups.iter().map(|group| group.calls()).collect();
        let reset = self.calls().hot_reset(&groups);
        self.revoked();
        reset.map_err(|errno| {
            let kind = match errno {
                Errno::INVAL => ErrorKind::Denied(errno),
                Errno::NODEV | Errno::NOTTY => ErrorKind::Unsupported {
                    errno,
                    since: "a slot or bus that can be reset, and is back in time",
                },
                other => ErrorKind::from_errno(other),
            };
            self.failed("VFIO_DEVICE_PCI_HOT_RESET", kind)
        })
    }
}

impl HotResetSet {
    fn new(flags: u32, devices: &[DependentDevice]) -> Self {
        let by_device = flags & BY_DEVICE != 0;
        let owner = |id| match id {
            group if !by_device => Owner::Group(GroupId(group)),
            0 => Owner::SameGroup,
            u32::MAX => Owner::Other,
            device => Owner::Device(ObjectId(device)),
        };
        let affected = |device: &DependentDevice| Affected {
            bdf: Bdf::new(Segment(device.segment.into()), RoutingId::new(device.bus, device.devfn)),
            owner: owner(device.id),
        };
        Self {
            functions: devices.iter().map(affected).collect(),
            is_owned: by_device.then_some(flags & OWNED != 0),
        }
    }

    /// The groups concerned, each once.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        let group = |affected: &Affected| match affected.owner {
            Owner::Group(group) => Some(group),
            _ => None,
        };
        let mut groups: Vec<_> = self.functions.iter().filter_map(group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependent(id: u32, devfn: u8) -> DependentDevice {
        DependentDevice {
            id,
            segment: 0x10,
            bus: 3,
            devfn,
        }
    }

    #[test]
    fn the_same_numbers_are_groups_or_devices() {
        let devices = [
            dependent(7, 0),
            dependent(7, 1),
            dependent(0, 2),
            dependent(u32::MAX, 3),
        ];
        let set = HotResetSet::new(0, &devices);
        assert_eq!(set.is_owned, None);
        assert_eq!(set.groups(), [GroupId(0), GroupId(7), GroupId(u32::MAX)]);
        assert_eq!(set.functions[1].bdf.to_string(), "0010:03:00.1");
        let set = HotResetSet::new(BY_DEVICE, &devices);
        assert_eq!(set.is_owned, Some(false));
        let owners: Vec<_> = set.functions.iter().map(|affected| affected.owner).collect();
        let device = Owner::Device(ObjectId(7));
        assert_eq!(owners, [device, device, Owner::SameGroup, Owner::Other]);
        assert!(set.groups().is_empty());
        assert_eq!(HotResetSet::new(BY_DEVICE | OWNED, &[]).is_owned, Some(true));
    }
}
