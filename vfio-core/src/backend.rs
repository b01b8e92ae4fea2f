//! The ways to open a device, and which of them this machine offers.

use crate::iommufd::Iommufd;
use crate::{CdevFile, Container, ContainerPath, Error, ErrorKind, Group, IommuType, System};
use pci::{Bdf, GroupId, Sysfs};
use rustix::io::Errno;
use std::fmt;

/// A way to open a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// A character device and an iommufd (Linux 6.6).
    Iommufd,
    /// A group and a container of type1 version 2.
    Type1v2,
    /// A group and a container of type1 version 1.
    Type1,
    /// A group, and an iommufd that behaves like type1 version 2.
    CompatType1v2,
    /// A group, and an iommufd that behaves like type1 version 1.
    CompatType1,
    /// No IOMMU: the device reaches all memory.
    NoIommu,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Iommufd,
        Self::Type1v2,
        Self::Type1,
        Self::CompatType1v2,
        Self::CompatType1,
        Self::NoIommu,
    ];

    /// Looks which ways can be used, for a certain function or at all, and why the others cannot. Opens files and closes them again: while that
    /// lasts, nobody else can open the function's group.
    ///
    /// ```
    /// use vfio_core::{Backend, System};
    ///
    /// for (backend, usable) in Backend::probe(&System::host(), &pci::Sysfs::host(), None) {
    ///     match usable {
    ///         Ok(()) => println!("{backend}: usable"),
    ///         Err(why) => println!("{backend}: {why}"),
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn probe(system: &System, sysfs: &Sysfs, bdf: Option<Bdf>) -> Vec<(Self, Result<(), Error>)> {
        let all = Self::ALL.into_iter();
        all.map(|backend| (backend, backend.check(system, sysfs, bdf)))
            .collect()
    }

    /// The container that the way goes through, and the type of its IOMMU.
    #[must_use]
    pub fn container(self) -> Option<(ContainerPath, IommuType)> {
        match self {
            Self::Type1v2 => Some((ContainerPath::Vfio, IommuType::Type1v2)),
            Self::Type1 => Some((ContainerPath::Vfio, IommuType::Type1)),
            Self::CompatType1v2 => Some((ContainerPath::Iommu, IommuType::Type1v2)),
            Self::CompatType1 => Some((ContainerPath::Iommu, IommuType::Type1)),
            Self::Iommufd | Self::NoIommu => None,
        }
    }

    fn check(self, system: &System, sysfs: &Sysfs, bdf: Option<Bdf>) -> Result<(), Error> {
        match (self, self.container()) {
            (Self::NoIommu, _) => check_no_iommu(system, sysfs),
            (_, Some((path, kind))) => check_container(system, sysfs, path, kind, bdf),
            (_, None) => check_iommufd(system, sysfs, bdf),
        }
        .map_err(|error| error.on(bdf))
    }
}

fn check_iommufd(system: &System, sysfs: &Sysfs, bdf: Option<Bdf>) -> Result<(), Error> {
    drop(Iommufd::open(system)?);
    match bdf {
        // Opening the file claims nothing; binding would.
        Some(bdf) => CdevFile::open_bdf(system, sysfs, bdf).map(drop),
        None => Ok(()),
    }
}

fn check_container(
    system: &System,
    sysfs: &Sysfs,
    path: ContainerPath,
    kind: IommuType,
    bdf: Option<Bdf>,
) -> Result<(), Error> {
    if !Container::open(system, path)?.offers(kind)? {
        return Err(no_extension("a kernel with CONFIG_VFIO_IOMMU_TYPE1, or an iommufd"));
    }
    let Some(bdf) = bdf else { return Ok(()) };
    let id = group_of(sysfs, bdf)?;
    let group = Group::open(system, id)?;
    if group.viable()? {
        return Ok(());
    }
    let culprits = group.culprits();
    let kind = ErrorKind::GroupNotViable { group: id, culprits };
    Err(Error::new("VFIO_GROUP_GET_STATUS", kind))
}

fn check_no_iommu(system: &System, sysfs: &Sysfs) -> Result<(), Error> {
    const PARAMETER: &str = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    /// `VFIO_NOIOMMU_IOMMU`.
    const NO_IOMMU: u32 = 8;
    let since = "a kernel with CONFIG_VFIO_NOIOMMU and vfio.enable_unsafe_noiommu_mode=1";
    if !sysfs
        .read(PARAMETER)
        .is_ok_and(|value| matches!(value.as_str(), "Y" | "1"))
    {
        let errno = Errno::OPNOTSUPP;
        return Err(Error::new(
            format!("read /{PARAMETER}"),
            ErrorKind::Unsupported { errno, since },
        ));
    }
    if !Container::open(system, ContainerPath::Vfio)?.has_extension(NO_IOMMU)? {
        return Err(no_extension(since));
    }
    Ok(())
}

fn no_extension(since: &'static str) -> Error {
    let errno = Errno::OPNOTSUPP;
    Error::new("VFIO_CHECK_EXTENSION", ErrorKind::Unsupported { errno, since })
}

/// The group of a function, by `/sys`.
fn group_of(sysfs: &Sysfs, bdf: Bdf) -> Result<GroupId, Error> {
    let path = format!("sys/bus/pci/devices/{bdf}/iommu_group");
    let name = sysfs.link_name(&path).ok();
    let id = name.and_then(|name| name.parse().ok()).map(GroupId);
    id.ok_or_else(|| Error::new(format!("read /{path}"), ErrorKind::NotFound(Errno::NOENT)))
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iommufd => "iommufd",
            Self::Type1v2 => "type1v2",
            Self::Type1 => "type1",
            Self::CompatType1v2 => "iommufd as type1v2",
            Self::CompatType1 => "iommufd as type1",
            Self::NoIommu => "no IOMMU",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_has_an_answer_on_any_machine() {
        let bdf = "ffff:ff:1f.7".parse().unwrap();
        let answers = Backend::probe(&System::host(), &Sysfs::host(), Some(bdf));
        assert_eq!(answers.len(), Backend::ALL.len());
        for (backend, usable) in answers {
            assert!(
                backend == Backend::NoIommu || usable.is_err(),
                "no machine has {bdf}: {backend}"
            );
        }
    }
}
