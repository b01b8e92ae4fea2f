//! The files of the machine, by path.

use super::iommu::{ContextFile, Handle};
use super::state::Shared;
use super::vfio::{Compatible, ContainerFile, GroupFile, Opened};
use crate::sys::{Files, Result, iommufd, vfio};
use rustix::io::Errno;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The file system of a machine.
pub(crate) struct FakeFiles(pub(crate) Arc<Shared>);

impl fmt::Debug for FakeFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a machine in memory")
    }
}

impl FakeFiles {
    fn open_iommufd(&self) -> Result<Arc<ContextFile>> {
        self.0.gate.enter("open")?;
        if !self.0.iommufd {
            return Err(Errno::NOENT);
        }
        Ok(ContextFile::open(&self.0))
    }
}

/// The number at the end of a path in `directory`, behind `prefix` and possibly `noiommu-`. The directory may lie in a tree.
fn number(path: &Path, directory: &str, prefix: &str, noiommu: bool) -> Option<usize> {
    if !path.parent()?.ends_with(directory) {
        return None;
    }
    let name = path.file_name()?.to_str()?;
    let name = if noiommu { name.strip_prefix("noiommu-")? } else { name };
    name.strip_prefix(prefix)?.parse().ok()
}

impl Files for FakeFiles {
    fn iommufd(&self, path: &Path) -> Result<Arc<dyn iommufd::Calls>> {
        let context = self.open_iommufd()?;
        if !path.ends_with("dev/iommu") {
            return Err(Errno::NOENT);
        }
        Ok(Arc::new(Handle(context)))
    }

    fn cdev(&self, path: &Path) -> Result<Arc<dyn vfio::DeviceCalls>> {
        self.0.gate.enter("open")?;
        let of = |noiommu| number(path, "dev/vfio/devices", "vfio", noiommu).map(|function| (function, noiommu));
        let (function, noiommu) = of(false).or_else(|| of(true)).ok_or(Errno::NOENT)?;
        if !self.0.iommufd || self.0.slot(function).is_none_or(|slot| slot.noiommu != noiommu) {
            return Err(Errno::NOENT);
        }
        Ok(Arc::new(Opened::cdev(&self.0, function)?))
    }

    fn container(&self, path: &Path) -> Result<Arc<dyn vfio::ContainerCalls>> {
        if path.ends_with("dev/iommu") {
            return Ok(Arc::new(Compatible(self.open_iommufd()?)));
        }
        self.0.gate.enter("open")?;
        if !path.ends_with("dev/vfio/vfio") || !self.0.type1 {
            return Err(Errno::NOENT);
        }
        Ok(Arc::new(ContainerFile::open(&self.0)))
    }

    fn group(&self, path: &Path) -> Result<Arc<dyn vfio::GroupCalls>> {
        self.0.gate.enter("open")?;
        let of = |noiommu| number(path, "dev/vfio", "", noiommu).map(|group| (group, noiommu));
        let (group, noiommu) = of(false).or_else(|| of(true)).ok_or(Errno::NOENT)?;
        let group = u32::try_from(group).map_err(|_error| Errno::NOENT)?;
        if !self
            .0
            .slots
            .iter()
            .any(|slot| slot.group == group && slot.noiommu == noiommu)
        {
            return Err(Errno::NOENT);
        }
        Ok(Arc::new(GroupFile::open(&self.0, group)?))
    }

    fn memlock_limit(&self) -> Option<u64> {
        self.0.state().accounts.limit
    }

    fn memlock_used(&self) -> u64 {
        self.0.state().accounts.pinned()
    }
}
