//! A guest that has an NVMe controller and a VF of a NIC at once: what it writes its host finds, and what becomes of them when its VMM is killed.

use crate::assign::guest;
use crate::background::{LONG, pause};
use crate::drivers::{Interface, block_device, on_both};
use crate::guest::boot;
use crate::machine::{dir, done, json, link, physical_function, vfs};
use crate::removal::{nothing_is_pinned_since, pinned, works_for_the_kernel};
use anyhow::{Context, Result, ensure};
use lab::case::Case;
use lab_init::disk;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::process::Command;
use std::time::Instant;

pub(crate) fn cases() -> Vec<Case> {
    on_both![
        "a_guest_reads_and_writes_an_nvme", 420, reads_and_writes;
        "a_killed_vmm_leaves_functions_that_work", 420, killed;
    ]
}

/// The controller, and a VF beside it, are for a guest meanwhile, and work for the kernel afterwards.
fn with_both(what: impl FnOnce(&str, &str) -> Result<()>) -> Result<()> {
    let (nvme, pf) = (physical_function("nvme")?, physical_function("igb")?);
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let vf = vfs(&pf).pop().context("no VF")?;
    done(&["bind", &nvme, "--driver", "vfio-pci"])?;
    let outcome = what(&nvme, &vf);
    let released = soon(|| done(&["release", &nvme]).and_then(|_| done(&["release", &vf])));
    let drivers = [&nvme, &vf].map(|function| link(function, "driver"));
    let deleted = done(&["vf", "delete", &pf]);
    outcome?;
    released?;
    deleted?;
    let are_the_kernels = drivers.each_ref().map(Option::as_deref) == [Some("nvme"), Some("igbvf")];
    ensure!(are_the_kernels, "the kernel does not take them: {drivers:?}");
    Ok(())
}

/// The kernel closes the files of a process that was killed after that has ended, and in nobody's sight.
fn soon<T>(what: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + LONG;
    loop {
        match what() {
            Err(_) if Instant::now() < deadline => pause()?,
            outcome => return outcome,
        }
    }
}

fn reads_and_writes(interface: &str) -> Result<()> {
    // Blocks of another time are not taken for those of this one.
    let seed = u64::from(std::process::id());
    let nvme = physical_function("nvme")?;
    let open = || -> Result<File> { Ok(File::options().read(true).write(true).open(block_device(&nvme)?)?) };
    disk::write(&open()?, disk::OF_HOST.start..disk::OF_GUEST.end, seed, disk::BY_HOST)?;
    let (kernel, initrd) = (std::env::var("LAB_KERNEL")?, std::env::var("LAB_GUEST_INITRD")?);
    let append = format!("console=ttyS0 quiet panic=-1 lab.role=guest lab.disk={seed}");
    with_both(|nvme, vf| {
        let guest = [
            "--memory", "512M", "--kernel", &kernel, "--initrd", &initrd, "--append", &append,
        ];
        let functions = ["run", nvme, vf, "--timeout", "120", "--interface", interface];
        let said = boot(&[&functions[..], &guest].concat())?;
        for (beginning, end) in [
            ("guest: igbvf took the function", ""),
            ("guest: ping ", "answered"),
            ("guest: /dev/nvme", "has what the host wrote"),
        ] {
            let is_it = |line: &str| line.starts_with(beginning) && line.contains(end);
            ensure!(said.lines().any(is_it), "no line `{beginning}…{end}`: {said}");
        }
        Ok(())
    })?;
    let disk = open()?;
    disk::check(&disk, disk::OF_HOST, seed, disk::BY_HOST).context("what the guest has only read")?;
    disk::check(&disk, disk::OF_GUEST, seed, disk::BY_GUEST).context("what the guest has written")
}

fn killed(interface: &str) -> Result<()> {
    let before = pinned()?;
    with_both(|nvme, vf| {
        let may_master = || -> Result<bool> {
            let config = fs::read(dir(nvme).join("config"))?;
            Ok(config.get(4).context("no command register")? & 4 != 0)
        };
        let mut run = Command::new("sriovctl");
        run.args(["run", nvme, vf, "--memory", "512M", "--interface", interface]);
        let guest = guest(&mut run)?;
        ensure!(may_master()?, "the guest does not drive {nvme}");
        ensure!(pinned()? > before, "no memory of the guest is pinned");
        let shown = json(&["show", vf])?;
        let holder = shown.pointer("/functions/0/held_by/0/pid").context("nobody holds it")?;
        let holder = holder.as_u64().and_then(|pid| i32::try_from(pid).ok());
        kill_process(holder.and_then(Pid::from_raw).context("no process")?, Signal::KILL)?;
        let ended = guest.end(LONG)?;
        let says_so = ended.code == Some(137) && ended.said.contains("SIGKILL");
        ensure!(says_so, "{:?}: {}", ended.code, ended.said);
        nothing_is_pinned_since(before)?;
        soon(|| {
            ensure!(!may_master()?, "{nvme} may still reach memory");
            Ok(())
        })
    })?;
    works_for_the_kernel(&physical_function("nvme")?)
}
