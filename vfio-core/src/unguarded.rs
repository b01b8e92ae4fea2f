//! Devices that no IOMMU guards: no safe call may reach one.
//!
//! What the kernel calls such a device and such a group begins with `noiommu-`; nothing else tells it of a file that was handed in.

use crate::{ErrorKind, System};
use pci::Sysfs;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

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
    let number = rustix::fs::fstat(file).map_err(ErrorKind::from_errno)?.st_rdev;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    match sysfs.link_name(format!("sys/dev/char/{major}:{minor}")) {
        Ok(name) if name.starts_with(PREFIX) => Err(UNGUARDED),
        Ok(_) => Ok(()),
        Err(_) => Err(UNKNOWN),
    }
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
}
