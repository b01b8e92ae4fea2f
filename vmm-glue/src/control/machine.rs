//! The machine's end: what is asked of it is done to its functions.

use super::{Add, Assigned, Control, Interface};
use crate::assigned::Notice;
use crate::functions::{File, Functions, Opened};
use crate::machine::{EventKey, Events, Handle};
use crate::{Error, ErrorKind, Result};
use pci::{Bdf, GroupId};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vfio_core::{CdevFile, Group};

/// A machine that runs.
#[derive(Debug)]
pub struct Running {
    functions: Arc<Functions>,
    handle: Handle,
    events: Arc<Events>,
    /// What is listened to, by function.
    watched: Mutex<BTreeMap<Bdf, Vec<EventKey>>>,
    /// By which interface it has all of its functions.
    interface: Interface,
}

impl Running {
    /// Answers for a machine and its functions.
    #[must_use]
    pub fn new(functions: Arc<Functions>, handle: Handle, events: Arc<Events>, interface: Interface) -> Self {
        Self {
            functions,
            handle,
            events,
            watched: Mutex::default(),
            interface,
        }
    }

    /// Listens to what the kernel has to say of a function from now on: the guest is asked to let go of one that the host wants back.
    ///
    /// # Errors
    ///
    /// When no descriptor is left.
    pub fn watch(&self, device: Bdf) -> Result<()> {
        let mut keys = Vec::new();
        for event in self.functions.notice_events(device)? {
            let (functions, events) = (Arc::clone(&self.functions), Arc::downgrade(&self.events));
            keys.push(self.events.add(event, move || {
                let Some(events) = events.upgrade() else { return };
                if let Err(error) = heed(&functions, &events) {
                    tracing::error!("what the kernel says of a function is not heeded: {error}");
                }
            })?);
        }
        self.watched().insert(device, keys);
        Ok(())
    }
}

impl Running {
    fn watched(&self) -> MutexGuard<'_, BTreeMap<Bdf, Vec<EventKey>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On the event thread.
fn heed(functions: &Arc<Functions>, events: &Arc<Events>) -> Result<()> {
    for (device, notice) in functions.take_notices()? {
        if notice == Notice::Wanted {
            tracing::info!("{device} is wanted back: the guest is asked to let go of it");
            let removal = functions.begin_removal(device)?;
            let functions = Arc::clone(functions);
            events.add(removal.emptied().try_clone()?, move || {
                // Readable for good, and removed with the machine: the second time there is nothing left to do.
                drop(removal.emptied().try_read());
                if let Err(error) = functions.finish_removal(&removal) {
                    tracing::error!("{error}");
                }
            })?;
        } else {
            tracing::error!("{device} has failed, and is stopped");
        }
    }
    Ok(())
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
        self.watch(listed.host)?;
        Ok(Assigned {
            device: listed.host,
            interface: self.interface,
            address: listed.guest,
        })
    }

    fn remove(&self, device: Bdf, timeout: Duration) -> Result<()> {
        self.functions.remove(device, timeout)?;
        for key in self.watched().remove(&device).unwrap_or_default() {
            self.events.remove(key);
        }
        Ok(())
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
