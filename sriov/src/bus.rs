//! The files of functions on the PCI bus, read, written and read back, with the kernel's answers put into words.
//!
//! The meanings of errno follow `drivers/pci/iov.c` (`sriov_numvfs_store`) and `drivers/base/{bus,dd}.c`.

mod wait;

use crate::driver::is_vfio;
use crate::{Access, Attribute, Binding, Deadlines, Error, ErrorKind, Failure, Target, VirtualFunctions};
use pci::{Bdf, VfIndex};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The functions of the machine behind an [`Access`].
#[derive(Debug)]
pub(crate) struct Bus<'a> {
    pub(crate) access: &'a mut dyn Access,
    pub(crate) deadlines: Deadlines,
    /// Functions an access to which got no answer. It may still be under way in the kernel, with the function's lock taken.
    unanswered: BTreeSet<Bdf>,
    /// How many writes were tried.
    pub(crate) writes: usize,
    /// The claims of writes without an answer, which may happen yet.
    kept: Vec<OwnedFd>,
}

fn function_file(function: Bdf, file: &str) -> PathBuf {
    PathBuf::from(format!("sys/bus/pci/devices/{function}/{file}"))
}

/// What an attribute's text says: a `driver_override` that is not there is printed as `(null)`, and is empty.
fn value_of(text: &str) -> &str {
    match text.trim() {
        "(null)" => "",
        text => text,
    }
}

/// The nodes that a VFIO group may have. Without an IOMMU, and only if that was allowed, vfio makes groups whose nodes say so.
fn group_nodes(group: &str) -> [PathBuf; 2] {
    [format!("dev/vfio/{group}"), format!("dev/vfio/noiommu-{group}")].map(PathBuf::from)
}

impl<'a> Bus<'a> {
    pub(crate) fn new(access: &'a mut dyn Access) -> Self {
        Self {
            access,
            deadlines: Deadlines::default(),
            unanswered: BTreeSet::new(),
            writes: 0,
            kept: Vec::new(),
        }
    }

    /// Reads a file for the sake of a function.
    fn get(&mut self, function: Bdf, path: &Path, limit: Duration) -> Result<String, Failure> {
        let answer = self.access.read(path, limit);
        self.note(function, answer.as_ref().err());
        answer
    }

    /// Writes a file for the sake of a function, with the groups concerned claimed for as long as the write may be under way.
    fn put(
        &mut self,
        function: Bdf,
        path: &Path,
        value: &str,
        limit: Duration,
        claims: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        self.writes += 1;
        let answer = self.access.write(path, value, limit);
        if self.note(function, answer.as_ref().err()) {
            self.kept.extend(claims);
        }
        answer
    }

    /// Writes a file that only stores a value, for the sake of a function, and reads it back.
    fn store(&mut self, function: Bdf, path: &Path, value: &str, limit: Duration) -> Result<String, Failure> {
        self.writes += 1;
        let answer = self.access.replace(path, value, limit);
        self.note(function, answer.as_ref().err());
        answer
    }

    /// Whether the kernel owes the answer.
    fn note(&mut self, function: Bdf, failure: Option<&Failure>) -> bool {
        let is_owed = matches!(failure, Some(Failure::TimedOut(_) | Failure::Worker(_)));
        if is_owed {
            self.unanswered.insert(function);
        }
        is_owed
    }

    /// Refuses to change the number of VFs of a PF while an access to it or to one of its VFs may be under way: removing a VF waits
    /// for its lock with the PF's lock taken, so that one stuck VF would become a stuck PF. Another process may have left such an
    /// access too, so every VF is asked.
    pub(crate) fn check_answered(&mut self, pf: Bdf) -> Result<(), Error> {
        let vfs = self.vfs(pf)?;
        let mut functions = std::iter::once(&pf).chain(&vfs);
        if let Some(function) = functions.find(|function| self.unanswered.contains(function)) {
            return Err(Error::new(*function, "write sriov_numvfs", ErrorKind::Unanswered));
        }
        vfs.iter().try_for_each(|vf| self.ask(*vf))
    }

    /// Asks a function for its lock: who gets it knows that no access is under way there, whoever began it. `power/control` takes it
    /// before it looks at what is written, and refuses a word that it does not know. (Reading `driver_override` takes it only before Linux 7.)
    pub(crate) fn ask(&mut self, function: Bdf) -> Result<(), Error> {
        const STEP: &str = "ask for the device's lock";
        if self.unanswered.contains(&function) {
            return Err(Error::new(function, STEP, ErrorKind::Unanswered));
        }
        let path = function_file(function, "power/control");
        let answer = self.access.write(&path, "?", self.deadlines.attribute);
        // Any answer will do, also that of a kernel without power management.
        match answer {
            Err(failure) if self.note(function, Some(&failure)) => Err(Error::new(function, STEP, failure.into())),
            _ => Ok(()),
        }
    }

    /// The function that a target is; [`ErrorKind::Gone`] when there is none now.
    pub(crate) fn resolve(&mut self, target: &Target) -> Result<Bdf, Error> {
        let gone = |device, step| Error::new(device, step, ErrorKind::Gone);
        match target {
            Target::Function(bdf) => {
                let found = self.access.exists(&target.directory());
                let found = found.map_err(|f| Error::new(*bdf, "look up", f.into()))?;
                found.then_some(*bdf).ok_or_else(|| gone(*bdf, "look up".to_owned()))
            }
            Target::VirtualFunction { pf, index } => {
                let step = format!("read virtfn{}", index.0);
                let link = self.access.link(&target.directory());
                let name = link.map_err(|f| Error::new(*pf, step.clone(), f.into()))?;
                let name = name.ok_or_else(|| gone(*pf, step.clone()))?;
                let malformed = |_| ErrorKind::Malformed {
                    path: target.directory(),
                    found: name.chars().take(80).collect(),
                };
                name.parse().map_err(|e| Error::new(*pf, step, malformed(e)))
            }
        }
    }

    /// An attribute's value.
    pub(crate) fn read(&mut self, function: Bdf, attribute: Attribute) -> Result<String, Error> {
        let path = function_file(function, attribute.file_name());
        match self.get(function, &path, self.deadlines.attribute) {
            Ok(text) => Ok(value_of(&text).to_owned()),
            Err(failure) => {
                let kind = self.explain_read(function, attribute, &path, failure);
                Err(Error::new(function, format!("read {}", attribute.file_name()), kind))
            }
        }
    }

    fn explain_read(&mut self, function: Bdf, attribute: Attribute, path: &Path, failure: Failure) -> ErrorKind {
        match failure.errno().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) if self.is_gone(function) => ErrorKind::Gone,
            Some(Errno::NOENT) if attribute == Attribute::NumVfs => ErrorKind::NotPf,
            Some(Errno::NOENT) => ErrorKind::Missing(path.to_owned()),
            _ => failure.into(),
        }
    }

    /// Writes an attribute and compares what is there afterwards.
    pub(crate) fn write(&mut self, function: Bdf, attribute: Attribute, value: &str) -> Result<(), Error> {
        let path = function_file(function, attribute.file_name());
        let limit = match attribute {
            Attribute::NumVfs => self.deadlines.count,
            Attribute::DriversAutoprobe | Attribute::DriverOverride => self.deadlines.attribute,
        };
        let step = format!("write {}", attribute.file_name());
        let claims = match attribute {
            Attribute::NumVfs => {
                self.check_answered(function)?;
                self.claim_vfs(function)?
            }
            Attribute::DriversAutoprobe | Attribute::DriverOverride => Vec::new(),
        };
        let written = match attribute {
            Attribute::NumVfs => self.put(function, &path, value, limit, claims).map(|()| None),
            Attribute::DriversAutoprobe | Attribute::DriverOverride => {
                self.store(function, &path, value, limit).map(Some)
            }
        };
        match written {
            // It is read back already.
            Ok(Some(text)) if value_of(&text) == value => return Ok(()),
            Ok(_) => {}
            Err(failure) => {
                let kind = match attribute {
                    Attribute::NumVfs => self.explain_count(function, value, failure),
                    Attribute::DriversAutoprobe | Attribute::DriverOverride if self.is_gone(function) => {
                        ErrorKind::Gone
                    }
                    Attribute::DriversAutoprobe | Attribute::DriverOverride => failure.into(),
                };
                return Err(Error::new(function, step, kind));
            }
        }
        let found = self.read(function, attribute)?;
        if found == value {
            return Ok(());
        }
        let wanted = value.to_owned();
        Err(Error::new(function, step, ErrorKind::ReadBack { wanted, found }))
    }

    /// What an error of writing `sriov_numvfs` means.
    fn explain_count(&mut self, function: Bdf, value: &str, failure: Failure) -> ErrorKind {
        let Some(errno) = failure.errno() else {
            return failure.into();
        };
        let number = |text: Result<String, Failure>| text.ok().and_then(|text| text.trim().parse().ok());
        let limit = self.deadlines.attribute;
        match Errno::from_raw_os_error(errno) {
            _ if self.is_gone(function) => ErrorKind::Gone,
            Errno::NOENT => match self.driver(function) {
                Ok(driver) => ErrorKind::NoDriver { driver },
                Err(error) => error.kind,
            },
            Errno::BUSY => match number(self.get(function, &function_file(function, "sriov_numvfs"), limit)) {
                Some(enabled) if enabled > 0 => ErrorKind::VfsExist { enabled },
                _ => failure.into(),
            },
            Errno::RANGE => {
                let total = number(self.get(function, &function_file(function, "sriov_totalvfs"), limit));
                match (value.parse(), total) {
                    (Ok(wanted), Some(total)) => ErrorKind::TooManyVfs { wanted, total },
                    _ => failure.into(),
                }
            }
            Errno::NOMEM => ErrorKind::NoRoomForVfs,
            Errno::PERM => ErrorKind::VfsAssigned,
            _ => failure.into(),
        }
    }

    /// The driver that the function is bound to. Takes no lock.
    pub(crate) fn driver(&mut self, function: Bdf) -> Result<Option<String>, Error> {
        let link = self.access.link(&function_file(function, "driver"));
        link.map_err(|f| Error::new(function, "read driver", f.into()))
    }

    /// The driver and the override in force.
    pub(crate) fn binding(&mut self, function: Bdf) -> Result<Binding, Error> {
        Ok(Binding {
            driver_override: self.read(function, Attribute::DriverOverride)?,
            driver: self.driver(function)?,
        })
    }

    /// How the first `count` VFs of a PF are bound.
    pub(crate) fn virtual_functions(&mut self, pf: Bdf, count: u16) -> Result<VirtualFunctions, Error> {
        let autoprobe = self.read(pf, Attribute::DriversAutoprobe)?;
        let vfs = (0..count).map(VfIndex);
        let bindings = vfs.map(|index| {
            let vf = self.resolve(&Target::VirtualFunction { pf, index })?;
            self.binding(vf)
        });
        Ok(VirtualFunctions {
            bindings: bindings.collect::<Result<_, _>>()?,
            autoprobe,
        })
    }

    /// How many VFs the function has, if it has any.
    pub(crate) fn enabled_vfs(&mut self, function: Bdf) -> Result<Option<u16>, Error> {
        let first = self.access.exists(&function_file(function, "virtfn0"));
        if !first.map_err(|f| Error::new(function, "read virtfn0", f.into()))? {
            return Ok(None);
        }
        Ok(self.read(function, Attribute::NumVfs)?.parse().ok())
    }

    /// Takes the groups of `functions` that are on VFIO for ourselves. Whoever looked at processes may have missed one, or one came
    /// since; the kernel does not miss any, and lets nobody in while we have the claims.
    fn claim(&mut self, device: Bdf, step: &str, functions: &[Bdf]) -> Result<Vec<OwnedFd>, Error> {
        let mut groups = BTreeSet::new();
        for &function in functions {
            if self.driver(function)?.is_some_and(|driver| is_vfio(&driver)) {
                let group = self.access.link(&function_file(function, "iommu_group"));
                groups.extend(group.map_err(|f| Error::new(function, "read iommu_group", f.into()))?);
            }
        }
        let mut claims = Vec::new();
        for group in groups {
            for node in group_nodes(&group) {
                let Err(failure) = self.access.claim(&node).map(|claim| claims.push(claim)) else {
                    break;
                };
                let kind = match failure.errno().map(Errno::from_raw_os_error) {
                    // A kernel without group nodes, or no right to one: then the look at processes must do.
                    Some(Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::ACCESS | Errno::PERM) => continue,
                    Some(Errno::BUSY) => ErrorKind::Held { holders: Vec::new() },
                    _ => failure.into(),
                };
                return Err(Error::new(device, step, kind));
            }
        }
        Ok(claims)
    }

    /// All VFs of a PF. Takes no lock.
    fn vfs(&mut self, pf: Bdf) -> Result<Vec<Bdf>, Error> {
        let mut vfs = Vec::new();
        for index in (0..=u16::MAX).map(VfIndex) {
            match self.resolve(&Target::VirtualFunction { pf, index }) {
                Ok(vf) => vfs.push(vf),
                Err(error) if error.kind == ErrorKind::Gone => break,
                Err(error) => return Err(error),
            }
        }
        Ok(vfs)
    }

    /// Claims all VFs of a PF.
    fn claim_vfs(&mut self, pf: Bdf) -> Result<Vec<OwnedFd>, Error> {
        let vfs = self.vfs(pf)?;
        self.claim(pf, "write sriov_numvfs", &vfs)
    }

    /// Takes the function from its driver, if it has one.
    pub(crate) fn unbind(&mut self, function: Bdf) -> Result<(), Error> {
        let path = function_file(function, "driver/unbind");
        let claims = self.claim(function, "write driver/unbind", &[function])?;
        let outcome = self.put(function, &path, &function.to_string(), self.deadlines.driver, claims);
        let found = self.driver(function)?;
        let kind = match (outcome, found) {
            // Without a driver there is no `unbind` to write to.
            (Ok(()) | Err(Failure::Errno(_)), None) => return Ok(()),
            (Ok(()), Some(found)) => ErrorKind::ReadBack {
                wanted: String::new(),
                found,
            },
            (Err(failure), _) => failure.into(),
        };
        Err(Error::new(function, "write driver/unbind", kind))
    }

    /// Lets the kernel look for a driver. What came of it does not show in the answer.
    pub(crate) fn probe(&mut self, function: Bdf) -> Result<(), Error> {
        let path = Path::new("sys/bus/pci/drivers_probe");
        let Err(failure) = self.put(function, path, &function.to_string(), self.deadlines.driver, Vec::new()) else {
            return Ok(());
        };
        let kind = match failure {
            Failure::Errno(_) if self.is_gone(function) => ErrorKind::Gone,
            failure => failure.into(),
        };
        Err(Error::new(function, "write drivers_probe", kind))
    }

    /// Offers the function to one driver, and sees that it took it. Unlike `drivers_probe`, which answers success whatever came of
    /// it, `bind` answers with what the driver's probe returned, and with ENODEV where the driver does not match the function.
    pub(crate) fn bind(&mut self, function: Bdf, driver: &str) -> Result<(), Error> {
        let path = PathBuf::from(format!("sys/bus/pci/drivers/{driver}/bind"));
        let outcome = self.put(
            function,
            &path,
            &function.to_string(),
            self.deadlines.driver,
            Vec::new(),
        );
        let found = self.driver(function)?;
        let not_bound = |errno| ErrorKind::NotBound {
            wanted: driver.to_owned(),
            found: found.clone(),
            errno,
        };
        let kind = match outcome {
            // Somebody else may have been quicker with the same wish.
            Ok(()) | Err(Failure::Errno(_)) if found.as_deref() == Some(driver) => return Ok(()),
            Ok(()) => not_bound(None),
            Err(Failure::Errno(errno)) => match Errno::from_raw_os_error(errno) {
                _ if self.is_gone(function) => ErrorKind::Gone,
                Errno::NOENT => ErrorKind::UnknownDriver {
                    name: driver.to_owned(),
                    similar: Vec::new(),
                },
                Errno::ACCESS | Errno::PERM | Errno::INTR => ErrorKind::from(Failure::Errno(errno)),
                _ => not_bound(Some(errno)),
            },
            Err(failure) => failure.into(),
        };
        Err(Error::new(function, format!("write drivers/{driver}/bind"), kind))
    }

    fn is_gone(&mut self, function: Bdf) -> bool {
        self.access.exists(&function_file(function, "")) == Ok(false)
    }
}
