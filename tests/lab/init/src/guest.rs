//! A guest that was given a function: which driver took it, and whether a ping over it is answered.

use crate::{console::say, mounts, ping};
use anyhow::{Context, Result};
use lab_init::{disk, link};
use rustix::event::{Timespec, poll};
use rustix::system::uname;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The address that QEMU's user network gives to its first guest, and that of its gateway.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// How long a driver may take to make the network interface of a function that has come.
const PROBE: Duration = Duration::from_secs(30);

/// Reports on the console, line by line; each line begins with `guest:`. With `lab.hotplug` on the kernel's command line it goes on with
/// what comes and goes, until the machine is switched off from outside; with `lab.edu` it lets a program of ours drive the edus that it has, and with
/// `lab.edu=COUNT` time so many of their interrupts and of those of VFs of an 82576, with `lab.peer` let them read and write registers of its NVMe controllers; with `lab.reset` it resets what
/// it has by the bus, with `lab.disk=SEED` it reads and writes its NVMe namespaces ([`disk`]).
pub(crate) fn report() -> Result<()> {
    say(&format!("guest: Linux {} is up", uname().release().to_string_lossy()));
    if let Ok(processors) = mounts::read("/sys/devices/system/cpu/online") {
        say(&format!("guest: processors {}", processors.trim()));
    }
    if let Ok(nodes) = mounts::read("/sys/devices/system/node/online")
        && nodes.trim() != "0"
    {
        say(&format!("guest: NUMA nodes {}", nodes.trim()));
    }
    let devices = devices()?;
    for device in &devices {
        say(&format!("guest: {}", describe(device)));
    }
    let interfaces = devices.iter().filter_map(|device| interface(device));
    let mut seen = false;
    for interface in interfaces {
        seen = true;
        use_interface(interface)?;
    }
    let options = mounts::command_line()?;
    if let Some(option) = options.split_whitespace().find(|option| option.starts_with("lab.edu")) {
        let count = option.split_once('=').map(|(_, count)| count);
        let is_driven = |device: &&PathBuf| is_edu(device) || count.is_some() && is_igb_vf(device);
        for device in devices.iter().filter(is_driven) {
            drive(device, count)?;
        }
        return Ok(());
    }
    if options.contains("lab.peer") {
        let others = devices.iter().filter(|device| is_nvme(device));
        for other in others {
            let name = other.file_name().unwrap_or_default().to_string_lossy();
            give_to_vfio(other)?;
            for edu in devices.iter().filter(|device| is_edu(device)) {
                drive(edu, Some(&name))?;
            }
        }
        return Ok(());
    }
    if let Some(seed) = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("lab.disk="))
    {
        let seed = seed.parse().context("lab.disk")?;
        let disks = devices.iter().filter(|device| is_nvme(device));
        return disks
            .map(|device| namespace(device))
            .try_for_each(|disk| use_disk(&disk?, seed));
    }
    if options.contains("lab.reset") {
        let is_behind_a_port = |device: &&PathBuf| {
            !device
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .starts_with("0000:00")
        };
        return devices
            .iter()
            .filter(is_behind_a_port)
            .try_for_each(|device| reset_by_bus(device));
    }
    if mounts::command_line()?.contains("lab.hotplug") {
        return watch(devices);
    }
    if !seen {
        say("guest: no network function here");
    }
    say("guest: done");
    Ok(())
}

/// The program that drives QEMU's edu, where the initial file system has it.
const PROGRAM: &str = "/no_iommu";

fn is_edu(device: &Path) -> bool {
    has_id(device, "0x1234", "0x11e8")
}

fn is_igb_vf(device: &Path) -> bool {
    has_id(device, "0x8086", "0x10ca")
}

fn has_id(device: &Path, vendor: &str, number: &str) -> bool {
    let is = |file: &str, number| mounts::read(device.join(file)).is_ok_and(|text| text.trim() == number);
    is("vendor", vendor) && is("device", number)
}

/// Lets a program of ours drive an edu, or such a VF, without an IOMMU: this guest has nothing to lose, and ends with it.
fn drive(device: &Path, count: Option<&str>) -> Result<()> {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    give_to_vfio(device)?;
    let output = Command::new(PROGRAM)
        .arg(&*name)
        .args(count)
        .output()
        .with_context(|| format!("start {PROGRAM}"))?;
    for line in String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).lines() {
        say(&format!("guest: {line}"));
    }
    say(&format!("guest: {PROGRAM}: {}", output.status));
    Ok(())
}

fn give_to_vfio(device: &Path) -> Result<()> {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    set(Path::new("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"), "Y")?;
    set(&device.join("driver_override"), "vfio-pci")?;
    set(Path::new("/sys/bus/pci/drivers_probe"), &name)
}

fn is_nvme(device: &Path) -> bool {
    mounts::read(device.join("class")).is_ok_and(|class| class.starts_with("0x010802"))
}

/// Resets a function by the port that it is behind; its driver, if it has one, brings it back.
fn reset_by_bus(device: &Path) -> Result<()> {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let state = || -> Result<(Vec<u8>, Option<Vec<u8>>)> {
        let mut config = fs::read(device.join("config"))?;
        config.truncate(4);
        let disk = if is_nvme(device) {
            Some(first_block(device)?)
        } else {
            None
        };
        Ok((config, disk))
    };
    let before = state()?;
    set(&device.join("reset_method"), "bus")?;
    set(&device.join("reset"), "1")?;
    let after = if before == state()? {
        "is as before"
    } else {
        "is not as before"
    };
    say(&format!("guest: {name} was reset by its bus and {after}"));
    Ok(())
}

/// The first block of the first namespace of an NVMe controller, once its driver has it.
fn first_block(device: &Path) -> Result<Vec<u8>> {
    let mut block = vec![0; 4096];
    fs::File::open(namespace(device)?)?.read_exact(&mut block)?;
    Ok(block)
}

/// The block device of the first namespace of an NVMe controller, once its driver has it.
fn namespace(device: &Path) -> Result<PathBuf> {
    let below = |path: PathBuf| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let deadline = Instant::now() + PROBE;
    loop {
        let found = below(device.join("nvme")).flat_map(below);
        let mut names = found
            .filter(|path| path.join("size").exists())
            .filter_map(|path| path.file_name()?.to_str().map(disk_of));
        if let Some(path) = names.find(|path| path.exists()) {
            return Ok(path);
        }
        anyhow::ensure!(Instant::now() < deadline, "no namespace of {}", device.display());
        pause();
    }
}

/// With several paths to a namespace, `nvme0c1n1` is one of them and `nvme0n1` the disk.
fn disk_of(name: &str) -> PathBuf {
    let parts: Vec<&str> = name.split(['c', 'n']).collect();
    let disk = match parts[..] {
        [_, subsystem, _, namespace] => format!("n{subsystem}n{namespace}"),
        _ => name.to_owned(),
    };
    Path::new("/dev").join(disk)
}

/// Finds what the host has written to a disk, and writes what the host is to find.
fn use_disk(path: &Path, seed: u64) -> Result<()> {
    let disk = fs::File::options().read(true).write(true).open(path)?;
    disk::check(&disk, disk::OF_HOST, seed, disk::BY_HOST)?;
    disk::write(&disk, disk::OF_GUEST, seed, disk::BY_GUEST)?;
    // From the disk, not from this guest's memory.
    rustix::fs::fadvise(&disk, 0, None, rustix::fs::Advice::DontNeed)?;
    disk::check(&disk, disk::OF_GUEST, seed, disk::BY_GUEST)?;
    say(&format!(
        "guest: {} has what the host wrote, and what was written here",
        path.display()
    ));
    Ok(())
}

fn set(file: &Path, value: &str) -> Result<()> {
    let mut opened = fs::OpenOptions::new()
        .write(true)
        .open(file)
        .with_context(|| format!("open {}", file.display()))?;
    let written = opened.write_all(value.as_bytes());
    written.with_context(|| format!("write {}", file.display()))
}

/// Reports what comes and goes.
fn watch(mut known: BTreeSet<PathBuf>) -> Result<()> {
    let name = |device: &Path| device.file_name().unwrap_or_default().to_string_lossy().into_owned();
    say("guest: waits for functions");
    loop {
        let now = devices()?;
        for gone in known.difference(&now) {
            say(&format!("guest: {} is gone", name(gone)));
        }
        for new in now.difference(&known) {
            say(&format!("guest: {} has come", name(new)));
            let deadline = Instant::now() + PROBE;
            let is_network = mounts::read(new.join("class")).is_ok_and(|class| class.starts_with("0x02"));
            while is_network && Instant::now() < deadline {
                if let Some(interface) = interface(new) {
                    use_interface(interface)?;
                    break;
                }
                pause();
            }
        }
        known = now;
        pause();
    }
}

fn pause() {
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    // An interruption only makes it shorter.
    let _interrupted = poll(&mut [], Some(&pause)).is_err();
}

fn devices() -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir("/sys/bus/pci/devices")?.flatten();
    Ok(entries.map(|entry| entry.path()).collect())
}

/// Sees whether a ping over an interface is answered.
fn use_interface((name, driver, index): (String, String, u32)) -> Result<()> {
    say(&format!("guest: {driver} took the function as {name}"));
    link::set_up(index).with_context(|| format!("set {name} up"))?;
    link::add_address(index, OWN, 24).with_context(|| format!("give {name} an address"))?;
    let (requests, round_trip) = ping::ping(GATEWAY, Duration::from_secs(60))?;
    say(&format!(
        "guest: ping {GATEWAY} over {name}: answered after {requests} request(s), {} ms",
        round_trip.as_millis()
    ));
    Ok(())
}

fn describe(device: &Path) -> String {
    let value = |file| {
        mounts::read(device.join(file)).map_or_else(
            |_| "?".to_owned(),
            |text| text.trim().trim_start_matches("0x").to_owned(),
        )
    };
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let near = match value("numa_node") {
        node if node.parse::<u32>().is_ok() => format!(", near to node {node}"),
        _ => String::new(),
    };
    format!(
        "{name} {}:{} driver {}{near}",
        value("vendor"),
        value("device"),
        driver(device).as_deref().unwrap_or("none")
    )
}

fn driver(device: &Path) -> Option<String> {
    let link: PathBuf = fs::read_link(device.join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Name, driver and index of the network interface of a PCI function.
fn interface(device: &Path) -> Option<(String, String, u32)> {
    let entry = fs::read_dir(device.join("net")).ok()?.flatten().next()?;
    let index = mounts::read(entry.path().join("ifindex")).ok()?.trim().parse().ok()?;
    Some((entry.file_name().to_string_lossy().into_owned(), driver(device)?, index))
}
