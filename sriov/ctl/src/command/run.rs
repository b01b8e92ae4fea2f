//! `run`: boots a guest that has the function, with QEMU.

use super::{emit, guest, ready};
use crate::args::Run;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use crate::request::Settings;
use crate::selector;
use crate::snapshot::Snapshot;
use pci::Bdf;
use serde::Serialize;
use sriov::Backend;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

mod child;

use child::{Ended, Signals, wait};

/// Checks that the guest can have the function, and boots it.
pub(crate) fn run(args: &Run, settings: &Settings, output: &mut Output) -> Outcome {
    guest::check(&args.extra)?;
    let need = Snapshot::FREE | crate::column::Need::fields(args.function.fields());
    let snapshot = Snapshot::read(&settings.sysfs, need)?;
    let bdf = selector::resolve_one(&args.function, &snapshot.topology, &settings.sysfs)?;
    let function = snapshot
        .topology
        .function(bdf)
        .ok_or_else(|| Failure::internal("a selected function is missing"))?;
    ready::check(&snapshot, function, "run", None)?;
    let backend = emit::backend(&settings.sysfs, function, args.interface);
    let arguments = arguments(args, bdf, backend);
    let mut report = Report::new(args, bdf, backend, &arguments);
    if args.dry_run {
        return report.write_command(output);
    }
    if args.accel == "kvm" {
        check_kvm()?;
    }

    snapshot.note_what_was_not_seen(output);
    if args.kernel.is_none() && args.extra.is_empty() {
        output.note("without --kernel the guest has nothing to boot and stays in its firmware: Ctrl-C ends it");
    }
    let start = Instant::now();
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
    let mut signals = Signals::watch().map_err(|error| Failure::internal(format!("cannot take signals: {error}")))?;
    let child = command.spawn().map_err(|error| guest::failed(&args.qemu, &error))?;
    let limit = args.timeout.map(Duration::from_secs);
    let refuse = |exit, kind, message| {
        Failure::new(exit, kind, message)
            .device(bdf)
            .step(args.qemu.display().to_string())
    };
    let status = match wait(child, limit, &mut signals).map_err(|error| guest::failed(&args.qemu, &error))? {
        Ended::Itself(status) => status,
        Ended::TimedOut => {
            let seconds = args.timeout.unwrap_or_default();
            let message = format!("the guest did not end within {seconds} s and was killed");
            return Err(refuse(Exit::Failed, "timed_out", message).fix("give it more time with --timeout"));
        }
        Ended::Signal(signal) => {
            let message = "interrupted, and the guest was ended".to_owned();
            let exit = Exit::Guest(u8::try_from(128 + signal).unwrap_or(u8::MAX));
            return Err(refuse(exit, "interrupted", message));
        }
    };
    let exit = Exit::Guest(exit_code(status));
    if output.is_json() {
        report.exit_status = Some(exit.code());
        report.elapsed_ms = u64::try_from(start.elapsed().as_millis()).ok();
        output.document(&report)?;
    }
    Ok(exit)
}

/// Another way to run guest code must be asked for: it is slower by orders of magnitude.
fn check_kvm() -> Result<(), Failure> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied {
            Exit::Denied
        } else {
            Exit::Failed
        };
        let failure = Failure::new(exit, "no_kvm", error.to_string()).step("open /dev/kvm");
        failure.fix("enable virtualisation in the firmware and load kvm_intel or kvm_amd, or emulate with --accel tcg")
    })
}

/// The command line of QEMU without its name.
fn arguments(args: &Run, bdf: Bdf, backend: Backend) -> Vec<OsString> {
    let device = sriov::qemu_device(bdf, backend);
    let machine = format!("q35,accel={}", args.accel);
    let cpu = if args.accel == "kvm" { "host" } else { "max" };
    let (memory, cpus) = (args.memory.to_string(), args.cpus.to_string());
    let fixed = ["-machine", &machine, "-cpu", cpu, "-m", &memory, "-smp", &cpus];
    let quiet = ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"];
    let mut arguments: Vec<OsString> = fixed.into_iter().chain(quiet).map(OsString::from).collect();
    arguments.extend(device.split_whitespace().map(OsString::from));
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

/// As a shell would show it: 128 and the signal for a process that was killed.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    bdf: String,
    interface: &'static str,
    command: Vec<String>,
    /// `null` with `--dry-run`.
    exit_status: Option<u8>,
    elapsed_ms: Option<u64>,
}

impl Report {
    fn new(args: &Run, bdf: Bdf, backend: Backend, arguments: &[OsString]) -> Self {
        let words = std::iter::once(args.qemu.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
        let command: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        Self {
            schema_version: SCHEMA_VERSION,
            bdf: bdf.to_string(),
            interface: emit::name(backend),
            command,
            exit_status: None,
            elapsed_ms: None,
        }
    }

    fn write_command(&self, output: &mut Output) -> Outcome {
        if output.is_json() {
            output.document(self)?;
        } else {
            let words: Vec<String> = self.command.iter().map(|word| quote(word)).collect();
            writeln!(output.data(), "{}", words.join(" "))?;
        }
        Ok(Exit::Ok)
    }
}

/// A word as a shell takes it.
fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quote("host=0000:01:10.0"), "host=0000:01:10.0");
        assert_eq!(quote("console=ttyS0 quiet"), "'console=ttyS0 quiet'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
