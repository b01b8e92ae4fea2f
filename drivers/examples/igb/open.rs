//! Which function to use, and how: arguments that the programs for the 82576 share.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use drivers::VfioBacking;
use drivers::igbvf::MacAddress;
use iommu::group::GroupSpace;
use iommu::space::AddressSpace;
use pci::{Bdf, Sysfs, Topology};
use vfio_core::iommufd::Iommufd;
use vfio_core::{CdevFile, ContainerPath, System};

/// The function, on vfio-pci.
#[derive(Debug, Args)]
pub(crate) struct Function {
    /// Virtual function of an 82576, bound to vfio-pci
    bdf: Bdf,
    /// Interface of the kernel to use [default: iommufd where there is one]
    #[arg(long)]
    interface: Option<Kind>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// `/dev/iommu` and the device's own file
    Iommufd,
    /// A container and the device's group
    Type1,
}

impl Function {
    /// Takes it over.
    pub(crate) fn open(&self) -> Result<VfioBacking> {
        let (system, sysfs) = (System::host(), Sysfs::host());
        let kind = match self.interface {
            Some(kind) => kind,
            None if Iommufd::open(&system).is_ok() => Kind::Iommufd,
            None => Kind::Type1,
        };
        let (device, space) = match kind {
            Kind::Iommufd => {
                let iommufd = Iommufd::open(&system)?;
                let device = CdevFile::open_bdf(&system, &sysfs, self.bdf)?.bind(&iommufd, None)?;
                (device, AddressSpace::iommufd(&iommufd)?)
            }
            Kind::Type1 => {
                let topology = Topology::read(&sysfs)?;
                let group = topology.groups().find(|group| group.functions.contains(&self.bdf));
                let group = group.context("the function is in no IOMMU group")?.id;
                let groups = GroupSpace::open(&system, ContainerPath::Vfio, &[group])?;
                (groups.device(self.bdf, None)?, groups.space().clone())
            }
        };
        Ok(VfioBacking::new(&device, &space)?)
    }
}

/// An address of Ethernet, such as 02:00:00:00:00:01.
pub(crate) fn mac(text: &str) -> Result<MacAddress, String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(MacAddress)
        .ok_or_else(|| "six bytes with colons between them".to_owned())
}
