//! Copies what this crate reads of a machine into a directory, for `Sysfs::at`: `cargo run -p pci --example capture -- DIR`.
//!
//! Only files that are known to be harmless are read: among the others there are some that reset a device, and some whose
//! reading reaches into it.

use pci::{Reading, Sysfs, Topology};
use std::env::args_os;
use std::fs::create_dir_all;
use std::io::{Error, Result};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const FUNCTION: &[&str] = &[
    "ari_enabled",
    "class",
    "config",
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

fn main() -> Result<()> {
    let to = args_os().nth(1).map(PathBuf::from);
    let to = to.ok_or_else(|| Error::other("which directory?"))?;
    let from = Sysfs::host();
    let topology = Topology::read(&from).map_err(Error::other)?;
    let copy = Copy { from, to };

    copy.links("sys/bus/pci/devices")?;
    for function in topology.functions() {
        for name in FUNCTION {
            copy.file(&function.path.join(name))?;
        }
        copy.links(&function.path)?;
        for device in function.class_devices.iter().flatten() {
            copy.link(&Path::new("sys/class").join(&device.class).join(&device.name))?;
        }
    }
    for driver in copy.names("sys/bus/pci/drivers") {
        copy.links(Path::new("sys/bus/pci/drivers").join(driver))?;
    }
    for group in copy.names("sys/kernel/iommu_groups") {
        let group = Path::new("sys/kernel/iommu_groups").join(group);
        copy.file(&group.join("type"))?;
        copy.file(&group.join("reserved_regions"))?;
        copy.links(group.join("devices"))?;
    }
    copy.links("sys/class/iommu")?;
    for unit in copy.names("sys/class/iommu") {
        for register in [
            "amd-iommu/cap",
            "amd-iommu/features",
            "intel-iommu/address",
            "intel-iommu/cap",
            "intel-iommu/ecap",
            "intel-iommu/version",
        ] {
            let unit = Path::new("sys/devices/virtual/iommu").join(&unit);
            copy.file(&unit.join(register))?;
        }
    }
    Ok(())
}

struct Copy {
    from: Sysfs,
    to: PathBuf,
}

impl Copy {
    fn names(&self, directory: &str) -> Vec<String> {
        self.from.names(directory).unwrap_or_default()
    }

    /// A file as far as it can be read.
    fn file(&self, path: &Path) -> Result<()> {
        let bytes: Reading<Vec<u8>> = self.from.read_bytes(path, 64 << 10);
        match bytes {
            #[expect(clippy::disallowed_methods, reason = "what is written is the copy")]
            Ok(bytes) => std::fs::write(self.place(path)?, bytes),
            Err(_) => Ok(()),
        }
    }

    /// The links in a directory.
    fn links(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        for name in self.from.names(directory).unwrap_or_default() {
            self.link(&directory.join(name))?;
        }
        Ok(())
    }

    fn link(&self, path: &Path) -> Result<()> {
        match self.from.read_link(path) {
            Ok(target) => symlink(target, self.place(path)?),
            Err(_) => Ok(()),
        }
    }

    fn place(&self, path: &Path) -> Result<PathBuf> {
        let place = self.to.join(path);
        place.parent().map_or(Ok(()), create_dir_all)?;
        Ok(place)
    }
}
