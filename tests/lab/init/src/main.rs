//! The first process of the lab's machine, and of the guests that run inside it.
//!
//! In the lab (`lab.role=machine`, the default) it mounts the host's root read-only with a scratch layer on top, and serves
//! commands from the control port. In a guest (`lab.role=guest`) it reports what it sees of the function it was given, pings
//! over it and powers off. As process 1 it reaps orphans; the work is done by a child of itself.
#![forbid(unsafe_code)]

mod agent;
mod console;
mod guest;
mod kmsg;
mod mounts;
mod ping;

use anyhow::{Context, Result};
use rustix::process::{WaitOptions, getpid, wait};
use rustix::system::{RebootCommand, reboot};
use std::process::Command;

fn main() {
    let argument = std::env::args().nth(1);
    let result = match argument.as_deref() {
        Some("agent") => agent::serve(),
        Some("guest") => guest::report(),
        _ if getpid().is_init() => first_process(),
        _ => Err(anyhow::anyhow!(
            "this program is the first process of the lab's machine; run `cargo lab shell` instead"
        )),
    };
    if let Err(error) = result {
        console::say(&format!("lab-init: {error:#}"));
        if getpid().is_init() {
            power_off();
        }
    }
}

/// Mounts, loads modules, starts the role's process and reaps until that one ends; then powers off.
fn first_process() -> Result<()> {
    mounts::kernel_filesystems()?;
    let mut problems = mounts::load_modules();
    let role = if mounts::command_line()?.contains("lab.role=guest") {
        "guest"
    } else {
        "agent"
    };
    if role == "agent" {
        problems.extend(mounts::tolerate_tsc().err().map(|error| format!("{error:#}")));
        rustix::system::sethostname(b"lab")?;
        mounts::host_root()?;
    }
    for problem in &problems {
        console::say(&format!("lab-init: {problem}"));
    }
    let child = Command::new("/proc/self/exe")
        .arg(role)
        .args(&problems)
        .spawn()
        .context("start the role's process")?;
    while let Ok(Some((pid, _))) = wait(WaitOptions::empty()) {
        if u32::try_from(pid.as_raw_nonzero().get()) == Ok(child.id()) {
            break;
        }
    }
    power_off();
    Ok(())
}

fn power_off() {
    rustix::fs::sync();
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        console::say(&format!("lab-init: power off: {error}"));
    }
}
