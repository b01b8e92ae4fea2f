//! The machine as files under `/sys` and `/dev`, for code that looks there before it opens anything.

use super::files::FakeFiles;
use super::machine::Machine;
use super::state::{Shared, Slot};
use crate::System;
use pci::{Bdf, Sysfs};
use std::fs::{File, create_dir_all};
use std::io::{Result, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Machine {
    /// Writes the machine below `root`, an empty directory: devices with their ids, drivers and groups, and files in `dev` whose names lead to
    /// this machine. The system that is returned explains its refusals with what is there, which the one of [`system`](Self::system) cannot.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn write_tree(&self, root: &Path) -> Result<(System, Sysfs)> {
        let tree = Tree(root);
        let shared: &Shared = &self.shared;
        create_dir_all(root.join("sys/bus/pci/devices"))?;
        for (at, slot) in shared.slots.iter().enumerate() {
            tree.device(shared, at, slot)?;
        }
        for (bdf, group) in &shared.bystanders {
            tree.function(*bdf, *group, [0x1af4, 0x10ff], 0xff_0000, "host")?;
        }
        if shared.iommufd {
            tree.file("dev/iommu", "")?;
        }
        if shared.type1 {
            tree.file("dev/vfio/vfio", "")?;
        }
        let sysfs = Sysfs::at(root);
        let files = Arc::new(FakeFiles(Arc::clone(&self.shared)));
        Ok((System::from_files(files, Some(sysfs.clone())), sysfs))
    }
}

/// The directory that stands for `/`.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    fn device(&self, shared: &Shared, at: usize, slot: &Slot) -> Result<()> {
        let description = &slot.description;
        let ids = [description.vendor, description.device];
        self.function(slot.bdf, slot.group, ids, description.class, "vfio-pci")?;
        let directory = directory(slot.bdf);
        let prefix = if slot.noiommu { "noiommu-" } else { "" };
        if shared.iommufd {
            let name = format!("{prefix}vfio{at}");
            let own = directory.join("vfio-dev").join(&name);
            self.link(format!("../../../{}", slot.bdf), own.join("device"))?;
            let class = Path::new("sys/class/vfio-dev").join(&name);
            self.link(format!("../../devices/pci/{}/vfio-dev/{name}", slot.bdf), class)?;
            self.file(format!("dev/vfio/devices/{name}"), "")?;
        }
        self.file(format!("dev/vfio/{prefix}{}", slot.group), "")?;
        if let Some(physical) = slot.physical.and_then(|physical| shared.slot(physical)) {
            let links = shared.slots.iter().filter(|other| other.physical == slot.physical);
            let nth = links.take_while(|other| other.bdf != slot.bdf).count();
            self.link(format!("../{}", name(physical.bdf)), directory.join("physfn"))?;
            let virtual_function = format!("virtfn{nth}");
            self.link(
                format!("../{}", name(slot.bdf)),
                self::directory(physical.bdf).join(virtual_function),
            )?;
        }
        Ok(())
    }

    fn function(&self, bdf: Bdf, group: u32, [vendor, device]: [u16; 2], class: u32, driver: &str) -> Result<()> {
        let directory = directory(bdf);
        let attributes = [
            ("vendor", format!("{vendor:#06x}")),
            ("device", format!("{device:#06x}")),
            ("class", format!("{class:#08x}")),
            ("revision", "0x00".to_owned()),
            ("subsystem_vendor", "0x0000".to_owned()),
            ("subsystem_device", "0x0000".to_owned()),
            ("numa_node", "-1".to_owned()),
            ("power_state", "D0".to_owned()),
        ];
        for (attribute, value) in attributes {
            self.file(directory.join(attribute), &value)?;
        }
        self.link(
            format!("../../../devices/pci/{bdf}"),
            Path::new("sys/bus/pci/devices").join(name(bdf)),
        )?;
        create_dir_all(self.0.join("sys/bus/pci/drivers").join(driver))?;
        self.link(format!("../../../bus/pci/drivers/{driver}"), directory.join("driver"))?;
        self.link(
            format!("../../../kernel/iommu_groups/{group}"),
            directory.join("iommu_group"),
        )?;
        let members = format!("sys/kernel/iommu_groups/{group}/devices");
        self.link(
            format!("../../../../devices/pci/{bdf}"),
            Path::new(&members).join(name(bdf)),
        )
    }

    fn file(&self, path: impl AsRef<Path>, text: &str) -> Result<()> {
        let path = self.within(path.as_ref())?;
        File::create(path)?.write_all(text.as_bytes())
    }

    fn link(&self, target: String, path: impl AsRef<Path>) -> Result<()> {
        symlink(target, self.within(path.as_ref())?)
    }

    /// A path below the root, whose directory exists now.
    fn within(&self, path: &Path) -> Result<PathBuf> {
        let path = self.0.join(path);
        if let Some(parent) = path.parent() {
            create_dir_all(parent)?;
        }
        Ok(path)
    }
}

fn name(bdf: Bdf) -> String {
    bdf.to_string()
}

fn directory(bdf: Bdf) -> PathBuf {
    Path::new("sys/devices/pci").join(name(bdf))
}
