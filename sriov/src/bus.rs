//! The files of functions on the PCI bus, read, written and read back, with the kernel's answers put into words.
//!
//! The meanings of errno follow `drivers/pci/iov.c` (`sriov_numvfs_store`) and `drivers/base/{bus,dd}.c`.

use crate::pause::Backoff;
use crate::{Access, Attribute, Binding, Condition, Deadlines, Error, ErrorKind, Failure, Target, VirtualFunctions};
use pci::{Bdf, VfIndex};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The functions of the machine behind an [`Access`].
#[derive(Debug)]
pub(crate) struct Bus<'a> {
    pub(crate) access: &'a mut dyn Access,
    pub(crate) deadlines: Deadlines,
}

fn function_file(function: Bdf, file: &str) -> PathBuf {
    PathBuf::from(format!("sys/bus/pci/devices/{function}/{file}"))
}

impl Bus<'_> {
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

    /// An attribute's value; an empty `driver_override`, which the kernel prints as `(null)`, is empty.
    pub(crate) fn read(&mut self, function: Bdf, attribute: Attribute) -> Result<String, Error> {
        let path = function_file(function, attribute.file_name());
        match self.access.read(&path, self.deadlines.attribute) {
            Ok(text) => Ok(match text.trim() {
                "(null)" => String::new(),
                text => text.to_owned(),
            }),
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
        if let Err(failure) = self.access.write(&path, value, limit) {
            let kind = match attribute {
                Attribute::NumVfs => self.explain_count(function, value, failure),
                Attribute::DriversAutoprobe | Attribute::DriverOverride if self.is_gone(function) => ErrorKind::Gone,
                Attribute::DriversAutoprobe | Attribute::DriverOverride => failure.into(),
            };
            return Err(Error::new(function, step, kind));
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
            Errno::BUSY => match number(self.access.read(&function_file(function, "sriov_numvfs"), limit)) {
                Some(enabled) if enabled > 0 => ErrorKind::VfsExist { enabled },
                _ => failure.into(),
            },
            Errno::RANGE => {
                let total = number(self.access.read(&function_file(function, "sriov_totalvfs"), limit));
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

    /// Takes the function from its driver, if it has one.
    pub(crate) fn unbind(&mut self, function: Bdf) -> Result<(), Error> {
        let path = function_file(function, "driver/unbind");
        let outcome = self.access.write(&path, &function.to_string(), self.deadlines.driver);
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

    /// Lets the kernel look for a driver, and sees that `wanted` took the function, if one is wanted.
    pub(crate) fn probe(&mut self, function: Bdf, wanted: Option<&str>) -> Result<(), Error> {
        let path = Path::new("sys/bus/pci/drivers_probe");
        let outcome = self.access.write(path, &function.to_string(), self.deadlines.driver);
        let found = self.driver(function)?;
        let kind = match (outcome, wanted) {
            (Ok(()), None) => return Ok(()),
            (Ok(()), Some(wanted)) if found.as_deref() == Some(wanted) => return Ok(()),
            (Ok(()), Some(wanted)) => ErrorKind::NotBound {
                wanted: wanted.to_owned(),
                found,
            },
            (Err(Failure::Errno(_)), _) if self.is_gone(function) => ErrorKind::Gone,
            (Err(failure), _) => failure.into(),
        };
        Err(Error::new(function, "write drivers_probe", kind))
    }

    /// Waits for a condition of a target.
    pub(crate) fn wait(&mut self, target: &Target, condition: &Condition, limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        let mut pause = Backoff::new(Duration::from_micros(200), Duration::from_millis(5));
        let mut seen = 0;
        loop {
            if self.is_met(target, condition, &mut seen)? {
                return Ok(());
            }
            if !pause.wait(until) {
                let kind = ErrorKind::TimedOut {
                    after: limit,
                    holders: Vec::new(),
                };
                let device = self.resolve(target).unwrap_or(target.anchor());
                return Err(Error::new(device, format!("wait for {condition}"), kind));
            }
        }
    }

    /// `seen` remembers how many VFs were there at the last look, so that waiting for many stays linear.
    fn is_met(&mut self, target: &Target, condition: &Condition, seen: &mut u16) -> Result<bool, Error> {
        let device = target.anchor();
        let failed = |f: Failure| Error::new(device, format!("wait for {condition}"), f.into());
        match condition {
            Condition::VirtualFunctions { count } => {
                while *seen < *count {
                    let link = target.directory().join(format!("virtfn{seen}"));
                    if !self.access.exists(&link).map_err(failed)? {
                        return Ok(false);
                    }
                    *seen += 1;
                }
                Ok(true)
            }
            Condition::GroupNode => {
                let link = target.directory().join("iommu_group");
                let Some(group) = self.access.link(&link).map_err(failed)? else {
                    let kind = match self.access.exists(&target.directory()).map_err(failed)? {
                        true => ErrorKind::NoIommu,
                        false => ErrorKind::Gone,
                    };
                    return Err(Error::new(device, format!("wait for {condition}"), kind));
                };
                // Without an IOMMU, and only if that was allowed, vfio makes groups whose nodes say so.
                let nodes = [format!("dev/vfio/{group}"), format!("dev/vfio/noiommu-{group}")];
                for node in nodes {
                    if self.access.exists(Path::new(&node)).map_err(failed)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Condition::DeviceNode => {
                let directory = target.directory().join("vfio-dev");
                let names = self.access.names(&directory).map_err(failed)?;
                let Some(name) = names.iter().find(|name| name.contains("vfio")) else {
                    return Ok(false);
                };
                // Without CONFIG_VFIO_DEVICE_CDEV the class device has no number, and there never is a node.
                if !self.access.exists(&directory.join(name).join("dev")).map_err(failed)? {
                    return Ok(true);
                }
                let node = Path::new("dev/vfio/devices").join(name);
                self.access.exists(&node).map_err(failed)
            }
            Condition::Exists(path) => self.access.exists(path).map_err(failed),
        }
    }

    fn is_gone(&mut self, function: Bdf) -> bool {
        self.access.exists(&function_file(function, "")) == Ok(false)
    }
}
