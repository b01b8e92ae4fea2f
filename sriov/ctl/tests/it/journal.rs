//! What earlier operations mean for later commands: log, dry undo, refusals.

use crate::machine::{Machine, Ran, program};
use std::path::Path;

/// An operation that was interrupted between its second intent and its end, and one that is done.
const DONE: &str = r#"{"record":"begin","id":1,"time":1800000000,"command":"sriovctl unbind ens1f0#0","steps":[{"target":{"function":"0000:01:01.0"},"action":"unbind"}]}
{"record":"intent","step":0,"former":{"binding":{"driver":"iavf","driver_override":""}}}
{"record":"done","step":0}
{"record":"end","status":"done"}
"#;

fn machine_with(journal: &str) -> Machine {
    let machine = Machine::new();
    machine.write("state/journal/000001.jsonl", journal);
    machine
}

#[test]
fn log_and_dry_undo_tell_what_was_and_what_would_be() {
    let machine = machine_with(DONE);
    let texts = [&["log"][..], &["log", "1"], &["undo", "-N"]].map(|arguments| machine.run(arguments).all());
    insta::assert_snapshot!(texts.join("\n"));
    let log = machine.run(&["log", "--json"]).json();
    let change = &log["operations"][0]["changes"][0];
    assert_eq!(change["former_binding"]["driver"], "iavf");
    assert!(change["former_value"].is_null());
}

/// VFs created, and one of them bound.
const CREATED: &str = r#"{"record":"begin","id":1,"time":1800000000,"command":"sriovctl vf create ens1f0 1 --driver vfio-pci","steps":[{"target":{"function":"0000:01:00.0"},"action":{"set":{"attribute":"sriov_drivers_autoprobe","value":"0"}}},{"target":{"function":"0000:01:00.0"},"action":{"set":{"attribute":"sriov_numvfs","value":"1"}}},{"target":{"virtual_function":{"pf":"0000:01:00.0","index":0}},"action":{"set":{"attribute":"driver_override","value":"vfio-pci"}}}]}
{"record":"intent","step":0,"former":{"value":"1"}}
{"record":"done","step":0}
{"record":"intent","step":1,"former":{"value":"0"}}
{"record":"done","step":1}
{"record":"intent","step":2,"former":{"value":""}}
{"record":"done","step":2}
{"record":"end","status":"done"}
"#;

#[test]
fn a_dry_undo_lists_what_would_be_done_last_change_first() {
    let ran = machine_with(CREATED).run(&["undo", "-N"]);
    insta::assert_snapshot!(ran.all());
}

#[test]
fn to_undo_what_is_undone_says_which_operation_and_since_when() {
    let undone = r#"{"record":"undo"}
{"record":"undone","step":0}
{"record":"end","status":"undone","time":1800000100}
"#;
    let machine = machine_with(&format!("{DONE}{undone}"));
    let when = "1, is undone at 2027-01-15T08:01:40Z: sriovctl unbind ens1f0#0";
    let newest = machine.run(&["undo", "-N"]);
    assert_eq!(newest.code, Some(1));
    assert!(newest.stderr.contains(when), "{}", newest.stderr);
    let named = machine.run(&["undo", "1", "-N"]);
    assert_eq!((named.code, named.stdout.as_str()), (Some(0), ""));
    let when = "nothing to do: operation 1 is undone at 2027-01-15T08:01:40Z: sriovctl unbind ens1f0#0";
    assert!(named.stderr.contains(when), "{}", named.stderr);
    let log = machine.run(&["log", "--json"]).json();
    assert_eq!(log["operations"][0]["ended"], "2027-01-15T08:01:40Z");
    if rustix::process::geteuid().is_root() {
        let mut command = program();
        command
            .args(["undo", "1", "--state-dir"])
            .arg(machine.root().join("state"));
        let ran = Ran::from(command.output().unwrap());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stderr.contains(when), "{}", ran.stderr);
    }
}

#[test]
fn an_operation_that_is_not_there_is_an_error() {
    let ran = machine_with(DONE).run(&["log", "7"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("no operation 7"), "{}", ran.stderr);
}

/// Runs a change that resolves to nothing, with this state directory, as root. `None` for others: they are refused before.
fn change(state: &Path) -> Option<Ran> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let mut command = program();
    command
        .args(["--json", "unbind", "no-such-interface", "--wait", "0", "--state-dir"])
        .arg(state);
    Some(Ran::from(command.output().unwrap()))
}

#[test]
fn an_interrupted_operation_is_in_the_way_of_changes() {
    let unfinished = DONE.lines().take(2).map(|line| format!("{line}\n")).collect::<String>();
    let machine = machine_with(&unfinished);
    let status = machine.run(&["log"]);
    assert!(status.stdout.contains("unfinished"), "{}", status.stdout);
    let Some(ran) = change(&machine.root().join("state")) else {
        return;
    };
    let error = &ran.json()["error"];
    assert_eq!(
        (ran.code, error["kind"].as_str(), error["code"].as_str()),
        (Some(1), Some("unfinished"), Some("U01"))
    );
    assert!(error["fix"].as_str().unwrap().contains("sriovctl undo 1"), "{error}");
}

#[test]
fn another_run_is_named_when_its_lock_is_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let mut ignored = |_: Option<&sriov::Owner>| {};
    let lock = sriov::Lock::acquire(
        directory.path(),
        "sriovctl bind",
        std::time::Duration::ZERO,
        &mut ignored,
    )
    .unwrap();
    if let Some(ran) = change(directory.path()) {
        assert_eq!(ran.code, Some(16), "{ran:?}");
        let error = &ran.json()["error"];
        assert_eq!(error["kind"], "busy");
        assert!(error["message"].as_str().unwrap().contains("sriovctl bind"), "{error}");
    }
    drop(lock);
    if let Some(ran) = change(directory.path()) {
        assert_eq!(ran.code, Some(32), "{ran:?}");
    }
}
