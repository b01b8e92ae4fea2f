//! Groups: functions that the IOMMU cannot tell apart, and so must share a space.

use crate::space::AddressSpace;
use crate::{Error, Result};
use pci::{Bdf, GroupId};
use vfio_core::{BoundDevice, Container, ContainerPath, ErrorKind, Group, IommuType, System, VfToken};

/// Groups in one container, and the space that all their devices share.
///
/// Devices and mappings hold what they need: they and this can go in any order. The groups stay open as long as the space.
///
/// ```no_run
/// use iommu::group::GroupSpace;
/// use vfio_core::{ContainerPath, System};
///
/// let groups = GroupSpace::open(&System::host(), ContainerPath::Vfio, &[pci::GroupId(7), pci::GroupId(8)])?;
/// let port = groups.device("0000:01:00.0".parse().unwrap(), None)?;
/// let other = groups.device("0000:01:00.1".parse().unwrap(), None)?;
/// let memory = std::sync::Arc::new(vfio_core::Memory::new(4096, Default::default())?);
/// // Both find it.
/// let mapping = groups.space().map(&memory, 0..4096, iommu::space::MapOptions::new(vfio_core::Access::READ))?;
/// # drop((port, other));
/// # Ok::<(), iommu::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct GroupSpace {
    system: System,
    space: AddressSpace,
}

impl GroupSpace {
    /// Opens groups and puts them into one new container, version 2 of type1.
    ///
    /// # Errors
    ///
    /// [`GroupNotViable`](ErrorKind::GroupNotViable) with the functions in the way; [`Error::Invalid`] without a group; those of opening.
    pub fn open(system: &System, path: ContainerPath, ids: &[GroupId]) -> Result<Self> {
        let container = Container::open(system, path)?;
        let (first, others) = ids.split_first().ok_or(Error::Invalid("a container needs a group"))?;
        let first = container.add(&viable(system, *first)?)?;
        container.set_iommu(IommuType::Type1v2)?;
        let space = AddressSpace::type1(container)?;
        space.groups().push(first);
        let mut opened = Self {
            system: system.clone(),
            space,
        };
        for id in others {
            opened.add(*id)?;
        }
        Ok(opened)
    }

    /// Adds another group. What it cannot reach is no longer allocated; the kernel refuses it if something is mapped there.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn add(&mut self, id: GroupId) -> Result<()> {
        let container = self.space.container().ok_or(Error::Invalid("no container"))?;
        let group = container.add(&viable(&self.system, id)?)?;
        self.space.groups().push(group);
        self.space.refresh().map(drop)
    }

    /// Opens a function of one of the groups. `token` is for VFs whose PF is on vfio-pci, and for that PF.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if none of the groups has it; those of [`AttachedGroup::device`](vfio_core::AttachedGroup::device).
    pub fn device(&self, bdf: Bdf, token: Option<VfToken>) -> Result<BoundDevice> {
        let mut last = Error::Invalid("a container needs a group");
        for group in self.space.groups().iter() {
            match group.device(bdf, token) {
                Ok(device) => return Ok(device),
                Err(error) => {
                    let is_elsewhere = matches!(error.kind, ErrorKind::NotFound(_));
                    last = error.into();
                    if !is_elsewhere {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// The space.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }
}

/// Opens a group that the kernel would hand out, or says which functions are in the way.
pub(crate) fn viable(system: &System, id: GroupId) -> Result<Group> {
    let group = Group::open(system, id)?;
    if group.viable()? {
        return Ok(group);
    }
    let culprits = group.culprits();
    let kind = ErrorKind::GroupNotViable { group: id, culprits };
    Err(vfio_core::Error::new("VFIO_GROUP_GET_STATUS", kind).into())
}
