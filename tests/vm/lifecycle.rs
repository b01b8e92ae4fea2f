//! Creating, binding, giving back, undoing: what operators do all day.

use crate::PASSED;
use crate::machine::{Snapshot, attribute, dir, done, json, link, physical_function, sriovctl, vfs, write};
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// Every VF of `pf` is on vfio-pci, with its group's node, and with its own where the kernel has such.
fn check_on_vfio(pf: &str, count: usize) -> Result<()> {
    let vfs = vfs(pf);
    ensure!(vfs.len() == count, "{pf} has {} VFs, not {count}", vfs.len());
    for vf in &vfs {
        ensure!(
            link(vf, "driver").as_deref() == Some("vfio-pci"),
            "{vf} is on {:?}",
            link(vf, "driver")
        );
        let group = link(vf, "iommu_group").with_context(|| format!("{vf} has no group"))?;
        ensure!(Path::new("/dev/vfio").join(&group).exists(), "no node of group {group}");
        if std::env::var("LAB").as_deref() == Ok("full") {
            let name = std::fs::read_dir(dir(vf).join("vfio-dev"))?
                .flatten()
                .next()
                .context("no vfio-dev")?
                .file_name();
            ensure!(
                Path::new("/dev/vfio/devices").join(&name).exists(),
                "no node {}",
                name.display()
            );
        }
    }
    ensure!(
        attribute(pf, "sriov_drivers_autoprobe")? == "1",
        "autoprobe was not restored"
    );
    Ok(())
}

fn on_vfio_and_back(pf: &str) -> Result<Outcome> {
    let total = attribute(pf, "sriov_totalvfs")?;
    done(&["vf", "create", pf, &total, "--driver", "vfio-pci"])?;
    check_on_vfio(pf, total.parse()?)?;
    done(&["vf", "delete", pf])?;
    ensure!(attribute(pf, "sriov_numvfs")? == "0");
    PASSED
}

pub(crate) fn nic_vfs_for_vfio() -> Result<Outcome> {
    on_vfio_and_back(&physical_function("igb")?)
}

pub(crate) fn nvme_vfs_for_vfio() -> Result<Outcome> {
    on_vfio_and_back(&physical_function("nvme")?)
}

pub(crate) fn nic_vfs_native() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "2"])?;
    for vf in vfs(&pf) {
        ensure!(
            link(&vf, "driver").as_deref() == Some("igbvf"),
            "{vf} is on {:?}",
            link(&vf, "driver")
        );
    }
    done(&["vf", "delete", &pf])?;
    PASSED
}

pub(crate) fn nic_vfs_by_name() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "2", "--driver", "igbvf"])?;
    for vf in vfs(&pf) {
        ensure!(
            link(&vf, "driver").as_deref() == Some("igbvf"),
            "{vf} is on {:?}",
            link(&vf, "driver")
        );
        ensure!(attribute(&vf, "driver_override")? == "(null)", "{vf} has an override");
    }
    // A driver that does not know the device does not get it.
    let vf = vfs(&pf).pop().context("no VF")?;
    let before = Snapshot::take()?;
    let wrong = sriovctl(&["bind", &vf, "--driver", "nvme"])?;
    ensure!(
        wrong.code == 21 && wrong.stderr.contains("does not support"),
        "exits {}: {}",
        wrong.code,
        wrong.stderr
    );
    before.must_equal(&Snapshot::take()?)?;
    done(&["vf", "delete", &pf])?;
    PASSED
}

pub(crate) fn a_plan_changes_nothing() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let before = Snapshot::take()?;
    let planned = done(&["plan", "vf", "create", &pf, "3", "--driver", "vfio-pci"])?;
    ensure!(
        planned.contains("sriov_numvfs"),
        "the plan does not name sriov_numvfs: {planned}"
    );
    done(&["vf", "create", &pf, "3", "--driver", "vfio-pci", "--dry-run"])?;
    let checked = sriovctl(&["plan", "--check", "vf", "create", &pf, "3", "--driver", "vfio-pci"])?;
    ensure!(checked.code == 22, "plan --check exits {}", checked.code);
    before.must_equal(&Snapshot::take()?)?;
    PASSED
}

pub(crate) fn create_twice() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let create = ["vf", "create", &pf, "2", "--driver", "vfio-pci"];
    done(&create)?;
    let after_first = Snapshot::take()?;
    let checked = sriovctl(&[&["plan", "--check"], create.as_slice()].concat())?;
    ensure!(
        checked.code == 0,
        "plan --check of what is there exits {}: {}",
        checked.code,
        checked.stdout
    );
    done(&create)?;
    after_first.must_equal(&Snapshot::take()?)?;
    done(&["vf", "delete", &pf])?;
    PASSED
}

pub(crate) fn bind_and_release() -> Result<Outcome> {
    let nvme = physical_function("nvme")?;
    done(&["bind", &nvme, "--driver", "vfio-pci"])?;
    ensure!(
        link(&nvme, "driver").as_deref() == Some("vfio-pci"),
        "{nvme} is on {:?}",
        link(&nvme, "driver")
    );
    done(&["release", &nvme])?;
    ensure!(
        link(&nvme, "driver").as_deref() == Some("nvme"),
        "{nvme} is on {:?}",
        link(&nvme, "driver")
    );
    done(&["unbind", &nvme])?;
    ensure!(
        link(&nvme, "driver").is_none(),
        "{nvme} is still on {:?}",
        link(&nvme, "driver")
    );
    done(&["bind", &nvme, "--driver", "nvme"])?;
    ensure!(
        link(&nvme, "driver").as_deref() == Some("nvme"),
        "{nvme} is on {:?}",
        link(&nvme, "driver")
    );
    done(&["release", &nvme])?;
    PASSED
}

pub(crate) fn release_vf() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    // The hard case: with autoprobe off, the kernel offers a VF to no driver at all.
    write(dir(&pf).join("sriov_drivers_autoprobe"), "0")?;
    let vf = vfs(&pf).first().context("no VF")?.clone();
    done(&["release", &vf])?;
    ensure!(
        link(&vf, "driver").as_deref() == Some("igbvf"),
        "{vf} is on {:?}",
        link(&vf, "driver")
    );
    ensure!(
        attribute(&pf, "sriov_drivers_autoprobe")? == "0",
        "autoprobe was not left as it was"
    );
    write(dir(&pf).join("sriov_drivers_autoprobe"), "1")?;
    done(&["vf", "delete", &pf])?;
    PASSED
}

pub(crate) fn undo_creation() -> Result<Outcome> {
    let pf = physical_function("nvme")?;
    let before = Snapshot::take()?;
    done(&["vf", "create", &pf, "3", "--driver", "vfio-pci"])?;
    done(&["undo"])?;
    before.must_equal(&Snapshot::take()?)?;
    PASSED
}

pub(crate) fn undo_deletion() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "2", "--driver", "vfio-pci"])?;
    let with_vfs = Snapshot::take()?;
    done(&["vf", "delete", &pf])?;
    done(&["undo"])?;
    with_vfs.must_equal(&Snapshot::take()?)?;
    check_on_vfio(&pf, 2)?;
    done(&["vf", "delete", &pf])?;
    PASSED
}

pub(crate) fn log_lists_operations() -> Result<Outcome> {
    let nvme = physical_function("nvme")?;
    done(&["bind", &nvme, "--driver", "vfio-pci"])?;
    done(&["undo"])?;
    let log = json(&["log"])?;
    let operations = log
        .get("operations")
        .and_then(Value::as_array)
        .context("no operations")?;
    let last = operations
        .iter()
        .max_by_key(|operation| operation.get("id").and_then(Value::as_u64))
        .context("an empty log")?;
    ensure!(
        last.get("status").and_then(Value::as_str) == Some("undone"),
        "the last operation is {last}"
    );
    PASSED
}

pub(crate) fn two_at_once() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let create = || {
        Command::new("sriovctl")
            .args(["vf", "create", &pf, "4", "--driver", "vfio-pci"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    let (first, second) = (create()?, create()?);
    let (first, second) = (first.wait_with_output()?, second.wait_with_output()?);
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        first.status.success() && second.status.success(),
        "{}\n{}",
        said(&first),
        said(&second)
    );
    check_on_vfio(&pf, 4)?;
    done(&["vf", "delete", &pf])?;
    PASSED
}
