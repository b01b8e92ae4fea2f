//! Opens the function that the command line names.

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use drivers::VfioBacking;
use iommu::group::GroupSpace;
use iommu::space::AddressSpace;
use pci::{Bdf, Sysfs, Topology};
use vfio_core::iommufd::Iommufd;
use vfio_core::{CdevFile, ContainerPath, System, VfToken};

/// Which function, and how it is opened.
#[derive(Debug, Clone, Args)]
pub(crate) struct Device {
    /// Its address, for example 0000:01:00.0; it is bound to vfio-pci
    pub(crate) bdf: Bdf,
    /// Interface of the kernel [default: iommufd, where there is one]
    #[arg(long)]
    pub(crate) interface: Option<Interface>,
    /// Of a VF whose PF is driven through VFIO, too: the token that they share
    #[arg(long)]
    pub(crate) vf_token: Option<VfToken>,
}

/// An interface of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Interface {
    /// /dev/iommu and the device's own file
    Iommufd,
    /// A container and a group
    Type1,
}

impl Device {
    /// Opens it.
    pub(crate) fn open(&self) -> anyhow::Result<VfioBacking> {
        match self.interface {
            Some(Interface::Iommufd) => self.iommufd(),
            Some(Interface::Type1) => self.type1(),
            None => self.iommufd().or_else(|error| self.type1().context(error)),
        }
    }

    fn iommufd(&self) -> anyhow::Result<VfioBacking> {
        let system = System::host();
        let iommufd = Iommufd::open(&system)?;
        let device = CdevFile::open_bdf(&system, &Sysfs::host(), self.bdf)?.bind(&iommufd, self.vf_token)?;
        Ok(VfioBacking::new(&device, &AddressSpace::iommufd(&iommufd)?)?)
    }

    fn type1(&self) -> anyhow::Result<VfioBacking> {
        let topology = Topology::read(&Sysfs::host())?;
        let group = topology.groups().find(|group| group.functions.contains(&self.bdf));
        let Some(group) = group.map(|group| group.id) else {
            bail!("{} is in no IOMMU group", self.bdf);
        };
        let groups = GroupSpace::open(&System::host(), ContainerPath::Vfio, &[group])?;
        Ok(VfioBacking::new(
            &groups.device(self.bdf, self.vf_token)?,
            groups.space(),
        )?)
    }
}
