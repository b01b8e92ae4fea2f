//! Prints what this crate reads of this machine: `cargo run -p pci --example capture > machine.sysfs`.
//!
//! A link is a line `PATH -> TARGET`; a file is a line `PATH` and its lines behind a tab; configuration space is a line
//! `PATH hex` and its bytes. Only files that are known to be harmless are read: among the others there are some that reset a
//! device, and some whose reading reaches into it.

use pci::{Sysfs, Topology};
use std::io::{Error, Result, StdoutLock, Write, stdout};
use std::path::Path;

const FUNCTION: &[&str] = &[
    "ari_enabled",
    "class",
    "current_link_speed",
    "current_link_width",
    "device",
    "enable",
    "irq",
    "max_link_speed",
    "max_link_width",
    "modalias",
    "numa_node",
    "power_state",
    "reset_method",
    "resource",
    "revision",
    "secondary_bus_number",
    "sriov_drivers_autoprobe",
    "sriov_offset",
    "sriov_stride",
    "sriov_totalvfs",
    "sriov_vf_device",
    "subordinate_bus_number",
    "subsystem_device",
    "subsystem_vendor",
    "uevent",
    "vendor",
];

const IOMMU: &[&str] = &[
    "amd-iommu/cap",
    "amd-iommu/features",
    "intel-iommu/address",
    "intel-iommu/cap",
    "intel-iommu/ecap",
    "intel-iommu/version",
];

fn main() -> Result<()> {
    let sysfs = Sysfs::host();
    let topology = Topology::read(&sysfs).map_err(Error::other)?;
    let out = stdout().lock();
    let mut capture = Capture { sysfs, out };

    capture.links("sys/bus/pci/devices")?;
    for function in topology.functions() {
        for name in FUNCTION {
            capture.file(&function.path.join(name))?;
        }
        capture.config(&function.path.join("config"))?;
        capture.links(&function.path)?;
        for device in function.class_devices.iter().flatten() {
            capture.link(&Path::new("sys/class").join(&device.class).join(&device.name))?;
        }
    }
    for driver in capture.names("sys/bus/pci/drivers") {
        capture.links(Path::new("sys/bus/pci/drivers").join(driver))?;
    }
    for group in capture.names("sys/kernel/iommu_groups") {
        let group = Path::new("sys/kernel/iommu_groups").join(group);
        capture.file(&group.join("type"))?;
        capture.file(&group.join("reserved_regions"))?;
        capture.links(group.join("devices"))?;
    }
    capture.links("sys/class/iommu")?;
    for unit in capture.names("sys/class/iommu") {
        for register in IOMMU {
            capture.file(&Path::new("sys/devices/virtual/iommu").join(&unit).join(register))?;
        }
    }
    Ok(())
}

struct Capture {
    sysfs: Sysfs,
    out: StdoutLock<'static>,
}

/// What is not there or cannot be read is left out.
impl Capture {
    fn names(&self, directory: impl AsRef<Path>) -> Vec<String> {
        self.sysfs.names(directory).unwrap_or_default()
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let Ok(text) = self.sysfs.read(path) else {
            return Ok(());
        };
        writeln!(self.out, "{}", path.display())?;
        text.lines().try_for_each(|line| writeln!(self.out, "\t{line}"))
    }

    fn config(&mut self, path: &Path) -> Result<()> {
        let Ok(bytes) = self.sysfs.read_bytes(path, 4096) else {
            return Ok(());
        };
        writeln!(self.out, "{} hex", path.display())?;
        for line in bytes.chunks(32) {
            let digits: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(self.out, "\t{digits}")?;
        }
        Ok(())
    }

    fn link(&mut self, path: &Path) -> Result<()> {
        match self.sysfs.read_link(path) {
            Ok(target) => writeln!(self.out, "{} -> {}", path.display(), target.display()),
            Err(_) => Ok(()),
        }
    }

    fn links(&mut self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        let names = self.names(directory);
        names.iter().try_for_each(|name| self.link(&directory.join(name)))
    }
}
