//! Two at once: the second waits, or says who has it.

#![cfg(test)]

use sriov::{ErrorKind, Lock, Owner};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const NOT: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(30);

#[test]
fn the_second_is_told_who_has_the_lock() {
    let state = tempfile::tempdir().unwrap();
    let mut noticed = Vec::new();
    let mut notice = |owner: Option<&Owner>| noticed.push(owner.cloned());
    let _first = Lock::acquire(state.path(), "sriovctl vf create\n0000:01:00.0 4", NOT, &mut notice).unwrap();
    let second = Lock::acquire(state.path(), "sriovctl undo", Duration::from_millis(20), &mut notice);
    let owner = Some(Owner {
        pid: std::process::id(),
        command: "sriovctl vf create 0000:01:00.0 4".to_owned(),
    });
    let error = second.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("locked by sriovctl vf create 0000:01:00.0 4 (pid "),
        "{error}"
    );
    assert_eq!(error.kind, ErrorKind::Busy { owner: owner.clone() });
    assert_eq!(noticed, [owner]);
}

#[test]
fn the_second_goes_on_once_the_first_has_ended() {
    let state = tempfile::tempdir().unwrap();
    let mut first = Some(Lock::acquire(state.path(), "one with a long command line", NOT, &mut |_| {}).unwrap());
    let second = Lock::acquire(state.path(), "two", LONG, &mut |_| drop(first.take())).unwrap();
    let third = Lock::acquire(state.path(), "three", NOT, &mut |owner| {
        assert_eq!(owner.map(|o| o.command.as_str()), Some("two"));
    });
    assert!(third.is_err());
    drop(second);
    assert!(Lock::acquire(state.path(), "four", NOT, &mut |_| panic!("taken")).is_ok());
}

#[test]
fn the_directory_is_made_for_its_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let state = parent.path().join("a/b");
    let _lock = Lock::acquire(&state, "x", NOT, &mut |_| {}).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("lock")), 0o600);
    let error = Lock::acquire(&state.join("lock"), "x", NOT, &mut |_| {}).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Errno(_)), "{error}");
}
