//! Waiting for what comes by itself after a change: links of VFs, nodes in `/dev`.

use super::{Bus, group_nodes};
use crate::pause::Backoff;
use crate::{Condition, Error, ErrorKind, Failure, Target};
use std::path::Path;
use std::time::{Duration, Instant};

impl Bus<'_> {
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
                for node in group_nodes(&group) {
                    if self.access.exists(&node).map_err(failed)? {
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
        }
    }
}
