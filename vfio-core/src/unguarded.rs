//! Devices that no IOMMU guards: no safe call may reach one.
//!
//! What the kernel calls such a device and such a group begins with `noiommu-`; nothing else tells it of a file that was handed in.

use crate::{ErrorKind, System};
use pci::{Bdf, GroupId, Sysfs};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// What the kernel's names begin with.
pub(crate) const PREFIX: &str = "noiommu-";

pub(crate) const UNGUARDED: ErrorKind = ErrorKind::Invalid("no IOMMU guards the device: it would reach all memory");

const UNKNOWN: ErrorKind = ErrorKind::Invalid("/sys does not tell whether an IOMMU guards the device");

/// Refuses a file whose name says that no IOMMU guards the device, whatever path it was opened by, or whose name is not to be found. A
/// machine in memory has no such file, and opens by name only.
pub(crate) fn refuse(system: &System, file: Result<Option<OwnedFd>, Errno>) -> Result<(), ErrorKind> {
    match file.map_err(ErrorKind::from_errno)? {
        Some(file) => system.sysfs().map_or(Err(UNKNOWN), |sysfs| refuse_named(sysfs, &file)),
        None => Ok(()),
    }
}

fn refuse_named(sysfs: &Sysfs, file: impl AsFd) -> Result<(), ErrorKind> {
    match name_of(sysfs, file)? {
        Some(name) if name.starts_with(PREFIX) => Err(UNGUARDED),
        Some(_) => Ok(()),
        None => Err(UNKNOWN),
    }
}

/// The kernel's name of the file of a group or device.
fn name_of(sysfs: &Sysfs, file: impl AsFd) -> Result<Option<String>, ErrorKind> {
    let number = rustix::fs::fstat(file).map_err(ErrorKind::from_errno)?.st_rdev;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    Ok(sysfs.link_name(format!("sys/dev/char/{major}:{minor}")).ok())
}

/// The number of the group whose file it is, by the kernel's name of it: what a caller says of the file proves nothing.
pub(crate) fn number_of_group(system: &System, file: impl AsFd) -> Option<GroupId> {
    number_in(&name_of(system.sysfs()?, file).ok()??)
}

fn number_in(name: &str) -> Option<GroupId> {
    name.strip_prefix(PREFIX).unwrap_or(name).parse().ok().map(GroupId)
}

/// Refuses a device file that is not known to be of a function of this group, and returns the kernel's name of the device. Who is in the group has
/// its IOMMU, or none like it.
pub(crate) fn refuse_stranger(system: &System, file: impl AsFd, group: Option<GroupId>) -> Result<String, ErrorKind> {
    let device = system.sysfs().and_then(|sysfs| device_of(sysfs, file));
    let member = device.filter(|(_, of)| Some(*of) == group).map(|(name, _)| name);
    member.ok_or(ErrorKind::Invalid(
        "the kernel does not say that the device is of this group",
    ))
}

/// The function whose character device it is, by what the kernel says of the file; in a machine in memory by its path, which is true there.
/// `None` also of a device that is no PCI function.
pub(crate) fn function_of(system: &System, file: Result<Option<OwnedFd>, Errno>, path: &Path) -> Option<Bdf> {
    let sysfs = system.sysfs()?;
    let name = match file.ok()? {
        Some(file) => name_of(sysfs, file).ok()??,
        None => path.file_name()?.to_str()?.to_owned(),
    };
    let device = sysfs.link_name(format!("sys/class/vfio-dev/{name}/device"));
    device.ok()?.parse().ok()
}

/// Name and group of the device whose file it is, by what the kernel says of the file.
fn device_of(sysfs: &Sysfs, file: impl AsFd) -> Option<(String, GroupId)> {
    let number = file.as_fd().as_raw_fd();
    let facts = sysfs.read(format!("proc/self/fdinfo/{number}")).ok()?;
    let path = facts
        .lines()
        .find_map(|line| line.strip_prefix("vfio-device-syspath:"))?;
    let path = path.trim().strip_prefix('/')?;
    let group = sysfs.link_name(format!("{path}/iommu_group")).ok()?.parse().ok()?;
    let (_, name) = path.rsplit_once('/')?;
    Some((name.to_owned(), GroupId(group)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_goes_by_the_name_that_the_kernel_gave_its_number() {
        let root = tempfile::tempdir().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let sysfs = Sysfs::at(root.path());
        let names = root.path().join("sys/dev/char");
        std::fs::create_dir_all(&names).unwrap();
        assert_eq!(refuse_named(&sysfs, &null), Err(UNKNOWN), "no name is no permission");
        symlink("../../devices/pci0000:00/vfio-dev/vfio0", names.join("1:3")).unwrap();
        assert_eq!(refuse_named(&sysfs, &null), Ok(()));
        std::fs::remove_file(names.join("1:3")).unwrap();
        symlink("../../devices/virtual/vfio/noiommu-0", names.join("1:3")).unwrap();
        assert_eq!(refuse_named(&sysfs, &null), Err(UNGUARDED));
    }

    #[test]
    fn the_number_of_a_group_is_the_kernels_and_not_the_callers() {
        let root = tempfile::tempdir().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let names = root.path().join("sys/dev/char");
        std::fs::create_dir_all(&names).unwrap();
        let number = || {
            let name = name_of(&Sysfs::at(root.path()), &null).unwrap();
            name.and_then(|name| number_in(&name))
        };
        assert_eq!(number(), None);
        for (target, wanted) in [("7", Some(7)), ("noiommu-3", Some(3)), ("vfio0", None)] {
            symlink(format!("../../devices/virtual/vfio/{target}"), names.join("1:3")).unwrap();
            assert_eq!(number(), wanted.map(GroupId), "{target}");
            std::fs::remove_file(names.join("1:3")).unwrap();
        }
    }

    #[test]
    fn a_device_file_says_whose_it_is() {
        let root = tempfile::tempdir().unwrap();
        let (sysfs, file) = (Sysfs::at(root.path()), tempfile::tempfile().unwrap());
        let function = root.path().join("sys/devices/pci0000:00/0000:00:01.0");
        let facts = root.path().join("proc/self/fdinfo");
        std::fs::create_dir_all(&function).unwrap();
        std::fs::create_dir_all(&facts).unwrap();
        assert_eq!(device_of(&sysfs, &file), None);
        symlink("../../../kernel/iommu_groups/7", function.join("iommu_group")).unwrap();
        let mut written = std::fs::File::create(facts.join(file.as_raw_fd().to_string())).unwrap();
        let text = "pos:\t0\nvfio-device-syspath: /sys/devices/pci0000:00/0000:00:01.0\n";
        std::io::Write::write_all(&mut written, text.as_bytes()).unwrap();
        let name = "0000:00:01.0".to_owned();
        assert_eq!(device_of(&sysfs, &file), Some((name, GroupId(7))));
    }
}
