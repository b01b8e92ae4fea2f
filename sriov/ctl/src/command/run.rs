//! `run`: boots a guest that has functions, in a VMM of this program's own or in QEMU.

use super::{emit, guest, ready, token};
use crate::args::{Device, Interface, Place, Run, VmmName};
use crate::column::Need;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use crate::request::Settings;
use crate::selector;
use crate::snapshot::Snapshot;
use pci::{Bdf, Fields, GroupId};
use serde::Serialize;
use sriov::Backend;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};
use vfio_core::VfToken;

mod child;
mod free;
mod nodes;
mod own;
mod places;
mod qemu;
mod terminal;

use child::{Ended, Signals, wait};

/// A function that the guest gets.
#[derive(Debug, Clone, Copy)]
struct Given {
    bdf: Bdf,
    group: GroupId,
    /// N of its `vfioN`.
    node: Option<u32>,
    /// The node of the host that it is near to.
    numa: Option<u32>,
    /// Where in the guest it goes, if that matters.
    place: Option<Place>,
    token: Option<VfToken>,
}

/// Checks that the guest can have the functions, and boots it.
pub(crate) fn run(args: &Run, settings: &Settings, output: &mut Output) -> Outcome {
    match args.vmm {
        VmmName::Qemu => {
            qemu::check(args)?;
            guest::check(&args.extra)?;
        }
        VmmName::Own => own::check(args)?,
    }
    let named = args.functions.iter().cloned().map(Device::from);
    let devices: Vec<_> = named.chain(args.device.iter().cloned()).collect();
    let fields = devices.iter().fold(Fields::NUMA | Fields::SRIOV, |fields, device| {
        fields | device.selector.fields()
    });
    let snapshot = Snapshot::read(&settings.sysfs, Snapshot::FREE | Need::fields(fields))?;
    let mut functions: Vec<Given> = Vec::new();
    let mut backends = Vec::new();
    for device in &devices {
        let bdf = selector::resolve_one(&device.selector, &snapshot.topology, &settings.sysfs)?;
        if functions.iter().any(|given| given.bdf == bdf) {
            return Err(Failure::usage(format!("{bdf} is named twice")));
        }
        let function = snapshot
            .topology
            .function(bdf)
            .ok_or_else(|| Failure::internal("a selected function is missing"))?;
        let group = ready::check(&snapshot, function, "run", None)?;
        let token = token::choose(&snapshot.topology, function, device.token, args.vf_token, "run")?;
        backends.push(emit::backend(&settings.sysfs, function, args.interface));
        functions.push(Given {
            bdf,
            group,
            node: emit::node(function),
            numa: function.numa_node.as_ref().ok().copied().flatten(),
            place: device.place,
            token,
        });
    }
    if args.vf_token.is_some() && functions.iter().all(|given| given.token.is_none()) {
        let failure = Failure::usage("--vf-token: none of the functions takes a VF token");
        return Err(failure.fix("leave it out: it is for VFs of a PF on a VFIO driver, and for PFs"));
    }
    // One for all: iommufd where every one of them has it.
    let has_iommufd = || {
        settings
            .sysfs
            .names("dev")
            .is_ok_and(|names| names.iter().any(|name| name == "iommu"))
    };
    let is_iommufd = match backends.as_slice() {
        [] => args.interface == Interface::Iommufd || (args.interface == Interface::Auto && has_iommufd()),
        backends => backends.iter().all(|backend| *backend == Backend::Iommufd),
    };
    let backend = if is_iommufd { Backend::Iommufd } else { Backend::Type1 };
    if !args.dry_run {
        snapshot.note_what_was_not_seen(output);
        free::wait(&functions, &snapshot, &settings.sysfs, output)?;
    }
    match args.vmm {
        VmmName::Qemu => qemu::run(args, &functions, backend, output),
        VmmName::Own => {
            let nodes = nodes::plan(args, nodes::of_host(&settings.sysfs).as_deref())?;
            own::run(
                args,
                nodes,
                &places::arrange(&functions)?,
                backend,
                settings.verbose,
                output,
            )
        }
    }
}

/// Waits for the process of a guest, and says how it went.
fn finish(
    child: Child,
    mut signals: Signals,
    program: &str,
    args: &Run,
    mut report: Report,
    output: &mut Output,
) -> Outcome {
    let start = Instant::now();
    let limit = args.timeout.map(Duration::from_secs);
    let refuse = |exit, kind, message| Failure::new(exit, kind, message).step(program);
    let ended = wait(child, limit, &mut signals);
    let status = match ended.map_err(|error| refuse(Exit::Failed, "guest", error.to_string()))? {
        Ended::Itself(status) => status,
        Ended::TimedOut => {
            let seconds = args.timeout.unwrap_or_default();
            let message = format!("the guest did not end within {seconds} s and was killed");
            return Err(refuse(Exit::Failed, "timed_out", message).fix("give it more time with --timeout"));
        }
        Ended::Signal { signal, was_killed } => {
            let how = if was_killed { "killed" } else { "ended" };
            let message = format!("interrupted, and the guest was {how}");
            let exit = Exit::Guest(u8::try_from(128 + signal).unwrap_or(u8::MAX));
            return Err(refuse(exit, "interrupted", message));
        }
    };
    let exit = Exit::Guest(exit_code(status));
    if let Some(signal) = status.signal() {
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("which has no name");
        let message = format!("the guest's process was killed by signal {signal} ({name}), and the guest with it");
        let fix =
            "see the kernel's log, which says whom it kills when memory is short; the functions can be used again";
        return Err(refuse(exit, "guest_killed", message).fix(fix));
    }
    if output.is_json() {
        report.exit_status = Some(exit.code());
        report.elapsed_ms = u64::try_from(start.elapsed().as_millis()).ok();
        output.document(&report)?;
    }
    Ok(exit)
}

fn watch_signals() -> Result<Signals, Failure> {
    Signals::watch().map_err(|error| Failure::internal(format!("cannot take signals: {error}")))
}

/// A KVM that cannot be opened.
fn no_kvm(error: &io::Error) -> Failure {
    let exit = if error.kind() == io::ErrorKind::PermissionDenied {
        Exit::Denied
    } else {
        Exit::Failed
    };
    let failure = Failure::new(exit, "no_kvm", error.to_string()).step("open /dev/kvm");
    failure.fix(
        "enable virtualisation in the firmware and load kvm_intel or kvm_amd, or emulate with --vmm qemu --accel tcg",
    )
}

/// As a shell would show it: 128 and the signal for a process that was killed.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    /// The first function.
    bdf: String,
    bdfs: Vec<String>,
    vmm: &'static str,
    interface: &'static str,
    command: Vec<String>,
    /// `null` with `--dry-run`.
    exit_status: Option<u8>,
    elapsed_ms: Option<u64>,
}

impl Report {
    fn new(vmm: &'static str, functions: &[Given], backend: Backend, command: Vec<String>) -> Self {
        let bdfs: Vec<String> = functions.iter().map(|given| given.bdf.to_string()).collect();
        Self {
            schema_version: SCHEMA_VERSION,
            bdf: bdfs.first().cloned().unwrap_or_default(),
            bdfs,
            vmm,
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
