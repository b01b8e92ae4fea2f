//! What sriovctl must refuse: with the right exit code, naming the cause, and without changing anything.

use crate::PASSED;
use crate::machine::{Snapshot, attribute, dir, done, link, physical_function, refused, run, sriovctl, vfs};
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use lab_init::link as net;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

const FAILED: i32 = 1;
const DENIED: i32 = 13;
const BUSY: i32 = 16;
const NO_MATCH: i32 = 32;

pub(crate) fn held_vf() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "2", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    let group = link(&vf, "iommu_group").context("no group")?;
    let node = format!("/dev/vfio/{group}");
    let me = std::process::id().to_string();
    {
        let _held = File::options().read(true).write(true).open(&node)?;
        refused(&["vf", "delete", &pf], BUSY, &["held by", &me, &node])?;
        refused(&["unbind", &vf], BUSY, &["held by", &me])?;
        refused(&["release", &vf], BUSY, &["held by", &me])?;
        refused(&["undo"], BUSY, &["held by", &me])?;
        refused(
            &["vf", "delete", &pf, "--yes", "--force", "network"],
            BUSY,
            &["held by", &me],
        )?;
        let status = done(&["status"])?;
        ensure!(
            status.contains(&me) && status.contains(&vf),
            "status does not name the holder: {status}"
        );
    }
    if std::env::var("LAB").as_deref() == Ok("full") {
        let name = std::fs::read_dir(dir(&vf).join("vfio-dev"))?
            .flatten()
            .next()
            .context("no vfio-dev")?
            .file_name();
        let node = format!("/dev/vfio/devices/{}", name.display());
        let _held = File::options().read(true).write(true).open(&node)?;
        refused(&["vf", "delete", &pf], BUSY, &["held by", &me, &node])?;
    }
    done(&["vf", "delete", &pf])?;
    PASSED
}

/// The holder's descriptor is nowhere in `/proc`: it lies in a socket, on its way. Only the kernel can refuse then.
pub(crate) fn vf_held_out_of_sight() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    let group = link(&vf, "iommu_group").context("no group")?;
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    {
        let held = File::options()
            .read(true)
            .write(true)
            .open(format!("/dev/vfio/{group}"))?;
        let descriptors = [held.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ensure!(
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)),
            "no room for a descriptor"
        );
        sendmsg(&near, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::empty())?;
    }
    refused(&["vf", "delete", &pf], BUSY, &["held by"])?;
    refused(&["unbind", &vf], BUSY, &["held by"])?;
    drop((near, far));
    done(&["vf", "delete", &pf])?;
    PASSED
}

fn tool(arguments: &[&str]) -> Result<()> {
    let (program, rest) = arguments.split_first().context("no program")?;
    let run = run(Command::new(program).args(rest))?;
    ensure!(run.code == 0, "{arguments:?}: {}", run.stderr);
    Ok(())
}

pub(crate) fn mounted_nvme() -> Result<Outcome> {
    let pf = physical_function("nvme")?;
    tool(&["mke2fs", "-q", "-F", "/dev/nvme0n1", "16M"])?;
    tool(&["mount", "-t", "ext2", "/dev/nvme0n1", "/mnt"])?;
    let checks = || -> Result<()> {
        refused(&["bind", &pf, "--driver", "vfio-pci"], BUSY, &[&pf, "/mnt"])?;
        refused(&["unbind", &pf], BUSY, &[&pf, "/mnt"])
    };
    let outcome = checks();
    tool(&["umount", "/mnt"])?;
    outcome?;
    PASSED
}

pub(crate) fn swap_on_nvme() -> Result<Outcome> {
    let pf = physical_function("nvme")?;
    tool(&["mkswap", "/dev/nvme0n1"])?;
    tool(&["swapon", "/dev/nvme0n1"])?;
    let outcome = refused(&["unbind", &pf], BUSY, &[&pf, "swap"]);
    tool(&["swapoff", "/dev/nvme0n1"])?;
    outcome?;
    PASSED
}

pub(crate) fn nic_with_route() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let interface = std::fs::read_dir(dir(&pf).join("net"))?
        .flatten()
        .next()
        .context("no interface")?
        .file_name();
    let interface = interface.to_string_lossy().into_owned();
    let index = attribute(&pf, &format!("net/{interface}/ifindex"))?.parse()?;
    net::set_up(index)?;
    net::add_address(index, Ipv4Addr::new(10, 0, 2, 15), 24)?;
    let outcome = refused(&["bind", &pf, "--driver", "vfio-pci"], BUSY, &[&interface, "route"]);
    net::remove_address(index, Ipv4Addr::new(10, 0, 2, 15), 24)?;
    outcome?;
    // A route that only a rule leads to lies in a table of its own.
    net::add_address(index, Ipv4Addr::new(10, 0, 2, 15), 32)?;
    net::add_route(index, Ipv4Addr::new(198, 51, 100, 0), 24, 100)?;
    let outcome = refused(
        &["bind", &pf, "--driver", "vfio-pci"],
        BUSY,
        &[&interface, "198.51.100.0/24"],
    );
    net::remove_route(index, Ipv4Addr::new(198, 51, 100, 0), 24, 100)?;
    net::remove_address(index, Ipv4Addr::new(10, 0, 2, 15), 32)?;
    outcome?;
    PASSED
}

pub(crate) fn pf_with_vfs() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    refused(&["bind", &pf, "--driver", "vfio-pci"], FAILED, &[&pf, "VF"])?;
    refused(&["unbind", &pf], FAILED, &[&pf, "VF"])?;
    done(&["vf", "delete", &pf])?;
    PASSED
}

pub(crate) fn too_many_vfs() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    refused(&["vf", "create", &pf, "200"], FAILED, &[&pf, "200", "7"])?;
    PASSED
}

pub(crate) fn another_count() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "2", "--driver", "vfio-pci"])?;
    refused(
        &["vf", "create", &pf, "3", "--driver", "vfio-pci"],
        FAILED,
        &[&pf, "vf delete"],
    )?;
    done(&["vf", "delete", &pf])?;
    PASSED
}

pub(crate) fn no_driver() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["unbind", &pf])?;
    refused(&["vf", "create", &pf, "1"], FAILED, &[&pf, "driver"])?;
    done(&["undo"])?;
    PASSED
}

pub(crate) fn unknown_driver() -> Result<Outcome> {
    let pf = physical_function("nvme")?;
    refused(
        &["bind", &pf, "--driver", "vfio_pci"],
        FAILED,
        &["vfio_pci", "vfio-pci"],
    )?;
    PASSED
}

pub(crate) fn unknown_selector() -> Result<Outcome> {
    refused(
        &["bind", "0000:7f:1f.7", "--driver", "vfio-pci"],
        NO_MATCH,
        &["0000:7f:1f.7"],
    )?;
    let shown = sriovctl(&["show", "eth99"])?;
    ensure!(
        shown.code == NO_MATCH,
        "show of an unknown interface exits {}",
        shown.code
    );
    PASSED
}

pub(crate) fn not_root() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let as_nobody = |arguments: &[&str]| {
        run(Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sriovctl"])
            .args(arguments))
    };
    let before = Snapshot::take()?;
    let listed = as_nobody(&["list"])?;
    ensure!(
        listed.code == 0 && listed.stdout.contains(&pf),
        "list exits {}: {}",
        listed.code,
        listed.stderr
    );
    let status = as_nobody(&["status"])?;
    ensure!(status.code == 0, "status exits {}: {}", status.code, status.stderr);
    ensure!(
        status.stderr.contains("process"),
        "status does not say what it could not see: {}",
        status.stderr
    );
    let create = as_nobody(&["vf", "create", &pf, "1"])?;
    ensure!(
        create.code == DENIED,
        "vf create exits {}: {}",
        create.code,
        create.stderr
    );
    ensure!(
        create.stderr.contains("root"),
        "vf create does not say what to do: {}",
        create.stderr
    );
    before.must_equal(&Snapshot::take()?)?;
    PASSED
}

pub(crate) fn no_iommu() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    refused(&["vf", "create", &pf, "1", "--driver", "vfio-pci"], FAILED, &["IOMMU"])?;
    refused(&["bind", &pf, "--driver", "vfio-pci"], FAILED, &["IOMMU"])?;
    done(&["vf", "create", &pf, "1"])?;
    done(&["vf", "delete", &pf])?;
    PASSED
}

/// A FIFO in the attribute's place: whoever opens it blocks, as in the kernel when it waits for a holder.
pub(crate) fn hung_file() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let numvfs = dir(&pf).join("sriov_numvfs");
    tool(&["mkfifo", "/run/hung"])?;
    tool(&["mount", "--bind", "/run/hung", &numvfs.display().to_string()])?;
    let start = Instant::now();
    let listed = sriovctl(&["list"])?;
    let list_took = start.elapsed();
    let create = sriovctl(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let took = start.elapsed();
    tool(&["umount", &numvfs.display().to_string()])?;
    ensure!(
        listed.code == 0 && list_took < Duration::from_secs(20),
        "list exits {} after {list_took:?}",
        listed.code
    );
    ensure!(create.code != 0, "vf create does not notice");
    ensure!(
        create.stderr.contains("sriov_numvfs") && create.stderr.contains("no answer within"),
        "vf create says: {}",
        create.stderr
    );
    ensure!(took < Duration::from_secs(180), "vf create took {took:?}");
    // Nothing stays half done.
    ensure!(
        attribute(&pf, "sriov_drivers_autoprobe")? == "1",
        "autoprobe was not restored"
    );
    ensure!(attribute(&pf, "sriov_numvfs")? == "0", "VFs were made");
    PASSED
}
