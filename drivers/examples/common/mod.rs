//! What the programs here have in common: which function, and by which interface of the kernel.

use anyhow::Result;
use clap::{Args, ValueEnum};
use drivers::VfioBacking;
use iommu::OpenOptions;
use pci::Bdf;
use vfio_core::{Backend, VfToken};

/// The function to drive.
#[derive(Debug, Clone, Args)]
pub(crate) struct Function {
    /// Function that is bound to vfio-pci, as 0000:01:00.0
    pub(crate) bdf: Bdf,
    /// The kernel's interface [default: the best that there is]
    #[arg(long, value_enum)]
    pub(crate) interface: Option<Interface>,
    /// Token of the physical function, for a virtual one whose physical one is on vfio-pci too
    #[arg(long)]
    pub(crate) token: Option<VfToken>,
}

/// How the kernel gives functions to processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Interface {
    /// /dev/iommu and a file for each device
    Iommufd,
    /// A container and a group
    Type1,
}

impl Function {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// With what helps, where something does.
    pub(crate) fn open(&self) -> Result<VfioBacking> {
        let mut options = OpenOptions::default();
        if let Some(interface) = self.interface {
            options = options.only(match interface {
                Interface::Iommufd => Backend::Iommufd,
                Interface::Type1 => Backend::Type1v2,
            });
        }
        if let Some(token) = self.token {
            options = options.token(token);
        }
        let opened = VfioBacking::open_with(&options, self.bdf);
        opened.map_err(|error| {
            let fix = error.fix();
            let error = anyhow::Error::new(error);
            match fix {
                Some(fix) => error.context(format!("{} cannot be opened; {fix}", self.bdf)),
                None => error,
            }
        })
    }
}
