//! The files of the machine.

use super::{Effect, Machine};
use crate::{Access, Failure, PolicyRoutes};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

impl Access for Machine {
    fn read(&mut self, path: &Path, limit: Duration) -> Result<String, Failure> {
        match self.fault(path, false) {
            Some(Effect::Errno(errno)) => return Err(Failure::Errno(errno)),
            Some(Effect::Hang | Effect::Late) => return Err(Failure::TimedOut(limit)),
            Some(Effect::Instead(value)) => return Ok(value),
            None => {}
        }
        let (function, value) = self.value(path)?;
        if self.stuck.contains(&function) && !super::needs_no_lock(path) {
            return Err(Failure::TimedOut(limit));
        }
        Ok(value)
    }

    fn write(&mut self, path: &Path, value: &str, limit: Duration) -> Result<(), Failure> {
        let effect = self.fault(path, true);
        let returns = match &effect {
            Some(Effect::Errno(errno)) => return Err(Failure::Errno(*errno)),
            Some(Effect::Hang) => false,
            Some(Effect::Late) => {
                self.store(path, value)?;
                false
            }
            Some(Effect::Instead(value)) => self.store(path, value)?,
            None => self.store(path, value)?,
        };
        if returns { Ok(()) } else { Err(Failure::TimedOut(limit)) }
    }

    /// Nobody has a disk but by a fault: EBUSY.
    fn is_claimed(&mut self, path: &Path, limit: Duration) -> Result<bool, Failure> {
        match self.fault(path, false) {
            Some(Effect::Errno(errno)) if errno == Errno::BUSY.raw_os_error() => Ok(true),
            Some(Effect::Errno(errno)) => Err(Failure::Errno(errno)),
            Some(Effect::Hang | Effect::Late) => Err(Failure::TimedOut(limit)),
            Some(Effect::Instead(_)) | None => Ok(false),
        }
    }

    fn policy_routes(&mut self, limit: Duration) -> Result<Vec<PolicyRoutes>, Failure> {
        match self.fault(Path::new("routes"), false) {
            Some(Effect::Errno(errno)) => Err(Failure::Errno(errno)),
            Some(Effect::Hang | Effect::Late) => Err(Failure::TimedOut(limit)),
            Some(Effect::Instead(_)) | None => Ok(self.policy_routes.clone()),
        }
    }

    fn link(&mut self, path: &Path) -> Result<Option<String>, Failure> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Ok(None);
        };
        let Some((bdf, rest)) = self.locate(parent) else {
            return Ok(None);
        };
        let Some(function) = self.functions.get(&bdf).filter(|_| rest.is_empty()) else {
            return Ok(None);
        };
        Ok(match name {
            "driver" => function.driver.clone(),
            "iommu_group" => function.group.map(|group| group.to_string()),
            _ => self
                .locate(path)
                .and_then(|(to, rest)| (to != bdf && rest.is_empty()).then(|| to.to_string())),
        })
    }

    fn names(&mut self, path: &Path) -> Result<Vec<String>, Failure> {
        let Some((bdf, rest)) = self.locate(path) else {
            return Ok(Vec::new());
        };
        let Some(function) = self.functions.get(&bdf) else {
            return Ok(Vec::new());
        };
        Ok(match (rest.as_slice(), function.group) {
            (["vfio-dev"], Some(group)) if function.driver.as_deref() == Some("vfio-pci") => {
                vec![format!("vfio{group}")]
            }
            _ => Vec::new(),
        })
    }

    /// Of the groups only those that somebody has show.
    fn claim(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        let group = path.strip_prefix("dev/vfio").ok().and_then(Path::to_str);
        let group = group.and_then(|number| number.parse().ok());
        let is_open =
            self.functions.values().any(|f| f.group == group) && group.is_some_and(|g| self.open_groups.contains(&g));
        Err(if is_open { Errno::BUSY } else { Errno::NOENT }.into())
    }

    fn exists(&mut self, path: &Path) -> Result<bool, Failure> {
        if self.is_vfio_node(path) {
            let late = self.late_nodes > 0;
            self.late_nodes = self.late_nodes.saturating_sub(1);
            return Ok(!late);
        }
        Ok(match self.locate(path) {
            Some((bdf, rest)) => match rest.as_slice() {
                [] => true,
                ["vfio-dev", _, "dev"] => {
                    !self.lacks_device_nodes
                        && self
                            .functions
                            .get(&bdf)
                            .is_some_and(|f| f.driver.as_deref() == Some("vfio-pci"))
                }
                _ => self.value(path).is_ok(),
            },
            None => false,
        })
    }
}
