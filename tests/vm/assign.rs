//! A VF goes into a guest that runs, and comes back.

use crate::background::{Background, LONG, pause};
use crate::guest::{QEMU_CPU, passed, stalled};
use crate::machine::{done, json, link, physical_function, refused, sriovctl, vfs, write};
use anyhow::{Context, Result, ensure};
use lab::case::{Case, Outcome};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fmt, fs, io, thread};

/// How often a VF goes and comes, unless `LAB_TIMES` says more.
const TIMES: usize = 4;
/// How long a guest in the lab may take for anything.
const BOOT: Duration = Duration::from_secs(180);
const QMP: &str = "/tmp/qmp";

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run| Case {
        limit_s: 600 + 75 * u64::try_from(times()).unwrap_or(u64::MAX / 100),
        ..Case::new(name, run)
    };
    vec![
        case("a_vf_is_given_to_a_running_qemu_and_taken_back", to_qemu),
        case("a_vf_is_given_to_a_running_guest_and_taken_back", to_own),
        case(
            "a_second_function_of_a_group_joins_the_first_in_a_guest",
            second_of_a_group,
        ),
        case(
            "functions_come_in_one_slot_of_a_running_guest_and_leave_together",
            one_slot,
        ),
        case("a_guest_lets_go_of_a_vf_that_the_kernel_wants_back", wanted_back),
    ]
}

fn times() -> usize {
    crate::times().max(TIMES)
}

pub(crate) const CONTROL: &str = "/tmp/control";

/// A guest that says what comes and goes, of a VMM that is started so.
pub(crate) fn guest(command: &mut Command) -> Result<Background> {
    let kernel = std::env::var("LAB_KERNEL").context("LAB_KERNEL")?;
    let initrd = std::env::var("LAB_GUEST_INITRD").context("LAB_GUEST_INITRD")?;
    // The guest's kernel serves the ports itself: QEMU would else ask it through ACPI, which not every kernel knows.
    let append = "console=ttyS0 quiet panic=-1 pcie_ports=native lab.role=guest lab.hotplug";
    // QEMU takes both.
    command.args(["--kernel", &kernel, "--initrd", &initrd, "--append", append]);
    // See `QEMU_CPU`: what is left of it may still stop a guest.
    for _ in 0..2 {
        // A control socket that one left behind is replaced.
        let mut guest = Background::start(command)?;
        match guest.wait_for("guest: waits for functions", BOOT) {
            Err(_) if !guest.said()?.contains("guest: ") => stalled(),
            other => return other.map(|()| guest),
        }
    }
    anyhow::bail!("no guest comes up")
}

/// With one free port.
fn qemu() -> Result<Background> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-machine",
            "q35,accel=kvm",
            "-cpu",
            QEMU_CPU,
            "-m",
            "512M",
            "-nodefaults",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"])
        .args(["-device", "pcie-root-port,id=port1,chassis=1"])
        .args(["-qmp", &format!("unix:{QMP},server=on,wait=off")]);
    guest(&mut command)
}

pub(crate) fn own(interface: &str) -> Result<Background> {
    let mut command = Command::new("sriovctl");
    command.args([
        "run",
        "--control",
        CONTROL,
        "--memory",
        "512M",
        "--interface",
        interface,
    ]);
    guest(&mut command)
}

/// Descriptors and maps of a process, and interrupts of VFIO.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// How many there are of each kind.
    descriptors: BTreeMap<String, usize>,
    maps: usize,
    interrupts: usize,
}

fn held(pid: u64) -> Result<Held> {
    let lines = |path: &str, word: &str| -> Result<usize> {
        let text = crate::machine::read(path)?;
        Ok(text.lines().filter(|line| line.contains(word)).count())
    };
    let mut descriptors = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let target = fs::read_link(entry?.path())?.to_string_lossy().into_owned();
        // QEMU 11.1 keeps the dma-bufs of BARs that it has made for iommufd.
        if !target.starts_with("/dmabuf:") {
            let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _number)| kind);
            *descriptors.entry(kind.to_owned()).or_insert(0) += 1;
        }
    }
    Ok(Held {
        descriptors,
        maps: lines(&format!("/proc/{pid}/maps"), "vfio")?,
        interrupts: lines("/proc/interrupts", "vfio")?,
    })
}

/// The guest says a line the nth time.
fn said(qemu: &mut Background, text: &str, times: usize) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while qemu.said()?.matches(text).count() < times {
        ensure!(qemu.is_running()?, "QEMU has ended: {}", qemu.said()?);
        if Instant::now() >= deadline {
            let said = qemu.said()?;
            return Err(Stalled(format!("{text:?} not {times} times: {said}")).into());
        }
        pause()?;
    }
    Ok(())
}

/// A guest that says nothing any more.
#[derive(Debug)]
struct Stalled(String);

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stalled {}

/// An emulated guest inside an emulated machine may stop, whoever runs it (see [`QEMU_CPU`]). Another guest gets the chance then, which the report
/// says; one that goes on must do all.
fn with_guests(mut test: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..2 {
        match test() {
            Err(error) if error.is::<Stalled>() => stalled(),
            other => return other,
        }
    }
    test()
}

fn to_qemu() -> Result<Outcome> {
    let to = format!("qemu:{QMP}");
    // What the kernel prefers and the older interface in turn.
    with_vf(|pf, vf| with_guests(|| goes_and_comes(&mut qemu()?, &to, &[&[], &["--interface", "type1"]], pf, vf)))
}

fn to_own() -> Result<Outcome> {
    let to = format!("sriovctl:{CONTROL}");
    let is_there = |path: &str| std::path::Path::new(path).exists();
    with_vf(|pf, vf| {
        for interface in ["iommufd", "type1"] {
            if interface == "type1" || is_there("/dev/iommu") {
                let options = ["--interface", interface];
                with_guests(|| goes_and_comes(&mut own(interface)?, &to, &[&options], pf, vf)).context(interface)?;
            }
        }
        Ok(())
    })
}

/// Two functions of the south bridge, which are in one group, by the interface that knows groups: the group opens once, and goes with the second.
fn second_of_a_group() -> Result<Outcome> {
    let mut both = Vec::new();
    for id in ["id:8086:2922", "id:8086:2930"] {
        let listed = done(&["list", id, "-o", "bdf", "--no-header"])?;
        both.push(listed.trim().to_owned());
    }
    for function in &both {
        done(&["bind", function, "--driver", "vfio-pci"])?;
    }
    let at = format!("sriovctl:{CONTROL}");
    with_guests(|| {
        let mut guest = own("type1")?;
        for (time, function) in (1..).zip(&both) {
            done(&["assign", function, "--to", &at, "--interface", "type1"])?;
            said(&mut guest, " has come", time)?;
        }
        for (time, function) in (1..).zip(&both) {
            done(&["unassign", function, "--from", &at])?;
            said(&mut guest, " is gone", time)?;
        }
        let free = done(&["list", "--free", "--no-header", "--output", "bdf"])?;
        ensure!(both.iter().all(|function| free.contains(function)), "not free: {free}");
        Ok(())
    })?;
    for function in &both {
        done(&["release", function])?;
    }
    passed()
}

/// Two VFs of a PF, by each interface.
fn one_slot() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "2", "--driver", "vfio-pci"])?;
    let [first, second]: [String; 2] = vfs(&pf).try_into().ok().context("not two VFs")?;
    let at = format!("sriovctl:{CONTROL}");
    refused(
        &["assign", &first, &second, "--to", "qemu:/nonexistent"],
        2,
        &["one slot"],
    )?;
    for interface in ["iommufd", "type1"] {
        if interface == "iommufd" && !std::path::Path::new("/dev/iommu").exists() {
            continue;
        }
        with_guests(|| {
            let mut guest = own(interface)?;
            for time in [1, 2] {
                let given = json(&["assign", &first, &second, "--to", &at, "--interface", interface])?;
                let addresses = ["/guest_address", "/others/0/guest_address"];
                let addresses = addresses.map(|at| given.pointer(at).and_then(serde_json::Value::as_str));
                let [Some(zero), Some(one)] = addresses else {
                    anyhow::bail!("not two addresses: {given}")
                };
                let is_one_slot = zero.strip_suffix(".0") == one.strip_suffix(".1") && zero.ends_with(".0");
                ensure!(is_one_slot, "{zero} and {one} are not functions 0 and 1 of one slot");
                said(&mut guest, " has come", 2 * time)?;
                for address in [zero, one] {
                    said(&mut guest, &format!("guest: {address} has come"), 1)?;
                }
                said(&mut guest, "answered after", 2 * time)?;
                // Asked of either of them.
                let (one_of, other) = if time == 1 {
                    (&second, &first)
                } else {
                    (&first, &second)
                };
                let taken = json(&["unassign", one_of, "--from", &at])?;
                let with_it = taken.pointer("/others/0/bdf").and_then(serde_json::Value::as_str);
                ensure!(with_it == Some(other), "{other} leaves, too: {taken}");
                said(&mut guest, " is gone", 2 * time)?;
                for address in [zero, one] {
                    said(&mut guest, &format!("guest: {address} is gone"), 1)?;
                }
                let free = done(&["list", "--free", "--no-header", "--output", "bdf"])?;
                ensure!(free.contains(&first) && free.contains(&second), "not free: {free}");
            }
            Ok(())
        })
        .context(interface)?;
    }
    for vf in [&first, &second] {
        done(&["release", vf])?;
        ensure!(
            link(vf, "driver").as_deref() == Some("igbvf"),
            "the kernel does not take {vf}"
        );
    }
    done(&["vf", "delete", &pf])?;
    passed()
}

/// Its driver is taken from it on the host, which waits for whoever has it.
fn wanted_back() -> Result<Outcome> {
    with_vf(|_, vf| {
        let at = format!("sriovctl:{CONTROL}");
        for interface in ["type1", "iommufd"] {
            if interface == "iommufd" && !std::path::Path::new("/dev/iommu").exists() {
                continue;
            }
            with_guests(|| {
                let mut guest = own(interface)?;
                done(&["assign", vf, "--to", &at, "--interface", interface])?;
                said(&mut guest, "answered after", 1)?;
                let function = vf.to_owned();
                let unbind = thread::spawn(move || write("/sys/bus/pci/drivers/vfio-pci/unbind", &function));
                let gone = said(&mut guest, " is gone", 1);
                if gone.is_err() {
                    // The kernel gets it from a guest that has ended, if from no other.
                    drop(guest);
                }
                let unbound = unbind.join();
                let driver = link(vf, "driver");
                done(&["bind", vf, "--driver", "vfio-pci"])?;
                gone?;
                unbound.map_err(|_panic| anyhow::anyhow!("the writer has panicked"))??;
                ensure!(driver.is_none(), "{vf} is still on {driver:?}");
                Ok(())
            })
            .context(interface)?;
        }
        Ok(())
    })
}

/// Afterwards the host can use it.
fn with_vf(test: impl FnOnce(&str, &str) -> Result<()>) -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    test(&pf, &vf)?;
    done(&["release", &vf])?;
    ensure!(
        link(&vf, "driver").as_deref() == Some("igbvf"),
        "the kernel does not take it"
    );
    done(&["vf", "delete", &pf])?;
    passed()
}

fn goes_and_comes(guest: &mut Background, at: &str, options: &[&[&str]], pf: &str, vf: &str) -> Result<()> {
    let mut after_first = None;
    let mut pid = 0;
    for (time, options) in (1..=times()).zip(options.iter().cycle()) {
        let given = json(&[&["assign", vf, "--to", at], *options].concat())?;
        let address = given
            .get("guest_address")
            .and_then(serde_json::Value::as_str)
            .context("no address")?
            .to_owned();
        said(guest, " has come", time)?;
        ensure!(
            guest.said()?.contains(&format!("guest: {address} has come")),
            "not at {address}"
        );
        said(guest, "answered after", time)?;
        if time == 1 {
            let shown = json(&["show", vf])?;
            let holder = shown
                .pointer("/functions/0/held_by/0/pid")
                .and_then(serde_json::Value::as_u64);
            pid = holder.context("nobody holds it")?;
            refused(&["vf", "delete", pf], 16, &["held by"])?;
            refused(&["assign", vf, "--to", "qemu:/nonexistent"], 1, &["No such file"])?;
        }
        let taken = json(&["unassign", vf, "--from", at])?;
        ensure!(
            taken.get("bdf").and_then(serde_json::Value::as_str) == Some(vf),
            "{taken}"
        );
        said(guest, " is gone", time)?;
        let free = done(&["list", "--free", "--no-header", "--output", "bdf"])?;
        ensure!(free.contains(vf), "{vf} is not free after {time} times: {free}");
        // What is put into a slot within a second after Linux has switched it off Linux never sees. Our VMM waits for that; QEMU does not.
        let settled = Instant::now() + Duration::from_secs(3);
        while at.starts_with("qemu:") && Instant::now() < settled {
            pause()?;
        }
        // By each interface something may be made once that stays.
        if time == 2 {
            after_first = Some(held(pid)?);
        }
    }
    let after_last = held(pid)?;
    ensure!(
        after_first.as_ref() == Some(&after_last),
        "{after_first:?} became {after_last:?}"
    );
    writeln!(
        io::stdout().lock(),
        "after 2 times and after {}: {after_last:?}",
        times()
    )?;
    let run = sriovctl(&["unassign", vf, "--from", at])?;
    ensure!(
        run.code == 1 && run.stderr.contains("does not have it"),
        "{}",
        run.stderr
    );
    Ok(())
}
