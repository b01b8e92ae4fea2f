//! Functions of the lab's machine, made ready by `sriovctl`. On any other machine its user does that.

use anyhow::{Context, Result, ensure};
use pci::Bdf;
use std::path::Path;
use std::process::Command;

/// Whether this runs in the lab, whose devices are nobody's.
#[must_use]
pub fn is_here() -> bool {
    std::env::var_os("LAB").is_some()
}

/// The VFs of the first PF that this driver has, made and bound to vfio-pci; the PF stays.
///
/// # Errors
/// Without such a PF; what `sriovctl` says.
pub fn virtual_functions(driver: &str) -> Result<Vec<Bdf>> {
    let pf = physical_function(driver)?;
    if !directory(pf).join("virtfn0").exists() {
        let total = super::file(&directory(pf).join("sriov_totalvfs").to_string_lossy()).context("no VFs")?;
        let pf = pf.to_string();
        sriovctl(&["vf", "create", &pf, total.trim(), "--driver", "vfio-pci"])?;
    }
    let link = |index: u32| {
        let link = std::fs::read_link(directory(pf).join(format!("virtfn{index}"))).ok()?;
        link.file_name()?.to_str()?.parse().ok()
    };
    Ok((0..).map_while(link).collect())
}

/// The first PF that this driver has, bound to vfio-pci.
///
/// # Errors
/// Without such a PF; what `sriovctl` says.
pub fn taken(driver: &str) -> Result<Bdf> {
    let pf = physical_function(driver)?;
    sriovctl(&["bind", &pf.to_string(), "--driver", "vfio-pci"])?;
    Ok(pf)
}

/// The first two VFs of the first PF on igb, as [`virtual_functions`], and that one up: its VFs send and receive.
///
/// # Errors
/// As there; what `ip` says.
pub fn connected() -> Result<Vec<Bdf>> {
    let mut functions = virtual_functions("igb")?;
    functions.truncate(2);
    let mut names = std::fs::read_dir(directory(physical_function("igb")?).join("net"))?;
    let name = names.next().context("the PF has no network interface")??.file_name();
    let status = Command::new("ip").args(["link", "set"]).arg(&name).arg("up").status();
    let status = status.context("start ip")?;
    ensure!(status.success(), "ip link set {} up: {status}", name.to_string_lossy());
    Ok(functions)
}

/// QEMU's edu, bound to vfio-pci.
///
/// # Errors
/// Without one; what `sriovctl` says.
pub fn edu() -> Result<Bdf> {
    let is = |bdf: Bdf, name: &str, number: &str| {
        super::file(&directory(bdf).join(name).to_string_lossy()).is_some_and(|text| text.trim() == number)
    };
    let edu = first(|bdf| is(bdf, "vendor", "0x1234") && is(bdf, "device", "0x11e8"))?;
    let edu = edu.context("the machine has no edu")?;
    sriovctl(&["bind", &edu.to_string(), "--driver", "vfio-pci"])?;
    Ok(edu)
}

fn physical_function(driver: &str) -> Result<Bdf> {
    let is_it = |bdf| directory(bdf).join("sriov_totalvfs").exists() && super::driver(bdf).as_deref() == Some(driver);
    first(is_it)?.with_context(|| format!("the machine has no PF on {driver}"))
}

/// The first of all functions that is as wanted.
fn first(wanted: impl Fn(Bdf) -> bool) -> Result<Option<Bdf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/bus/pci/devices")? {
        found.push(entry?.file_name().to_string_lossy().parse::<Bdf>()?);
    }
    found.sort();
    Ok(found.into_iter().find(|bdf| wanted(*bdf)))
}

fn directory(bdf: Bdf) -> std::path::PathBuf {
    Path::new("/sys/bus/pci/devices").join(bdf.to_string())
}

fn sriovctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("sriovctl")
        .args(arguments)
        .output()
        .context("start sriovctl")?;
    ensure!(
        output.status.success(),
        "sriovctl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
