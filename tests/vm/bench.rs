//! How long bringing VFs up takes: by sriovctl, by bare writes to sysfs, and by a loop of driverctl, all in one run.
#![forbid(unsafe_code)]

#[path = "machine.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod machine;

use anyhow::{Context, Result, ensure};
use machine::{attribute, dir, done, link, physical_function, vfs, write};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The same by hand, without a process per VF: what an operator's script does.
const SCRIPT: &str = "echo 0 > sriov_drivers_autoprobe && cat sriov_totalvfs > sriov_numvfs && \
    for vf in virtfn*; do (cd -P $vf && echo vfio-pci > driver_override && echo ${PWD##*/} > /sys/bus/pci/drivers_probe) || exit 1; done";

/// How many VFs the loop of driverctl binds.
const FEW: usize = 16;

fn main() -> Result<()> {
    ensure!(
        std::env::var_os("LAB").is_some(),
        "this changes the machine it runs on: cargo lab bench runs it in the lab"
    );
    let pf = physical_function("nvme")?;
    let total = attribute(&pf, "sriov_totalvfs")?;
    let mut out = std::io::stdout().lock();
    let (mut shell, mut bare, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let script = format!("cd {} && {SCRIPT}", dir(&pf).display());
        let took = timed(|| command(Command::new("sh").args(["-c", &script])))?;
        check(&pf, total.parse()?)?;
        writeln!(out, "shell script: {total} VFs in {}", s(took))?;
        shell.push(took);
        delete(&pf)?;
        let (create, bind) = bare_writes(&pf, &total)?;
        let (took, create, bind) = (create + bind, s(create), s(bind));
        writeln!(
            out,
            "bare writes:  {total} VFs in {}, of which sriov_numvfs {create}, binding {bind}",
            s(took)
        )?;
        bare.push(took);
        delete(&pf)?;
        let took = timed(|| done(&["vf", "create", &pf, &total, "--driver", "vfio-pci"]).map(drop))?;
        check(&pf, total.parse()?)?;
        writeln!(out, "sriovctl:     {total} VFs in {}", s(took))?;
        ours.push(took);
        done(&["vf", "delete", &pf])?;
    }
    let least = |times: &[Duration]| times.iter().min().copied().unwrap_or_default();
    writeln!(
        out,
        "sriovctl / shell script, {total} VFs: {:.2}",
        ratio(least(&ours), least(&shell))
    )?;
    writeln!(
        out,
        "sriovctl / bare writes of one process, {total} VFs: {:.2}",
        ratio(least(&ours), least(&bare))
    )?;

    if !Path::new("/usr/sbin/driverctl").exists() {
        writeln!(out, "lab-skip: driverctl is not installed")?;
        return Ok(());
    }
    // driverctl asks modprobe for the driver, which is there; the lab has no index of modules that would say so.
    std::fs::copy("/bin/true", "/sbin/modprobe")?;
    let few = FEW.to_string();
    create_bare(&pf, &few)?;
    let theirs = timed(|| {
        vfs(&pf).iter().try_for_each(|vf| {
            command(Command::new("/usr/sbin/driverctl").args(["--nosave", "set-override", vf, "vfio-pci"]))
        })
    })?;
    check(&pf, FEW)?;
    delete(&pf)?;
    create_bare(&pf, &few)?;
    let ours = timed(|| done(&["bind", &format!("pf:{pf}"), "--driver", "vfio-pci"]).map(drop))?;
    check(&pf, FEW)?;
    delete(&pf)?;
    writeln!(
        out,
        "driverctl:   {FEW} VFs bound in {}, {} each",
        s(theirs),
        s(theirs / 16)
    )?;
    writeln!(
        out,
        "sriovctl:    {FEW} VFs bound in {}, {} each",
        s(ours),
        s(ours / 16)
    )?;
    writeln!(out, "driverctl / sriovctl, {FEW} VFs: {:.1}", ratio(theirs, ours))?;
    Ok(())
}

/// What a script without any care would do.
fn bare_writes(pf: &str, count: &str) -> Result<(Duration, Duration)> {
    let create = timed(|| create_bare(pf, count))?;
    let bind = timed(|| {
        vfs(pf).iter().try_for_each(|vf| {
            write(dir(vf).join("driver_override"), "vfio-pci")?;
            write("/sys/bus/pci/drivers_probe", vf)
        })
    })?;
    check(pf, count.parse()?)?;
    Ok((create, bind))
}

fn create_bare(pf: &str, count: &str) -> Result<()> {
    write(dir(pf).join("sriov_drivers_autoprobe"), "0")?;
    write(dir(pf).join("sriov_numvfs"), count)
}

fn delete(pf: &str) -> Result<()> {
    write(dir(pf).join("sriov_numvfs"), "0")?;
    write(dir(pf).join("sriov_drivers_autoprobe"), "1")
}

fn check(pf: &str, count: usize) -> Result<()> {
    let vfs = vfs(pf);
    ensure!(vfs.len() == count, "{} VFs, not {count}", vfs.len());
    let other = vfs.iter().find(|vf| link(vf, "driver").as_deref() != Some("vfio-pci"));
    ensure!(other.is_none(), "{} is not on vfio-pci", other.context("a VF")?);
    Ok(())
}

fn command(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

fn s(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
