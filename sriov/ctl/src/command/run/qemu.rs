//! A guest in QEMU.

use super::{Given, Report, finish, no_kvm, watch_signals};
use crate::args::{Pin, Run};
use crate::command::guest;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use sriov::Backend;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::process::Stdio;

/// What only sriovctl's own VMM can do with is refused.
pub(super) fn check(args: &Run) -> Result<(), Failure> {
    let given = [
        (args.hugepages.is_some(), "--hugepages"),
        (args.pin != Pin::All, "--pin"),
        (args.control.is_some(), "--control"),
        (args.no_sandbox, "--no-sandbox"),
        (args.exit_port, "--exit-port"),
        (!args.numa.is_empty(), "--numa"),
        (args.device.iter().any(|device| device.place.is_some()), "slot="),
    ];
    match given.iter().find(|(is_given, _)| *is_given) {
        None => Ok(()),
        Some((_, option)) => {
            let failure = Failure::usage(format!("{option} is for sriovctl's own VMM"));
            Err(failure.fix("leave out --vmm qemu, or give QEMU its own arguments after --"))
        }
    }
}

/// Boots it.
pub(super) fn run(args: &Run, functions: &[Given], backend: Backend, output: &mut Output) -> Outcome {
    let arguments = arguments(args, functions, backend);
    let words = std::iter::once(args.qemu.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
    let command: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let report = Report::new("qemu", functions, backend, command);
    if args.dry_run {
        return report.write_command(output);
    }
    if args.accel == "kvm" {
        check_kvm()?;
    }
    if args.kernel.is_none() && args.extra.is_empty() {
        output.note("without --kernel the guest has nothing to boot and stays in its firmware: Ctrl-C ends it");
    }
    let mut command = guest::command(&args.qemu, &arguments)?;
    if output.is_json() {
        // Standard output is for the one document; the guest's console is talk.
        command.stdout(
            io::stderr()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| guest::failed(&args.qemu, &error))?,
        );
        command.stdin(Stdio::null());
    }
    // Before the guest, which no signal may leave behind.
    let signals = watch_signals()?;
    let child = command.spawn().map_err(|error| guest::failed(&args.qemu, &error))?;
    let program = args.qemu.display().to_string();
    finish(child, signals, &program, args, report, output)
}

/// Another way to run guest code must be asked for: it is slower by orders of magnitude.
fn check_kvm() -> Result<(), Failure> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(|error| no_kvm(&error))
}

/// The command line of QEMU without its name.
fn arguments(args: &Run, functions: &[Given], backend: Backend) -> Vec<OsString> {
    let machine = format!("q35,accel={}", args.accel);
    let cpu = if args.accel == "kvm" { "host" } else { "max" };
    let memory = args
        .memory
        .map_or_else(|| "1024M".to_owned(), |memory| memory.to_string());
    let cpus = args.cpus.unwrap_or(1).to_string();
    let fixed = ["-machine", &machine, "-cpu", cpu, "-m", &memory, "-smp", &cpus];
    let quiet = ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"];
    let mut arguments: Vec<OsString> = fixed.into_iter().chain(quiet).map(OsString::from).collect();
    let devices = sriov::qemu_devices(functions.iter().map(|given| (given.bdf, backend)));
    let mut tokens = functions.iter().map(|given| given.token);
    for word in devices.split_whitespace() {
        let is_device = word.starts_with("vfio-pci,");
        arguments.push(match is_device.then(|| tokens.next()).flatten().flatten() {
            Some(token) => format!("{word},vf-token={token}").into(),
            None => word.into(),
        });
    }
    let files = [("-kernel", args.kernel.as_deref()), ("-initrd", args.initrd.as_deref())];
    for (option, file) in files {
        if let Some(file) = file {
            arguments.extend([option.into(), file.into()]);
        }
    }
    if let Some(append) = &args.append {
        arguments.extend(["-append".into(), append.clone()]);
    }
    arguments.extend(args.extra.iter().cloned());
    arguments
}
