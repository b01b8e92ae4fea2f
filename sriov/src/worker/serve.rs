//! What the child process of a [`WorkerAccess`](crate::WorkerAccess) does: it serves attributes of the PCI bus, and asks for
//! disks and routes.

use super::{HEADER, Kind, REPLY_MAX};
use crate::pause::timespec;
use crate::usage::policy;
use pci::Sysfs;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// How often a path is looked up anew because something was renamed meanwhile.
const TRIES: usize = 32;

/// Serves the requests of a [`WorkerAccess`](crate::WorkerAccess) for the same root until end of file: the whole work of the child process. Files other
/// than the attributes that plans use, and block devices to ask for, are refused with EPERM.
///
/// # Errors
/// Requests that do not follow the protocol, and replies that cannot be delivered.
pub fn serve_accesses(sysfs: &Sysfs, mut requests: impl Read + AsFd, mut replies: impl Write) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER];
        match requests.read_exact(&mut header) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
        let [kind, p0, p1, v0, v1] = header;
        let mut path = vec![0; u16::from_le_bytes([p0, p1]).into()];
        let mut value = vec![0; u16::from_le_bytes([v0, v1]).into()];
        requests.read_exact(&mut path)?;
        requests.read_exact(&mut value)?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(path));
        let outcome = match kind {
            k if k == Kind::Read as u8 => read_file(sysfs, &path),
            // Whoever asked may be dead, and its successor may have begun to undo: then nothing should be changed any more. A death
            // between this look and the write is not seen, and the change is made. Once the write is in the kernel it has the device's
            // lock or waits for it, as do the reads with which undoing begins.
            k if [Kind::Write, Kind::Replace].map(|kind| kind as u8).contains(&k) && hung_up(&requests)? => {
                return Ok(());
            }
            k if k == Kind::Write as u8 => write_file(sysfs, &path, &value).map(|()| Vec::new()),
            k if k == Kind::Replace as u8 => {
                write_file(sysfs, &path, &value).map(|()| read_file(sysfs, &path).unwrap_or_default())
            }
            k if k == Kind::Exclusive as u8 => open_disk(sysfs, &path).map(|()| Vec::new()),
            k if k == Kind::Routes as u8 => routes(),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let (errno, text) = match outcome {
            Ok(text) => (0, text),
            Err(e) => (e.raw_os_error().unwrap_or(Errno::IO.raw_os_error()), Vec::new()),
        };
        let len = u32::try_from(text.len()).map_err(io::Error::other)?;
        replies.write_all(&[&errno.to_le_bytes(), &len.to_le_bytes(), text.as_slice()].concat())?;
        replies.flush()?;
    }
}

fn hung_up(requests: &impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(requests, PollFlags::empty())];
    poll(&mut fds, Some(&timespec(Duration::ZERO)))?;
    let [fd] = fds;
    Ok(fd.revents().contains(PollFlags::HUP))
}

/// Whether a path from the root is one of the attributes that can block, or that tell why a write to one was refused.
fn is_served(path: &Path) -> bool {
    const ATTRIBUTES: [&str; 8] = [
        "bind",
        "control",
        "driver_override",
        "drivers_probe",
        "sriov_drivers_autoprobe",
        "sriov_numvfs",
        "sriov_totalvfs",
        "unbind",
    ];
    let Ok(path) = path.strip_prefix("sys/bus/pci") else {
        return false;
    };
    path.components()
        .all(|component| matches!(component, Component::Normal(_)))
        && path
            .file_name()
            .is_some_and(|name| ATTRIBUTES.iter().any(|a| name == *a))
}

/// Whether a path from the root is the node of a device.
fn is_node(path: &Path) -> bool {
    let mut components = path.components().skip(1);
    path.starts_with("dev")
        && matches!(
            (components.next(), components.next()),
            (Some(Component::Normal(_)), None)
        )
}

/// Opens what `is_served` or `is_node` said yes to.
fn open(sysfs: &Sysfs, path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC;
    if sysfs.is_host() {
        return Ok(openat(CWD, sysfs.path(path), flags, Mode::empty())?.into());
    }
    // Anybody may have made the tree, with links to anywhere.
    let root = openat(CWD, sysfs.root(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    for _ in 0..TRIES {
        match openat2(&root, path, flags, Mode::empty(), ResolveFlags::BENEATH) {
            // Something, somewhere, was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return Ok(opened?.into()),
        }
    }
    Err(Errno::AGAIN.into())
}

fn read_file(sysfs: &Sysfs, path: &Path) -> io::Result<Vec<u8>> {
    check(is_served(path))?;
    let mut text = Vec::new();
    open(sysfs, path, OFlags::RDONLY | OFlags::NOCTTY)?
        .take(REPLY_MAX.into())
        .read_to_end(&mut text)?;
    let end = text.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
    text.truncate(end);
    Ok(text)
}

fn write_file(sysfs: &Sysfs, path: &Path, value: &[u8]) -> io::Result<()> {
    check(is_served(path))?;
    let value = if value.is_empty() { b"\n" } else { value };
    let written = open(sysfs, path, OFlags::WRONLY | OFlags::NOCTTY)?.write(value)?;
    if written == value.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

fn routes() -> io::Result<Vec<u8>> {
    let text = policy::to_text(&policy::dump()?);
    if u32::try_from(text.len()).is_ok_and(|len| len <= REPLY_MAX) {
        Ok(text.into())
    } else {
        Err(Errno::MSGSIZE.into())
    }
}

/// For anything but a block device, opening can have effects: a watchdog begins to run.
fn open_disk(sysfs: &Sysfs, path: &Path) -> io::Result<()> {
    check(is_node(path))?;
    let node = rustix::fs::fstat(open(sysfs, path, OFlags::PATH)?)?;
    if FileType::from_raw_mode(node.st_mode) != FileType::BlockDevice {
        return Err(Errno::NOTBLK.into());
    }
    open(sysfs, path, OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK).map(drop)
}

fn check(is_allowed: bool) -> io::Result<()> {
    if is_allowed { Ok(()) } else { Err(Errno::PERM.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_directly_below_dev_are_asked_for() {
        for path in ["dev/sda", "dev/nvme0n1p2", "dev/cciss!c0d0"] {
            assert!(is_node(Path::new(path)), "{path}");
        }
        for path in [
            "",
            "dev",
            "/dev/sda",
            "dev/..",
            "dev/mapper/x",
            "dev/../etc",
            "device/sda",
            "sda",
            "sys/sda",
        ] {
            assert!(!is_node(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn only_attributes_of_the_pci_bus_are_served() {
        for path in [
            "sys/bus/pci/drivers_probe",
            "sys/bus/pci/drivers/vfio-pci/bind",
            "sys/bus/pci/devices/0000:01:00.0/driver/unbind",
            "sys/bus/pci/devices/0000:01:00.0/virtfn0/driver_override",
        ] {
            assert!(is_served(Path::new(path)), "{path}");
        }
        for path in [
            "",
            "/sys/bus/pci/drivers_probe",
            "etc/shadow",
            "bind",
            "sys/bus/pci",
            "sys/bus/pci/devices/0000:01:00.0/remove",
            "sys/bus/pci/drivers_probe/..",
            "sys/bus/pci/../usb/drivers_probe",
            "sys/bus/pci/devices/../../../../tmp/bind",
            "../sys/bus/pci/drivers_probe",
            "sys/bus/pci-epf/drivers/x/bind",
        ] {
            assert!(!is_served(Path::new(path)), "{path}");
        }
    }
}
