//! The libraries on the real kernel: their examples, which check what they do.

use crate::PASSED;
use crate::machine::{Run, done, physical_function, run, vfs};
use anyhow::{Context, Result, bail, ensure};
use lab::case::Outcome;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// QEMU's tutorial device.
const EDU: &str = "id:1234:11e8";
const MTTY: &str = "/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-2/create";

pub(crate) fn every_way() -> Result<Outcome> {
    on_edu(|edu| {
        let said = example("every_way", &[edu])?.stdout;
        let ways = if has_iommufd() { 5 } else { 2 };
        let worked = said.lines().filter(|line| line.ends_with(": all done")).count();
        ensure!(worked == ways, "{worked} of {ways} ways worked: {said}");
        Ok(())
    })?;
    PASSED
}

pub(crate) fn edu() -> Result<Outcome> {
    on_edu(|edu| {
        let interfaces: &[&str] = if has_iommufd() {
            &["type1", "iommufd"]
        } else {
            &["type1"]
        };
        for interface in interfaces {
            let said = example("edu", &[edu, interface])?.stdout;
            ensure!(said.contains("unmapped at the end"), "{interface}: {said}");
        }
        Ok(())
    })?;
    PASSED
}

/// Both interfaces, and the one that is chosen where none is asked for.
pub(crate) fn peer() -> Result<Outcome> {
    let nvme = physical_function("nvme")?;
    done(&["bind", &nvme, "--driver", "vfio-pci"])?;
    let outcome = on_edu(|edu| {
        let ways: &[&str] = if has_iommufd() {
            &["type1", "iommufd", "best"]
        } else {
            &["type1", "best"]
        };
        for way in ways {
            let said = example("peer", &[edu, &nvme, way])?.stdout;
            let is_type1 = *way == "type1" || !has_iommufd();
            let is_as_asked = said.contains("type1 has kept it") == is_type1;
            ensure!(is_as_asked && said.contains("at the end"), "{way}: {said}");
        }
        Ok(())
    });
    done(&["release", &nvme])?;
    outcome?;
    PASSED
}

pub(crate) fn demand() -> Result<Outcome> {
    if !Path::new("/sys/class/iommu/iommufd_selftest_iommu.0").exists() {
        return Ok(Outcome::Skipped(
            "this kernel has no mock of an IOMMU (CONFIG_IOMMUFD_TEST)".to_owned(),
        ));
    }
    let said = example("demand", &[])?.stdout;
    // One line for each way of evicting; that no more was pinned than it says is checked by the example.
    let kept = said.lines().filter(|line| line.contains("KiB, budget ")).count();
    ensure!(kept == 2, "{said}");
    PASSED
}

/// Devices that we have opened, driven by the crates of rust-vmm: one with MSI-X, one with MSI and DMA.
pub(crate) fn rust_vmm() -> Result<Outcome> {
    if !has_iommufd() {
        return Ok(Outcome::Skipped("this kernel has no iommufd".to_owned()));
    }
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    let handed_over =
        example("rust_vmm", &[&vf]).and_then(|run| says(&run, &["8086:10ca", "MSI-X: raised by the device"]));
    done(&["vf", "delete", &pf])?;
    handed_over?;
    on_edu(|edu| {
        let run = example("rust_vmm", &[edu])?;
        says(
            &run,
            &[
                "1234:11e8",
                "MSI: raised by the device",
                "in memory that VfioCore has mapped",
                "in memory that VfioIoctls has mapped",
            ],
        )
    })?;
    PASSED
}

fn says(run: &Run, words: &[&str]) -> Result<()> {
    let missing = words.iter().find(|word| !run.stdout.contains(**word));
    ensure!(missing.is_none(), "no {missing:?}: {}", run.stdout);
    Ok(())
}

/// Two of the kernel's sample devices; the state of one is given to the other.
pub(crate) fn migrate() -> Result<Outcome> {
    if !Path::new(MTTY).exists() || !has_iommufd() {
        return Ok(Outcome::Skipped(
            "this kernel has no sample device that can be migrated (mtty)".to_owned(),
        ));
    }
    let ids = [1, 2].map(|n| format!("0b1dd9a8-0000-4000-8000-00000000000{n}"));
    for id in &ids {
        write(Path::new(MTTY), id)?;
    }
    let devices = ids.iter().map(|id| Path::new("/sys/bus/mdev/devices").join(id));
    let devices: Vec<PathBuf> = devices.collect();
    let nodes = devices.iter().map(|device| {
        let entry = fs::read_dir(device.join("vfio-dev"))?
            .next()
            .context("no device node")??;
        let node = Path::new("/dev/vfio/devices").join(entry.file_name());
        Ok(node.to_string_lossy().into_owned())
    });
    let migrated = nodes.collect::<Result<Vec<String>>>().and_then(|nodes| {
        let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
        example("migrate", &nodes)?;
        migrate_by_file(&nodes)
    });
    for device in &devices {
        write(&device.join("remove"), "1")?;
    }
    migrated?;
    PASSED
}

/// The bytes that a serial port keeps are read before its state is saved, and those that are left by another process, after it was loaded there.
fn migrate_by_file(nodes: &[&str]) -> Result<()> {
    let &[from, to] = nodes else { bail!("two devices") };
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("state");
    let file = file.to_str().context("a path")?;
    let saved = example("state", &["save", from, file, "hello, world", "5"])?;
    ensure!(saved.stdout.contains("read before: hello\n"), "{}", saved.stdout);
    let loaded = example("state", &["load", to, file, "7"])?;
    ensure!(loaded.stdout.contains("read after: , world\n"), "{}", loaded.stdout);
    Ok(())
}

/// Does something with an edu that is on vfio-pci meanwhile.
pub(crate) fn on_edu(what: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let listed = done(&["list", EDU, "-o", "bdf", "--no-header"])?;
    let edu = listed.trim();
    done(&["bind", edu, "--driver", "vfio-pci"])?;
    let outcome = what(edu);
    done(&["release", edu])?;
    outcome
}

pub(crate) fn has_iommufd() -> bool {
    Path::new("/dev/iommu").exists()
}

/// Runs an example, which must succeed.
pub(crate) fn example(name: &str, arguments: &[&str]) -> Result<Run> {
    let run = run(Command::new(program(name)?).args(arguments))?;
    ensure!(
        run.code == 0,
        "{name} {} exits {}: {}{}",
        arguments.join(" "),
        run.code,
        run.stdout,
        run.stderr
    );
    Ok(run)
}

/// Where an example is.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let programs = std::env::current_exe()?;
    Ok(programs.parent().context("a directory")?.join("examples").join(name))
}

fn write(file: &Path, text: &str) -> Result<()> {
    let opened = OpenOptions::new().write(true).open(file);
    let mut opened = opened.with_context(|| file.display().to_string())?;
    opened
        .write_all(text.as_bytes())
        .with_context(|| format!("write {}", file.display()))
}
