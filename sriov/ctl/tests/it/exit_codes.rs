//! Every documented exit code that a captured machine can bring about. Read-back mismatch and rollback need a kernel that
//! refuses, and are tested with the conversion of errors.

use crate::machine::{Machine, Ran, program};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::unix::process::CommandExt as _;

fn code(machine: &Machine, arguments: &[&str]) -> i32 {
    machine.run(arguments).code.unwrap()
}

#[test]
fn success_is_0() {
    let machine = Machine::new();
    for arguments in [
        &["list"][..],
        &["tree"],
        &["show", "ens1f0"],
        &["groups"],
        &["status"],
        &["log"],
        &["--version"],
        &["--help"],
        &["explain", "S01"],
        &["completion", "zsh"],
        &["util", "man"],
        &["plan", "vf", "create", "ens1f0", "5"],
    ] {
        assert_eq!(code(&machine, arguments), 0, "{arguments:?}");
    }
}

#[test]
fn a_failure_is_1() {
    let machine = Machine::new();
    assert_eq!(code(&machine, &["plan", "vf", "create", "ens1f0", "3"]), 1);
    assert_eq!(code(&machine, &["run", "--vmm", "qemu", "01:01.2", "-N"]), 1);
    assert_eq!(code(&machine, &["show", "-F", "/nonexistent"]), 1);
    let no_machine = program().args(["--sysroot", "/nonexistent", "list"]).output().unwrap();
    assert_eq!(no_machine.status.code(), Some(1));
}

#[test]
fn a_wrong_command_line_is_2() {
    let machine = Machine::new();
    for arguments in [
        &[][..],
        &["lisst"],
        &["list", "--sort", "colour"],
        &["list", "--filter", "driver"],
        &["list", "a b"],
        &["list", "class:foo"],
        &["--output-version", "2", "list"],
        &["vf", "create", "ens1f0", "0"],
        &["vf", "create", "ens1f0", "70000"],
        &["bind", "ens1f0"],
        &["show"],
        &["emit", "xen", "ens1f0"],
        &["plan", "vf", "create", "pf:ens1f0", "1"],
    ] {
        assert_eq!(code(&machine, arguments), 2, "{arguments:?}");
    }
}

#[test]
fn a_captured_tree_cannot_be_changed() {
    let machine = Machine::new();
    for arguments in [
        &["vf", "create", "ens1f0", "5"][..],
        &["vf", "delete", "ens1f0"],
        &["bind", "01:01.4", "--driver", "vfio-pci"],
        &["unbind", "01:01.1"],
        &["release", "01:01.1"],
        &["undo"],
        &["run", "--vmm", "qemu", "01:01.1"],
    ] {
        let ran = machine.run(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}");
        assert!(ran.stderr.contains("--dry-run"), "{}", ran.stderr);
    }
    assert_eq!(
        code(&machine, &["bind", "01:01.4", "--driver", "vfio-pci", "--dry-run"]),
        0
    );
}

#[test]
fn a_reader_that_goes_away_is_3_and_no_message() {
    let machine = Machine::new();
    for arguments in [&["list"][..], &["list", "--json"], &["util", "markdown"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        // A child that another test is just starting may have it, too.
        poll(&mut [PollFd::new(&writer, PollFlags::empty())], None).unwrap();
        let ran = Ran::from(machine.command(arguments).stdout(writer).output().unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(3), ""), "{arguments:?}");
    }
}

/// As an ordinary user, whoever runs the tests.
fn unprivileged(arguments: &[&str]) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    // The directory of the build may be closed to others.
    let program_copy = directory.path().join("sriovctl");
    // By a process of its own: a descriptor of ours, open for writing, might be inherited by another test's child, and then
    // the copy could not be started.
    let mut copy = std::process::Command::new("cp");
    assert!(
        copy.arg(env!("CARGO_BIN_EXE_sriovctl"))
            .arg(&program_copy)
            .status()
            .unwrap()
            .success()
    );
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let mut command = std::process::Command::new(program_copy);
    command.args(arguments).env_clear().current_dir("/");
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        command.uid(65_534).gid(65_534);
    }
    Ran::from(command.output().unwrap())
}

#[test]
fn a_missing_privilege_is_13_before_anything_is_touched() {
    for arguments in [
        &["vf", "create", "ens1f0", "4"][..],
        &["vf", "delete", "ens1f0"],
        &["bind", "ens1f0", "--driver", "vfio-pci"],
        &["unbind", "ens1f0"],
        &["release", "ens1f0"],
        &["undo"],
        &["undo", "--forget"],
    ] {
        let ran = unprivileged(arguments);
        assert_eq!(ran.code, Some(13), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains("nothing was changed"), "{}", ran.stderr);
    }
    let error = unprivileged(&["--json", "unbind", "ens1f0"]).json();
    assert_eq!(error["error"]["exit_code"], 13);
}

#[test]
fn what_is_held_or_in_use_is_16() {
    let machine = Machine::new();
    assert_eq!(code(&machine, &["plan", "vf", "delete", "ens1f0"]), 16);
    assert_eq!(code(&machine, &["plan", "unbind", "01:01.0"]), 16);
    assert_eq!(code(&machine, &["plan", "unbind", "nvme0"]), 16);
    assert_eq!(code(&machine, &["run", "--vmm", "qemu", "01:01.0", "-N"]), 16);
    // Nobody holds a VF any more.
    assert_eq!(code(&Machine::without_holder(), &["plan", "unbind", "01:01.0"]), 0);
}

#[test]
fn check_is_22_where_there_is_something_to_do() {
    let machine = Machine::new();
    let bind = ["plan", "--check", "bind", "01:01.4", "--driver", "vfio-pci"];
    assert_eq!(code(&machine, &bind), 22);
    let bound = ["plan", "--check", "bind", "01:01.1", "--driver", "vfio-pci"];
    assert_eq!(code(&machine, &bound), 0);
    assert_eq!(code(&machine, &["plan", "bind", "01:01.4", "--driver", "vfio-pci"]), 0);
}

#[test]
fn no_match_is_32_and_a_partial_one_64() {
    let machine = Machine::new();
    for verb in [
        &["list"][..],
        &["tree"],
        &["show"],
        &["groups"],
        &["status"],
        &["emit", "qemu"],
    ] {
        let with = |selectors: &[&str]| code(&machine, &[verb, selectors].concat());
        assert_eq!(with(&["ens7"]), 32, "{verb:?}");
        assert_eq!(with(&["01:01.1", "ens7"]), 64, "{verb:?}");
    }
    assert_eq!(code(&machine, &["list", "--filter", "driver=none"]), 32);
    assert_eq!(code(&machine, &["plan", "unbind", "ens7"]), 32);
    assert_eq!(code(&machine, &["plan", "unbind", "01:01.1", "ens7"]), 64);
    assert_eq!(code(&machine, &["explain", "X99"]), 32);
}
