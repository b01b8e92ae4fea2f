//! A machine for tests: a system tree in a temporary directory, and a kernel that does to it what plans ask for.
//!
//! Key types: [`Tree`] makes functions, processes and classes; [`Kernel`] runs the steps of a plan as the real one would, refuses
//! what it would refuse, and undoes them.

mod kernel;

pub(crate) use kernel::{Kernel, State};

use crate::{Access, Deadlines, Error, Failure, Machine};
use pci::{Bdf, Sysfs};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
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
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "a test makes its own tree")]
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// A symbolic link, replacing the one that is there.
    pub(crate) fn link(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
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
        for (name, text) in [
            ("vendor", "0x8086\n"),
            ("device", "0x10c9\n"),
            ("subsystem_vendor", "0x1af4\n"),
            ("subsystem_device", "0x1100\n"),
            ("revision", "0x01\n"),
            ("class", class),
            ("driver_override", "(null)\n"),
        ] {
            self.file(path.join(name), text);
        }
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

    /// What plans for `functions` look at.
    pub(crate) fn machine(&self, functions: &[Bdf]) -> Result<Machine, Error> {
        Machine::read(&self.sysfs(), &mut Files(self), &Deadlines::default(), functions)
    }
}

/// Direct access to the files of a tree.
#[derive(Debug)]
struct Files<'a>(&'a Tree);

impl Access for Files<'_> {
    fn read(&mut self, path: &Path, _: Duration) -> Result<String, Failure> {
        self.0.text(path).ok_or(Failure::Errno(2))
    }

    fn write(&mut self, path: &Path, value: &str, _: Duration) -> Result<(), Failure> {
        self.0.file(path, value);
        Ok(())
    }

    fn link(&mut self, path: &Path) -> Result<Option<String>, Failure> {
        Ok(self.0.sysfs().link_name(path).ok())
    }

    fn names(&mut self, path: &Path) -> Result<Vec<String>, Failure> {
        Ok(self.0.sysfs().names(path).unwrap_or_default())
    }

    fn exists(&mut self, path: &Path) -> Result<bool, Failure> {
        Ok(self.0.path(path).exists())
    }
}
