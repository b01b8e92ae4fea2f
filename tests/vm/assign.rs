//! A VF goes into a guest that runs, and comes back.

use crate::PASSED;
use crate::background::{Background, LONG, pause};
use crate::machine::{done, json, link, physical_function, refused, sriovctl, vfs};
use anyhow::{Context, Result, ensure};
use lab::case::{Case, Outcome};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// How often a VF goes and comes.
const TIMES: usize = 20;
/// How long a guest in the lab may take for anything.
const BOOT: Duration = Duration::from_secs(180);
const QMP: &str = "/tmp/qmp";

pub(crate) fn cases() -> Vec<Case> {
    vec![Case {
        limit_s: 600,
        ..Case::new("a_vf_is_given_to_a_running_qemu_and_taken_back", to_qemu)
    }]
}

/// A QEMU with one free port, whose guest says what comes and goes.
fn qemu() -> Result<Background> {
    let kernel = std::env::var("LAB_KERNEL").context("LAB_KERNEL")?;
    let initrd = std::env::var("LAB_GUEST_INITRD").context("LAB_GUEST_INITRD")?;
    // The guest's kernel serves the port itself: QEMU would else ask it through ACPI, which not every kernel knows.
    let append = "console=ttyS0 quiet panic=-1 pcie_ports=native lab.role=guest lab.hotplug";
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-machine",
            "q35,accel=kvm",
            "-cpu",
            "host",
            "-m",
            "512M",
            "-nodefaults",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"])
        .args(["-device", "pcie-root-port,id=port1,chassis=1"])
        .args(["-qmp", &format!("unix:{QMP},server=on,wait=off")])
        .args(["-kernel", &kernel, "-initrd", &initrd, "-append", append]);
    // On a busy host an emulated guest inside an emulated machine once in a while does not come up at all.
    for _ in 0..2 {
        let mut qemu = Background::start(&mut command)?;
        match qemu.wait_for("guest: waits for functions", BOOT) {
            Err(error) if !qemu.said()?.contains("guest: ") => drop(error),
            other => return other.map(|()| qemu),
        }
    }
    anyhow::bail!("no guest comes up")
}

/// Descriptors and maps of a process, and interrupts of VFIO.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    maps: usize,
    interrupts: usize,
}

fn held(pid: u64) -> Result<Held> {
    let lines = |path: &str, word: &str| -> Result<usize> {
        let text = crate::machine::read(path)?;
        Ok(text.lines().filter(|line| line.contains(word)).count())
    };
    Ok(Held {
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        maps: lines(&format!("/proc/{pid}/maps"), "vfio")?,
        interrupts: lines("/proc/interrupts", "vfio")?,
    })
}

/// The guest says a line the nth time.
fn said(qemu: &mut Background, text: &str, times: usize) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while qemu.said()?.matches(text).count() < times {
        ensure!(qemu.is_running()?, "QEMU has ended: {}", qemu.said()?);
        ensure!(
            Instant::now() < deadline,
            "{text:?} not {times} times: {}",
            qemu.said()?
        );
        pause()?;
    }
    Ok(())
}

fn to_qemu() -> Result<Outcome> {
    let pf = physical_function("igb")?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    let mut qemu = qemu()?;
    let (to, from) = (format!("qemu:{QMP}"), format!("qemu:{QMP}"));
    let mut after_first = None;
    let mut pid = 0;
    for time in 1..=TIMES {
        // What the kernel prefers and the older interface in turn.
        let interface: &[&str] = if time % 2 == 0 { &["--interface", "type1"] } else { &[] };
        let given = json(&[&["assign", &vf, "--to", &to], interface].concat())?;
        let address = given["guest_address"].as_str().context("no address")?.to_owned();
        said(&mut qemu, &format!("guest: {address} has come"), time)?;
        said(&mut qemu, "answered after", time)?;
        if time == 1 {
            let shown = json(&["show", &vf])?;
            let holder = shown
                .pointer("/functions/0/held_by/0/pid")
                .and_then(serde_json::Value::as_u64);
            pid = holder.context("nobody holds it")?;
            refused(&["vf", "delete", &pf], 16, &["held by"])?;
            refused(&["assign", &vf, "--to", &to], 16, &["has it already"])?;
            refused(&["assign", &vf, "--to", "qemu:/nonexistent"], 1, &["No such file"])?;
        }
        let taken = json(&["unassign", &vf, "--from", &from])?;
        ensure!(taken["bdf"] == vf.as_str(), "{taken}");
        said(&mut qemu, &format!("guest: {address} is gone"), time)?;
        let free = done(&["list", "--free", "--no-header", "--output", "bdf"])?;
        ensure!(free.contains(&vf), "{vf} is not free after {time} times: {free}");
        // By the older interface something may be made once that stays.
        if time == 2 {
            after_first = Some(held(pid)?);
        }
    }
    let after_last = held(pid)?;
    ensure!(
        after_first.as_ref() == Some(&after_last),
        "{after_first:?} became {after_last:?}"
    );
    let run = sriovctl(&["unassign", &vf, "--from", &from])?;
    ensure!(
        run.code == 1 && run.stderr.contains("does not have it"),
        "{}",
        run.stderr
    );
    qemu.kill()?;
    // The host can use it.
    done(&["release", &vf])?;
    ensure!(
        link(&vf, "driver").as_deref() == Some("igbvf"),
        "the kernel does not take it"
    );
    done(&["vf", "delete", &pf])?;
    PASSED
}
