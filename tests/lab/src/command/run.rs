//! `cargo lab run`: one command of the host inside the lab.

use super::{boot, exec, parts, say};
use anyhow::Result;
use lab::{Flavour, Machine, Output, build_programs};
use lab_init::Exit;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) fn run(
    machine: &Machine,
    kernel: Option<Flavour>,
    offline: bool,
    limit: Duration,
    argv: &[String],
) -> Result<ExitCode> {
    let programs = build_programs()?;
    let (qemu, kernel) = parts(kernel, offline)?;
    let mut vm = boot(&qemu, &kernel, machine)?;
    let command = exec(&qemu, &kernel, &programs, argv.to_vec());
    let finished = vm.run(&command, limit, pass_on)?;
    for (_, record) in finished.troubles() {
        say(&format!("lab: kernel: {}", record.text));
    }
    match &finished.exit {
        Exit::Code(_) => {}
        Exit::Signal(signal) => say(&format!("lab: {} was ended by signal {signal}", argv.join(" "))),
        Exit::NotStarted(why) => say(&format!("lab: {why}")),
    }
    vm.power_off();
    Ok(u8::try_from(finished.status()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Passes a piece of output on to the same stream here. A reader that went away is no reason to stop the command.
pub(crate) fn pass_on(output: &Output<'_>) {
    match output {
        Output::Stdout(bytes) => drop(std::io::stdout().lock().write_all(bytes)),
        Output::Stderr(bytes) => drop(std::io::stderr().lock().write_all(bytes)),
    }
}
