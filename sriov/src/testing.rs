//! System trees for tests, in a temporary directory: made by hand, or the picture of a [`fake::Machine`].

use crate::fake::{self, Role};
use crate::{Deadlines, Error, Machine};
use pci::{Bdf, Sysfs};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(crate) fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

/// Cheaper than making it without a look when it is there mostly.
fn make_parent(path: &Path) {
    let parent = path.parent().unwrap();
    if !parent.exists() {
        fs::create_dir_all(parent).unwrap();
    }
}

/// A system tree.
#[derive(Debug)]
pub(crate) struct Tree {
    directory: TempDir,
}

impl Tree {
    /// A machine with an empty PCI bus, one process and nothing mounted.
    pub(crate) fn new() -> Self {
        let tree = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for directory in [
            "sys/bus/pci/devices",
            "sys/bus/pci/drivers",
            "sys/kernel/iommu_groups",
            "dev/vfio",
            "proc/1/fd",
        ] {
            tree.directory(directory);
        }
        tree.file("proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n");
        tree.file("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        tree.file("proc/net/route", "Iface\tDestination\tGateway\n");
        tree
    }

    pub(crate) fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.directory.path())
    }

    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(relative)
    }

    pub(crate) fn directory(&self, path: impl AsRef<Path>) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "a test makes its own tree")]
    pub(crate) fn file(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.path(path);
        make_parent(&path);
        fs::write(path, text).unwrap();
    }

    /// A symbolic link, replacing the one that is there.
    pub(crate) fn link(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) {
        let path = self.path(path);
        make_parent(&path);
        if path.is_symlink() {
            fs::remove_file(&path).unwrap();
        }
        symlink(target, path).unwrap();
    }

    /// A symbolic link to a path from the root, written as sysfs does: relative.
    pub(crate) fn link_to(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) {
        let up = "../".repeat(path.as_ref().components().count() - 1);
        self.link(&path, Path::new(&up).join(target));
    }

    pub(crate) fn remove(&self, path: impl AsRef<Path>) {
        let path = self.path(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else if path.is_symlink() || path.exists() {
            fs::remove_file(path).unwrap();
        }
    }

    /// The directory of a function below the root port `0000:00:01.0`.
    pub(crate) fn function_path(function: Bdf) -> PathBuf {
        let port = Path::new("sys/devices/pci0000:00/0000:00:01.0");
        if function == bdf("00:01.0") {
            port.to_path_buf()
        } else {
            port.join(function.to_string())
        }
    }

    /// A function, in the IOMMU group of that number.
    pub(crate) fn function(&self, function: Bdf, class: &str, group: Option<u32>) {
        let path = Self::function_path(function);
        self.file(path.join("class"), class);
        self.link_to(Path::new("sys/bus/pci/devices").join(function.to_string()), &path);
        if let Some(group) = group {
            let group = PathBuf::from(format!("sys/kernel/iommu_groups/{group}"));
            self.link_to(path.join("iommu_group"), &group);
            self.link_to(group.join("devices").join(function.to_string()), &path);
        }
    }

    pub(crate) fn driver(&self, name: &str) {
        self.directory(Path::new("sys/bus/pci/drivers").join(name));
    }

    pub(crate) fn bind(&self, function: Bdf, driver: &str) {
        self.driver(driver);
        self.link_to(
            Self::function_path(function).join("driver"),
            format!("sys/bus/pci/drivers/{driver}"),
        );
    }

    /// A device of a class below a function: `net/eth0`.
    pub(crate) fn class_device(&self, function: Bdf, class: &str, name: &str) -> PathBuf {
        let path = Self::function_path(function).join(class).join(name);
        self.directory(&path);
        self.link_to(Path::new("sys/class").join(class).join(name), &path);
        path
    }

    /// A process with open files.
    pub(crate) fn process(&self, pid: u32, command: &str, files: &[(u32, &str)]) {
        self.file(format!("proc/{pid}/comm"), &format!("{command}\n"));
        self.file(format!("proc/{pid}/cmdline"), &format!("/usr/bin/{command}\0-m\01G\0"));
        self.directory(format!("proc/{pid}/fd"));
        for (fd, path) in files {
            self.link(format!("proc/{pid}/fd/{fd}"), path);
        }
    }

    /// The picture of a machine behind the root port `0000:00:01.0`: all that plans look at, but for overrides, which are read
    /// through its [`Access`](crate::Access). Functions on drivers of the host have network interfaces that are up.
    pub(crate) fn of(machine: &fake::Machine) -> Self {
        let tree = Self::new();
        tree.function(bdf("00:01.0"), "0x060400\n", None);
        tree.bind(bdf("00:01.0"), "pcieport");
        for driver in ["igb", "igbvf", "vfio-pci"] {
            tree.driver(driver);
        }
        tree.directory("sys/class/vfio");
        for (&bdf, function) in &machine.functions {
            let path = Self::function_path(bdf);
            tree.function(bdf, "0x020000\n", function.group);
            tree.file(path.join("reset_method"), "flr\n");
            match function.driver.as_deref() {
                Some("vfio-pci") => {
                    tree.bind(bdf, "vfio-pci");
                    let name = format!("vfio{}", function.group.unwrap_or_default());
                    tree.class_device(bdf, "vfio-dev", &name);
                }
                Some(driver) => {
                    tree.bind(bdf, driver);
                    let interface = tree.class_device(bdf, "net", &format!("net{}", bdf.routing_id.devfn()));
                    tree.file(interface.join("flags"), "0x1003\n");
                }
                None => {}
            }
            match &function.role {
                Role::Plain => {}
                Role::Virtual { pf, index } => {
                    tree.link_to(path.join("physfn"), Self::function_path(*pf));
                    tree.link_to(Self::function_path(*pf).join(format!("virtfn{index}")), &path);
                }
                Role::Physical(sriov) => {
                    for (name, text) in [
                        ("sriov_totalvfs", sriov.total.to_string()),
                        ("sriov_numvfs", sriov.enabled.to_string()),
                        ("sriov_offset", sriov.offset.to_string()),
                        ("sriov_stride", sriov.stride.to_string()),
                        ("sriov_vf_device", "10ca".to_owned()),
                        ("sriov_drivers_autoprobe", u8::from(sriov.autoprobe).to_string()),
                    ] {
                        tree.file(path.join(name), &text);
                    }
                }
            }
        }
        tree
    }

    /// What plans for all functions of `machine` look at, with the tree as its picture.
    pub(crate) fn machine(&self, machine: &mut fake::Machine) -> Result<Machine, Error> {
        let functions: Vec<Bdf> = machine.functions.keys().copied().collect();
        Machine::read(&self.sysfs(), machine, &Deadlines::default(), &functions)
    }
}
