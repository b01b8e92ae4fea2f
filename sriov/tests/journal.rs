//! The journal's files: read back, torn, foreign, hostile.

#![cfg(test)]

mod common;

use common::{Lab, bdf, bind, create, machine, pf, plan, set};
use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, setrlimit};
use sriov::{Attribute, ErrorKind, Executor, Journal, Stage, Status, Target};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A new file: some file systems flush one that is cut to nothing and written again.
fn put(path: &Path, bytes: &[u8]) {
    drop(std::fs::remove_file(path));
    File::create_new(path).unwrap().write_all(bytes).unwrap();
}

fn get(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// A lab with one finished operation.
fn lab() -> Lab {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 2)).unwrap();
    lab
}

#[test]
fn operations_are_listed_oldest_first_with_what_they_did() {
    let mut lab = lab();
    let target = Target::Function(bdf("0000:03:00.0"));
    lab.apply(&plan(bind(target, "vfio-pci"))).unwrap();
    lab.undo().unwrap();
    let operations = lab.journal.operations().unwrap();
    let seen: Vec<_> = operations.iter().map(|o| (o.id, o.status)).collect();
    assert_eq!(seen, [(1, Status::Done), (2, Status::Undone)]);
    assert_eq!(operations[0].steps, create(pf(), 2).steps);
    assert_eq!(operations[0].command, "test");
    assert!(operations[0].started.elapsed().unwrap().as_secs() < 3600);
    // Autoprobe, count, override and probe of two VFs, autoprobe.
    assert_eq!(operations[0].changes.len(), 7);
    assert!(operations[0].changes.iter().all(|c| c.stage == Stage::Done));
    assert!(operations[1].changes.iter().all(|c| c.stage == Stage::Undone));
    // Undo without an id takes the next older one now.
    assert_eq!(lab.undo().unwrap().operation, 1);
}

#[test]
fn without_a_directory_there_are_no_operations() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::at(directory.path().join("absent"));
    assert_eq!(journal.operations().unwrap(), []);
    assert_eq!(journal.unfinished().unwrap(), None);
    let error = journal.operation(Some(3)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSuchOperation { operation: Some(3) });
}

#[test]
fn files_are_for_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(machine());
    lab.journal = Journal::at(directory.path().join("journal"));
    lab.apply(&create(pf(), 1)).unwrap();
    let mode = |path: &str| {
        std::fs::metadata(directory.path().join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("journal"), 0o700);
    assert_eq!(mode("journal/000001.jsonl"), 0o600);
}

#[test]
fn a_torn_tail_is_as_if_it_had_not_been_written() {
    let lab = lab();
    let whole = get(&lab.file(1));
    let mut last = 0;
    for len in 0..=whole.len() {
        put(&lab.file(1), &whole[..len]);
        let operations = lab.journal.operations().unwrap();
        let changes = operations.first().map_or(0, |o| o.changes.len());
        assert!(changes >= last);
        last = changes;
        let unfinished = lab.journal.unfinished().unwrap();
        assert_eq!(
            unfinished.is_some(),
            operations.first().is_some_and(|o| o.status == Status::Unfinished)
        );
        assert_eq!(unfinished.is_none(), operations.is_empty() || len == whole.len());
    }
    assert_eq!(last, 7);
}

#[test]
fn what_is_appended_after_a_torn_tail_is_whole() {
    let mut lab = lab();
    let mut torn = get(&lab.file(1));
    torn.truncate(torn.len() - 20);
    put(&lab.file(1), &torn);
    lab.undo().unwrap();
    assert_eq!(lab.journal.operation(Some(1)).unwrap().status, Status::Undone);
    assert_eq!(lab.machine.functions, machine().functions);
}

#[test]
fn a_line_that_makes_no_sense_is_an_error_that_names_the_file() {
    let step = |n: usize| format!("{{\"record\":\"intent\",\"step\":{n},\"former\":{{\"value\":\"0\"}}}}\n");
    let lab = lab();
    let whole = String::from_utf8(get(&lab.file(1))).unwrap();
    let begin = whole.split_inclusive('\n').next().unwrap();
    // Out of range; a wait; a binding's step with a value; twice a beginning; no beginning; no JSON.
    let steps = [step(99), step(2), step(5), begin.to_owned()];
    let mut cases: Vec<String> = steps.iter().map(|line| format!("{begin}{line}")).collect();
    cases.push(step(0));
    cases.push(format!("{begin}garbage\n"));
    for text in cases {
        put(&lab.file(1), text.as_bytes());
        let error = lab.journal.operations().unwrap_err();
        assert!(
            matches!(&error.kind, ErrorKind::Malformed { path, .. } if *path == lab.file(1)),
            "{text}"
        );
        assert!(lab.journal.unfinished().is_err());
    }
}

#[test]
fn foreign_files_are_no_operations() {
    let mut lab = lab();
    for name in ["notes.txt", "x.jsonl", "-1.jsonl", "99999999999999999999999.jsonl"] {
        put(&lab.directory.path().join(name), b"garbage\n");
    }
    assert_eq!(lab.journal.operations().unwrap().len(), 1);
    let next = plan(vec![set(Target::Function(pf()), Attribute::NumVfs, "0")]);
    assert_eq!(lab.apply(&next).unwrap().operation, Some(2));
}

#[test]
fn only_the_newest_operations_are_kept() {
    let mut lab = Lab::new(machine());
    for n in 0..120 {
        let count = if n % 2 == 0 { "1" } else { "0" };
        let step = set(Target::Function(pf()), Attribute::NumVfs, count);
        lab.apply(&plan(vec![step])).unwrap();
    }
    let ids: Vec<_> = lab.journal.operations().unwrap().iter().map(|o| o.id).collect();
    assert_eq!(ids, (21..=120).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..400) {
        let lab = lab();
        let mut text = get(&lab.file(1));
        text.truncate(cut);
        text.extend(bytes);
        put(&lab.file(1), &text);
        let all = lab.journal.operations();
        let one = lab.journal.unfinished();
        prop_assert!(all.is_ok() || one.is_err() || one == Ok(None));
    }
}

/// Not a check of its own: a process that may make no file larger than 6 KiB, which the journal soon is, until it undoes.
#[test]
fn process_without_room() {
    let Some(directory) = std::env::var_os("SRIOV_TEST_JOURNAL") else {
        return;
    };
    let limit_files = |current| {
        let maximum = None;
        setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
    };
    let (mut machine, journal) = (machine(), Journal::at(directory));
    let target = Target::Function(bdf("0000:03:00.0"));
    let names = ["vfio-pci", "pci-stub"].iter().cycle().take(40);
    let steps = names.map(|name| set(target, Attribute::DriverOverride, name));
    let mut progress = |progress: sriov::Progress<'_>| {
        if progress.undoing {
            limit_files(None);
        }
    };
    let mut guard = |_| Ok(());
    let mut executor = Executor::new(&mut machine, &journal, &mut guard, &mut progress);
    limit_files(Some(6 << 10));
    executor.apply(&plan(steps.collect()), "test").unwrap_err();
}

#[test]
fn a_line_for_which_there_was_no_room_does_not_spoil_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    // With the signal ignored the write that hits the limit is cut short, and then fails.
    let script = r#"trap '' XFSZ; exec "$0" --exact process_without_room"#;
    let mut child = Command::new("sh");
    child.args(["-c", script]).arg(std::env::current_exe().unwrap());
    child.env("SRIOV_TEST_JOURNAL", directory.path());
    assert!(child.output().unwrap().status.success());
    let operation = Journal::at(directory.path()).operation(Some(1)).unwrap();
    assert_eq!(operation.status, Status::Undone);
    assert!((1..operation.steps.len()).contains(&operation.changes.len()));
}
