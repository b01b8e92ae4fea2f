//! File systems and modules: from an initramfs to the host's root with a scratch layer on top.

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, mount, mount_bind_recursive, mount_move};
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

const NO_DATA: Option<&std::ffi::CStr> = None;

/// `/proc`, `/sys`, `/dev` and their children.
pub(crate) fn kernel_filesystems() -> Result<()> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(at)?;
        // The kernel may have mounted devtmpfs already.
        if !is_mounted(at) {
            mount(kind, at, kind, MountFlags::empty(), NO_DATA).with_context(|| format!("mount {at}"))?;
        }
    }
    fs::create_dir_all("/dev/pts")?;
    fs::create_dir_all("/dev/shm")?;
    mount("devpts", "/dev/pts", "devpts", MountFlags::empty(), NO_DATA).context("mount /dev/pts")?;
    mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), NO_DATA).context("mount /dev/shm")?;
    // There only when the kernel was built with it.
    if Path::new("/sys/kernel/debug").exists() {
        mount("debugfs", "/sys/kernel/debug", "debugfs", MountFlags::empty(), NO_DATA).context("mount debugfs")?;
    }
    Ok(())
}

fn is_mounted(at: &str) -> bool {
    let mounts = read("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(at))
}

/// The kernel's command line.
pub(crate) fn command_line() -> Result<String> {
    read("/proc/cmdline").context("read /proc/cmdline")
}

/// Reads a whole file of the kernel.
#[expect(
    clippy::disallowed_methods,
    reason = "the first process reads its own machine, before there is any root to choose"
)]
pub(crate) fn read(path: impl AsRef<Path>) -> std::io::Result<String> {
    fs::read_to_string(path)
}

/// Loads `/modules/*.ko` in order of their names; returns what failed. A kernel without modules has no such directory.
pub(crate) fn load_modules() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/modules") else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| load(path).err())
        .map(|error| format!("{error:#}"))
        .collect()
}

fn load(path: &Path) -> Result<()> {
    let module = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::system::finit_module(&module, &CString::default(), 0).with_context(|| format!("load {}", path.display()))
}

/// Lets KVM take the emulated TSC as it is. The kernel refines its measure of the TSC's rate after KVM noted a first one; on a busy
/// host the two differ by more than KVM's 250 ppm, KVM then wants to scale the guest's TSC, which emulated SVM cannot, and is left
/// with a scale of 0: every timer of a guest fires too late by the machine's uptime.
pub(crate) fn tolerate_tsc() -> Result<()> {
    match OpenOptions::new()
        .write(true)
        .open("/sys/module/kvm/parameters/tsc_tolerance_ppm")
    {
        Ok(mut parameter) => parameter.write_all(b"100000").context("write tsc_tolerance_ppm"),
        // A kernel without KVM.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context("open tsc_tolerance_ppm"),
    }
}

/// Makes the host's root the root of every process to come: the 9p share below, a tmpfs above, so that programs may write
/// anywhere and nothing reaches the host.
pub(crate) fn host_root() -> Result<()> {
    for dir in ["/lower", "/scratch", "/newroot"] {
        fs::create_dir_all(dir)?;
    }
    let options = CString::new("trans=virtio,version=9p2000.L,msize=512000,cache=loose")?;
    mount(
        lab_init::HOST_TAG,
        "/lower",
        "9p",
        MountFlags::RDONLY,
        Some(options.as_c_str()),
    )
    .context("mount the host's root over 9p")?;
    mount("tmpfs", "/scratch", "tmpfs", MountFlags::empty(), NO_DATA).context("mount the scratch layer")?;
    fs::create_dir_all("/scratch/upper")?;
    fs::create_dir_all("/scratch/work")?;
    let layers = CString::new("lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work,metacopy=off,xino=off")?;
    mount(
        "overlay",
        "/newroot",
        "overlay",
        MountFlags::empty(),
        Some(layers.as_c_str()),
    )
    .context("mount the overlay")?;
    for dir in ["/proc", "/sys", "/dev"] {
        let target = format!("/newroot{dir}");
        fs::create_dir_all(&target)?;
        mount_bind_recursive(dir, &target).with_context(|| format!("bind {dir}"))?;
    }
    // Files that live there on the host belong to the host's processes; test programs, however, may live in its /tmp.
    fs::create_dir_all("/newroot/run")?;
    mount("tmpfs", "/newroot/run", "tmpfs", MountFlags::empty(), NO_DATA).context("mount /run")?;
    rustix::process::chdir("/newroot")?;
    mount_move(".", "/").context("move the root")?;
    rustix::process::chroot(".").context("enter the root")?;
    rustix::process::chdir("/")?;
    Ok(())
}
