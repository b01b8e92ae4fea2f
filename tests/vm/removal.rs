//! What becomes of a device whose driver in user space ends, is killed, or loses it while I/O runs.

use crate::PASSED;
use crate::background::{Background, LONG, pause};
use crate::dma::{example, program};
use crate::drivers::{Interface, block_device, on_both, on_nvme};
use crate::machine::{dir, done, link, physical_function, read, run, write};
use crate::monitor::Monitor;
use anyhow::{Context, Result, bail, ensure};
use lab::case::{Case, Outcome};
use lab::{Device, Machine};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = on_both![
        "an_nvme_works_for_the_kernel_after_the_driver", 240, handed_back;
        "a_killed_driver_leaves_a_device_that_works", 300, killed;
        "io_ends_when_the_device_is_unbound", 180, unbound;
        "io_ends_when_the_device_is_removed", 180, removed;
    ];
    cases.push(Case {
        limit_s: 180,
        ..Case::new("polled_io_makes_no_system_calls", no_system_calls)
    });
    let machine = Machine {
        devices: vec![Device::Nvme],
        ..Machine::default()
    };
    let pulled = on_both![
        "polled_io_ends_when_the_device_is_pulled_out", 180, pulled_out_polled;
        "io_ends_when_the_device_is_pulled_out", 180, pulled_out;
    ];
    cases.extend(pulled.into_iter().map(|case| Case {
        machine: machine.clone(),
        fresh: true,
        ..case
    }));
    let machine = Machine {
        monitor: true,
        ..machine
    };
    let unplugged = on_both!["io_ends_when_the_device_is_unplugged", 300, unplugged;];
    cases.extend(unplugged.into_iter().map(|case| Case {
        machine: machine.clone(),
        fresh: true,
        ..case
    }));
    cases
}

/// How often what must work again is tried.
pub(crate) const TIMES: u32 = 3;

/// A file system is made on it, and what was written there is read.
pub(crate) fn works_for_the_kernel(nvme: &str) -> Result<()> {
    let device = block_device(nvme)?;
    let device = device.to_str().context("a name that is no text")?;
    tool(&["mke2fs", "-q", "-F", device, "16M"])?;
    tool(&["mount", "-t", "ext2", device, "/mnt"])?;
    let written = tool(&[
        "dd",
        "if=/dev/urandom",
        "of=/mnt/file",
        "bs=64k",
        "count=64",
        "conv=fsync",
        "status=none",
    ])
    .and_then(|()| fs::read("/mnt/file").context("read /mnt/file"));
    tool(&["umount", "/mnt"])?;
    let written = written?;
    tool(&["mount", "-t", "ext2", "-o", "ro", device, "/mnt"])?;
    let found = fs::read("/mnt/file").context("read /mnt/file");
    tool(&["umount", "/mnt"])?;
    ensure!(found? == written, "the file has changed");
    Ok(())
}

fn tool(arguments: &[&str]) -> Result<()> {
    let (program, rest) = arguments.split_first().context("no program")?;
    let run = run(Command::new(program).args(rest))?;
    ensure!(run.code == 0, "{arguments:?}: {}{}", run.stdout, run.stderr);
    Ok(())
}

/// Pages that are pinned for devices, as far as the kernel counts them.
pub(crate) fn pinned() -> Result<i64> {
    let counters = read("/proc/vmstat")?;
    let counter = |name: &str| -> Result<i64> {
        let line = counters.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
    };
    Ok(counter("nr_foll_pin_acquired ")? - counter("nr_foll_pin_released ")?)
}

/// Soon no more pages are pinned than before.
pub(crate) fn nothing_is_pinned_since(before: i64) -> Result<()> {
    let deadline = Instant::now() + LONG;
    loop {
        let now = pinned()?;
        if now <= before {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} pages more are pinned than before",
            now - before
        );
        pause()?;
    }
}

fn handed_back(interface: &str) -> Result<()> {
    let before = pinned()?;
    for time in 0..TIMES {
        on_nvme(|nvme| {
            let mix = [
                "--workload",
                "mix",
                "--destroy-data",
                "--count",
                "3000",
                "--threads",
                "2",
                "--time",
                "60",
            ];
            example("nvme-perf", &[&[nvme, "--interface", interface][..], &mix].concat())?;
            Ok(())
        })?;
        works_for_the_kernel(&physical_function("nvme")?).with_context(|| format!("time {time}"))?;
    }
    nothing_is_pinned_since(before)
}

/// I/O that runs until something happens to it.
fn io(nvme: &str, interface: &str, wait: &str) -> Result<Background> {
    let mut io = Background::start(
        Command::new(program("nvme-perf")?)
            .args([nvme, "--interface", interface, "--wait", wait])
            .args(["--time", "600", "--threads", "2", "--depth", "16"])
            .args(["--workload", "mix", "--destroy-data"]),
    )?;
    io.wait_for("I/O begins", LONG)?;
    // Well under way.
    for _ in 0..50 {
        pause()?;
    }
    ensure!(io.is_running()?, "the I/O has ended by itself: {}", io.said()?);
    Ok(io)
}

const WAITS: [&str; 3] = ["poll", "interrupt", "adaptive"];

fn killed(interface: &str) -> Result<()> {
    let before = pinned()?;
    for wait in WAITS {
        on_nvme(|nvme| {
            io(nvme, interface, wait)?.kill()?;
            // At once again, by whatever comes next.
            example("nvme-perf", &[nvme, "--interface", interface, "--count", "1000"])?;
            io(nvme, interface, wait)?.kill()
        })?;
        works_for_the_kernel(&physical_function("nvme")?).context(wait)?;
    }
    nothing_is_pinned_since(before)
}

/// The program has said that the device is gone, and ended as programs do.
fn has_ended_well(io: Background) -> Result<()> {
    let ended = io.end(LONG)?;
    ensure!(ended.code == Some(1), "it ended with {:?}: {}", ended.code, ended.said);
    ensure!(
        ended.said.contains("the device is gone, or is to be given back") && !ended.said.contains("panicked"),
        "{}",
        ended.said
    );
    Ok(())
}

/// Writes an attribute in a thread: the kernel lets nobody go on before the device is closed.
fn written_meanwhile(path: PathBuf, value: String, io: Background) -> Result<()> {
    let writer = thread::spawn(move || write(path, &value));
    let ended = has_ended_well(io);
    let written = writer.join();
    ended?;
    written.unwrap_or_else(|_panic| bail!("the writer has panicked"))
}

fn unbound(interface: &str) -> Result<()> {
    let before = pinned()?;
    for wait in WAITS {
        on_nvme(|nvme| {
            let io = io(nvme, interface, wait)?;
            let unbind = Path::new("/sys/bus/pci/drivers/vfio-pci/unbind");
            written_meanwhile(unbind.to_path_buf(), nvme.to_owned(), io).context(wait)
        })?;
        works_for_the_kernel(&physical_function("nvme")?).context(wait)?;
    }
    nothing_is_pinned_since(before)
}

fn removed(interface: &str) -> Result<()> {
    let before = pinned()?;
    for wait in WAITS {
        let nvme = physical_function("nvme")?;
        done(&["bind", &nvme, "--driver", "vfio-pci"])?;
        let io = io(&nvme, interface, wait)?;
        let removed = written_meanwhile(dir(&nvme).join("remove"), "1".to_owned(), io);
        // It comes back as it came when the machine booted: with the kernel's own driver.
        write("/sys/bus/pci/rescan", "1")?;
        removed.context(wait)?;
        works_for_the_kernel(&nvme).context(wait)?;
    }
    nothing_is_pinned_since(before)
}

fn pulled_out_polled(interface: &str) -> Result<()> {
    lost(interface, "poll")
}

fn pulled_out(interface: &str) -> Result<()> {
    lost(interface, "interrupt")
}

/// As somebody does it who presses the slot's button first: the kernel asks for the device, and lets go of the slot once it was closed. What is
/// put in then works.
fn unplugged(interface: &str) -> Result<()> {
    let before = pinned()?;
    let mut monitor = Monitor::open()?;
    for wait in WAITS {
        let nvme = physical_function("nvme")?;
        done(&["bind", &nvme, "--driver", "vfio-pci"])?;
        let io = io(&nvme, interface, wait)?;
        monitor.execute("device_del", &json!({"id": NVME}))?;
        has_ended_well(io).context(wait)?;
        monitor.wait_for("DEVICE_DELETED", NVME).context(wait)?;
        ensure!(!dir(&nvme).exists(), "{wait}: {nvme} is still there");

        monitor.execute("device_add", &another_nvme())?;
        until_there(&nvme).context(wait)?;
        works_for_the_kernel(&nvme).context(wait)?;
    }
    nothing_is_pinned_since(before)
}

/// The controller in QEMU's words, and one like it: the namespace is its subsystem's, and stays.
const NVME: &str = "nvme0";

fn another_nvme() -> Value {
    json!({
        "driver": "nvme", "id": NVME, "bus": "rp0", "serial": "lab0", "subsys": "sub0",
        "sriov_max_vfs": 8, "sriov_vq_flexible": 16, "sriov_vi_flexible": 8, "max_ioqpairs": 26, "msix_qsize": 17,
    })
}

/// The kernel has found it, and given it to its own driver.
fn until_there(nvme: &str) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while link(nvme, "driver").as_deref() != Some("nvme") {
        ensure!(Instant::now() < deadline, "{nvme} does not come back");
        pause()?;
    }
    Ok(())
}

/// As somebody does it who asks nobody: the slot's power goes, behind the back of the kernel's driver of slots. With
/// power again, the device works.
fn lost(interface: &str, wait: &str) -> Result<()> {
    let before = pinned()?;
    let nvme = physical_function("nvme")?;
    done(&["bind", &nvme, "--driver", "vfio-pci"])?;
    let io = io(&nvme, interface, wait)?;
    let function = fs::canonicalize(dir(&nvme))?;
    let port = function.parent().context("no port above it")?.join("config");
    let port = File::options().read(true).write(true).open(port)?;
    let slot_control = u64::from(express(&port)?) + 0x18;
    let mut control = [0; 2];
    port.read_exact_at(&mut control, slot_control)?;
    // Power controller off, power indicator off (PCIe 6.0 §7.5.3.10): in QEMU the device answers nothing then.
    let off = u16::from_le_bytes(control) | 1 << 10 | 3 << 8;
    port.write_all_at(&off.to_le_bytes(), slot_control)?;
    has_ended_well(io)?;
    nothing_is_pinned_since(before)?;

    write(dir(&nvme).join("remove"), "1")?;
    // Power again: it comes back as it came when the machine booted.
    port.write_all_at(&control, slot_control)?;
    write("/sys/bus/pci/rescan", "1")?;
    works_for_the_kernel(&nvme)
}

/// Offset of the PCI Express capability.
fn express(config: &File) -> Result<u8> {
    let byte = |offset: u8| -> Result<u8> {
        let mut byte = [0];
        config.read_exact_at(&mut byte, offset.into())?;
        Ok(byte[0])
    };
    let mut at = byte(0x34)?;
    for _ in 0..48 {
        if byte(at)? == 0x10 {
            return Ok(at);
        }
        at = byte(at.checked_add(1).context("a capability at the end")?)?;
    }
    bail!("no PCI Express capability")
}

fn no_system_calls() -> Result<Outcome> {
    if Command::new("strace").arg("--version").output().is_err() {
        return Ok(Outcome::Skipped("strace is not installed on this machine".to_owned()));
    }
    on_nvme(|nvme| {
        for (threads, most) in [(1, 0), (2, 64)] {
            let (trace, program) = ("/tmp/trace", program("nvme-perf")?);
            let traced = run(Command::new("strace").args(["-f", "-o", trace]).arg(program).args([
                nvme,
                "--count",
                "20000",
                "--time",
                "120",
                "--threads",
                &threads.to_string(),
            ]))?;
            ensure!(traced.code == 0, "{}{}", traced.stdout, traced.stderr);
            let calls = read(trace)?;
            let during = calls.lines().skip_while(|line| !line.contains("I/O begins")).skip(1);
            let during: Vec<&str> = during.take_while(|line| !line.contains("I/O has ended")).collect();
            ensure!(calls.contains("I/O has ended"), "{calls}");
            // More than one thread begin together, and end; that has nothing to do with how much they do.
            ensure!(
                during.len() <= most,
                "{threads} threads, {} calls: {during:#?}",
                during.len()
            );
        }
        Ok(())
    })?;
    PASSED
}
