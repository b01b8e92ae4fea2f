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

/// What comes with a request.
const DESCRIPTORS: &str = "one descriptor: of the function, or of its group";

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
    fn add(&self, functions: &[Add], files: Vec<OwnedFd>) -> Result<Vec<Assigned>> {
        let mut files = files.into_iter().peekable();
        let is_alone = functions.len() == 1;
        let mut opened = Vec::new();
        for add in functions {
            let failed = |why| Error::new("plug a function in", ErrorKind::Invalid(why)).on(add.device);
            if add.interface != self.interface() {
                return Err(failed("the guest has its functions by the other interface"));
            }
            // Which descriptor is whose is to be told only of several.
            let has_file = is_alone || add.interface == Interface::Iommufd || add.group.is_some();
            let file = match (add.interface, files.next_if(|_| has_file)) {
                (Interface::Iommufd, Some(file)) => File::Device(CdevFile::from_fd(file, Some(add.device))),
                (Interface::Type1, Some(file)) => File::Group(Group::from_fd(file, add.group.map(GroupId))),
                (Interface::Type1, None) if is_alone || !has_file => File::SameGroup,
                _ => return Err(failed(DESCRIPTORS)),
            };
            opened.push(Opened {
                bdf: add.device,
                file,
                token: add.token,
            });
        }
        if files.next().is_some() {
            return Err(Error::new("plug a function in", ErrorKind::Invalid(DESCRIPTORS)));
        }
        let added = self.functions.add(opened)?;
        Ok(added.into_iter().map(|listed| self.shown(listed)).collect())
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
