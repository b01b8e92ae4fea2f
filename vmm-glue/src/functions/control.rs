//! The functions of a machine that runs, under control of others.

use super::{Backend, File, Functions, Listed, Opened};
use crate::control::{Add, Assigned, Control, Interface};
use crate::machine::Handle;
use crate::{Error, ErrorKind, Result};
use ::pci::{Bdf, GroupId};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::{CdevFile, Group};

/// A machine and its functions, for [`control::serve`](crate::control::serve).
#[derive(Debug)]
pub struct Controlled {
    functions: Arc<Functions>,
    machine: Handle,
}

impl Controlled {
    /// These functions are the machine's.
    #[must_use]
    pub fn new(functions: Arc<Functions>, machine: Handle) -> Self {
        Self { functions, machine }
    }

    fn shown(&self, listed: Listed) -> Assigned {
        Assigned {
            device: listed.host,
            interface: self.interface(),
            address: listed.guest,
        }
    }

    fn interface(&self) -> Interface {
        match self.functions.backend() {
            Backend::Iommufd(_) => Interface::Iommufd,
            Backend::Type1(_) => Interface::Type1,
        }
    }
}

impl Control for Controlled {
    fn add(&self, add: &Add, files: Vec<OwnedFd>) -> Result<Assigned> {
        let failed = |kind| Error::new("plug a function in", kind).on(add.device);
        if add.interface != self.interface() {
            return Err(failed(ErrorKind::Invalid(
                "the guest has its functions by the other interface",
            )));
        }
        let mut files = files.into_iter();
        let file = match (add.interface, files.next(), files.next()) {
            (Interface::Iommufd, Some(file), None) => File::Device(CdevFile::from_fd(file, Some(add.device))),
            (Interface::Type1, Some(file), None) => File::Group(Group::from_fd(file, add.group.map(GroupId))),
            (Interface::Type1, None, None) => File::SameGroup,
            _ => {
                return Err(failed(ErrorKind::Invalid(
                    "one descriptor: of the function, or of its group",
                )));
            }
        };
        let opened = Opened {
            bdf: add.device,
            file,
            token: add.token,
        };
        let added = self.functions.add(vec![opened])?;
        let none = || failed(ErrorKind::Invalid("nothing was plugged in"));
        added.first().map(|listed| self.shown(*listed)).ok_or_else(none)
    }

    fn remove(&self, device: Bdf, timeout: Duration) -> Result<()> {
        self.functions.remove(device, timeout)
    }

    fn list(&self) -> Vec<Assigned> {
        self.functions
            .list()
            .into_iter()
            .map(|listed| self.shown(listed))
            .collect()
    }

    fn stop(&self) {
        if let Err(error) = self.machine.stop() {
            tracing::error!(%error, "the machine does not hear that it is to end");
        }
    }
}
