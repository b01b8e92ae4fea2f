//! The machine's end: what is asked of it is done to its functions.

use super::{Add, Assigned, Control, Interface};
use crate::functions::{File, Functions, Opened};
use crate::machine::Handle;
use crate::{Error, ErrorKind, Result};
use pci::{Bdf, GroupId};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::{CdevFile, Group};

/// A machine that runs.
#[derive(Debug)]
pub struct Running {
    functions: Arc<Functions>,
    handle: Handle,
    /// By which interface it has all of its functions.
    interface: Interface,
}

impl Running {
    /// Answers for a machine and its functions.
    #[must_use]
    pub fn new(functions: Arc<Functions>, handle: Handle, interface: Interface) -> Self {
        Self {
            functions,
            handle,
            interface,
        }
    }
}

impl Control for Running {
    fn add(&self, add: &Add, files: Vec<OwnedFd>) -> Result<Assigned> {
        let invalid = |why| Error::new("add a function", ErrorKind::Invalid(why)).on(add.device);
        if add.interface != self.interface {
            return Err(invalid(match self.interface {
                Interface::Type1 => "this guest has its functions through container and group: --interface type1",
                Interface::Iommufd => "this guest has its functions through iommufd: --interface iommufd",
            }));
        }
        let mut files = files.into_iter();
        let file = match (files.next(), files.next(), self.interface) {
            (Some(file), None, Interface::Iommufd) => File::Device(CdevFile::from_fd(file, Some(add.device))),
            (Some(file), None, Interface::Type1) => File::Group(Group::from_fd(file, add.group.map(GroupId))),
            (None, None, Interface::Type1) => File::SameGroup,
            _ => return Err(invalid("it comes with the wrong number of descriptors")),
        };
        let opened = Opened {
            bdf: add.device,
            file,
            token: None,
        };
        let listed = self.functions.add(vec![opened])?;
        let listed = listed.into_iter().find(|listed| listed.host == add.device);
        let listed = listed.ok_or_else(|| invalid("the machine has it and does not list it"))?;
        Ok(Assigned {
            device: listed.host,
            interface: self.interface,
            address: listed.guest,
        })
    }

    fn remove(&self, device: Bdf, timeout: Duration) -> Result<()> {
        self.functions.remove(device, timeout)
    }

    fn list(&self) -> Vec<Assigned> {
        let listed = self.functions.list().into_iter();
        let assigned = listed.map(|listed| Assigned {
            device: listed.host,
            interface: self.interface,
            address: listed.guest,
        });
        assigned.collect()
    }

    fn stop(&self) {
        if let Err(error) = self.handle.stop() {
            tracing::error!("the machine cannot be stopped: {error}");
        }
    }
}
