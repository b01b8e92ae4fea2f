//! The process of a guest ends with the program that started it.

use crate::machine::{Ran, program};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

#[test]
fn a_guest_ends_with_a_program_that_is_killed() {
    let mut starter = Command::new("sh");
    let script = r#""$0" guest-process $$ -- sh -c 'echo $$; trap "" TERM HUP; exec sleep 600' & wait"#;
    starter
        .args(["-c", script, env!("CARGO_BIN_EXE_sriovctl")])
        .stdout(Stdio::piped());
    let mut starter = starter.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(starter.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let guest = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    let guest = pidfd_open(guest, PidfdFlags::empty()).unwrap();
    let ends_within = |seconds| {
        let limit = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(&guest, PollFlags::IN)], Some(&limit)).unwrap() == 1
    };
    assert!(!ends_within(0));
    starter.kill().unwrap();
    assert!(ends_within(60));
    starter.wait().unwrap();
}

#[test]
fn a_guest_whose_program_has_ended_is_not_started() {
    // The parent of this process is the test.
    let ran = program()
        .args(["guest-process", "1", "--", "echo", "started"])
        .output()
        .unwrap();
    let ran = Ran::from(ran);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(ran.stderr.contains("has ended"), "{}", ran.stderr);
}

#[test]
fn what_a_guest_is_given_reaches_it_unread() {
    let own = std::process::id().to_string();
    let arguments = ["guest-process", &own, "--", "echo", "--help", "-V", "--", "--json", "x"];
    let ran = Ran::from(program().args(arguments).output().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "--help -V -- --json x\n"));
    let absent = ["guest-process", &own, "--", "/nonexistent/qemu"];
    let ran = Ran::from(program().args(absent).output().unwrap());
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("start /nonexistent/qemu"), "{}", ran.stderr);
}
