//! `cargo lab shell`: a terminal inside the lab.

use super::{exec, parts, say};
use anyhow::{Result, bail};
use lab::{Flavour, Machine, Vm, build_programs};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) fn run(machine: &Machine, kernel: Option<Flavour>, offline: bool, limit: Duration) -> Result<ExitCode> {
    if !std::io::stdin().is_terminal() {
        bail!("standard input is no terminal\n  fix      use `cargo lab run -- COMMAND`");
    }
    let programs = build_programs()?;
    let (qemu, kernel) = parts(kernel, offline)?;
    say("lab: coming up; leave the shell with `exit`");
    let mut vm = Vm::boot(&qemu, &kernel, machine, true)?;
    let shell = if std::path::Path::new("/bin/bash").exists() {
        "/bin/bash"
    } else {
        "/bin/sh"
    };
    let mut command = exec(&qemu, &kernel, &programs, vec![shell.to_owned(), "-i".to_owned()]);
    command.interactive = true;
    let finished = vm.run(&command, limit, |_| {})?;
    vm.power_off();
    Ok(u8::try_from(finished.status()).map_or(ExitCode::FAILURE, ExitCode::from))
}
