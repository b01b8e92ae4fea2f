//! Drivers of the PCI bus: `/sys/bus/pci/drivers`.

use crate::sysfs::{Buffer, Dir};
use crate::{Reading, Reason, Sysfs};
use std::path::Path;

/// A driver registered with the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Its name (`vfio-pci`).
    pub name: String,
    /// The module it came from; `None` when built in.
    pub module: Option<String>,
}

/// Where the drivers are.
const DRIVERS: &str = "sys/bus/pci/drivers";

impl Driver {
    /// The driver of that name; `None` when none is registered (its module is not loaded).
    ///
    /// # Errors
    /// Why it is not known.
    pub fn read(sysfs: &Sysfs, name: &str) -> Reading<Option<Self>> {
        let at = |reason: Reason| reason.at(sysfs.path(Path::new(DRIVERS).join(name)));
        if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
            return Ok(None);
        }
        match Dir::open(sysfs, DRIVERS).and_then(|drivers| drivers.subdir(name)) {
            Ok(dir) => Ok(Some(Self {
                name: name.to_owned(),
                module: module(&dir).map_err(at)?,
            })),
            Err(Reason::Missing) => Ok(None),
            Err(reason) => Err(at(reason)),
        }
    }

    /// All drivers in order of name.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn read_all(sysfs: &Sysfs) -> Reading<Vec<Self>> {
        let names = sysfs.names(DRIVERS)?;
        // A driver may go away between the two readings; it is then no driver.
        let drivers = names.iter().map(|name| Self::read(sysfs, name));
        drivers.filter_map(Result::transpose).collect()
    }
}

fn module(driver: &Dir<'_>) -> Result<Option<String>, Reason> {
    match driver.link_name("module", &mut Buffer::new()) {
        Ok(name) => Ok(Some(name.to_owned())),
        Err(Reason::Missing) => Ok(None),
        Err(reason) => Err(reason),
    }
}

/// Whether a driver hands its devices to user space through VFIO, by its name: `vfio-pci`, a variant driver (which the
/// kernel names `mlx5_vfio_pci`, `hisi-acc-vfio-pci` and so on), or `pci-stub`, which VFIO tolerates in a group.
pub(crate) fn is_vfio(name: &str) -> bool {
    name.ends_with("vfio-pci") || name.ends_with("vfio_pci") || name == "pci-stub"
}
