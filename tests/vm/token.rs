//! VFs whose PF is in user space: a guest has them with the PF's VF token.

use crate::assign;
use crate::guest;
use crate::machine::{attribute, dir, done, json, link, physical_function, read, refused, vfs, write};
use anyhow::{Context, Result, ensure};
use lab::case::{Case, Outcome};
use std::path::Path;
use std::time::Duration;
use vfio_core::{AttachedGroup, Container, ContainerPath, Group, IommuType, System, VfToken};

/// Whether a PF on vfio-pci may have VFs.
const ENABLE_SRIOV: &str = "/sys/module/vfio_pci/parameters/enable_sriov";
const TOKEN: &str = "7e0d6a3c-7a51-4d2c-9d3f-0f7b6a1c2e55";
const OTHER: &str = "b44a5d0e-52f5-4d42-8d9b-0b1a4b2b0f6a";

pub(crate) fn cases() -> Vec<Case> {
    vec![Case {
        limit_s: 600,
        ..Case::new("vfs_of_a_pf_in_user_space_are_run_with_its_token_in_one_slot", run)
    }]
}

fn run() -> Result<Outcome> {
    with_vfs(|vfs| {
        for interface in ["type1", "iommufd"] {
            if interface == "type1" || Path::new("/dev/iommu").exists() {
                boots(vfs, interface).context(interface)?;
                comes(&vfs[0], interface).context(interface)?;
            }
        }
        Ok(())
    })
}

/// Two VFs on vfio-pci, whose PF is there, too, and was opened with the token.
fn with_vfs(test: impl FnOnce(&[String; 2]) -> Result<()>) -> Result<Outcome> {
    let pf = physical_function("igb")?;
    let before = read(ENABLE_SRIOV)?;
    write(ENABLE_SRIOV, "1")?;
    done(&["bind", &pf, "--driver", "vfio-pci"])?;
    let outcome = (|| {
        write(dir(&pf).join("sriov_numvfs"), "2")?;
        let vfs: [String; 2] = vfs(&pf).try_into().ok().context("not two VFs")?;
        set_token(&pf)?;
        test(&vfs)
    })();
    if attribute(&pf, "sriov_numvfs")? != "0" {
        write(dir(&pf).join("sriov_numvfs"), "0")?;
    }
    done(&["release", &pf])?;
    write(ENABLE_SRIOV, &before)?;
    outcome?;
    guest::passed()
}

/// The first user of a PF sets its token, which stays.
fn set_token(pf: &str) -> Result<()> {
    let system = System::host();
    let group = link(pf, "iommu_group").context("no group")?.parse()?;
    let container = Container::open(&system, ContainerPath::Vfio)?;
    let group: AttachedGroup = container.add(&Group::open(&system, pci::GroupId(group))?)?;
    container.set_iommu(IommuType::Type1v2)?;
    let token: VfToken = TOKEN.parse()?;
    drop(group.device(pf.parse()?, Some(token))?);
    Ok(())
}

fn boots(vfs: &[String; 2], interface: &str) -> Result<()> {
    let kernel = std::env::var("LAB_KERNEL").context("LAB_KERNEL")?;
    let initrd = std::env::var("LAB_GUEST_INITRD").context("LAB_GUEST_INITRD")?;
    // Without its PF's driver a VF has no network.
    let append = "console=ttyS0 quiet panic=-1 lab.role=guest initcall_blacklist=igbvf_init_module";
    let guest = [
        "--kernel", &kernel, "--initrd", &initrd, "--append", append, "--memory", "512M",
    ];
    let usual = ["--interface", interface, "--timeout", "90"];
    let common = [&["run"], &guest[..], &usual].concat();
    let [first, second] = vfs;
    refused(&[&common[..], &[first]].concat(), 13, &["VF token"])?;
    refused(
        &[&common[..], &[first, "--vf-token", OTHER]].concat(),
        1,
        &[first, "token"],
    )?;

    let places = [format!("{first},slot=2.1"), format!("{second},slot=2.0,token={TOKEN}")];
    let devices = ["--device", &places[0], "--device", &places[1], "--vf-token", TOKEN];
    let nodes = ["--numa", "memory=256M", "--numa", "memory=256M,host=0"];
    let with_both = [&common[..], &devices, &nodes].concat();
    let said = guest::boot(&with_both)?;
    for line in [
        "guest: NUMA nodes 0-1",
        "guest: 0000:02:00.0 8086:10ca",
        "guest: 0000:02:00.1 8086:10ca",
    ] {
        ensure!(said.contains(line), "no line {line}: {said}");
    }
    Ok(())
}

fn comes(vf: &str, interface: &str) -> Result<()> {
    let mut guest = assign::own(interface)?;
    let to = format!("sriovctl:{}", assign::CONTROL);
    let assign = ["assign", vf, "--to", &to, "--interface", interface];
    refused(&assign, 13, &["VF token"])?;
    refused(&[&assign[..], &["--vf-token", OTHER]].concat(), 1, &["token"])?;
    let given = json(&[&assign[..], &["--vf-token", TOKEN]].concat())?;
    let address = given.get("guest_address").and_then(serde_json::Value::as_str);
    let address = address.context("no address")?;
    guest.wait_for(&format!("guest: {address} has come"), Duration::from_secs(60))?;
    // It returns when the VF is free: the guest's process ends later than who started it.
    done(&["unassign", vf, "--from", &to]).map(drop)
}
