//! JSON of whole machines, read back by others.

use super::sriovctl;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use system_tests::tree::{Tree, server};

#[expect(clippy::print_stdout, reason = "how a test says that it was skipped")]
fn skip(reason: &str) {
    println!("lab-skip: {reason}");
}

/// The addresses in a document of `list`, which must be complete and valid.
fn addresses(text: &str) -> BTreeSet<String> {
    let document: Value = serde_json::from_str(text).unwrap();
    assert_eq!(document["schema_version"], 1);
    let functions = document["functions"].as_array().unwrap();
    let bdf = |function: &Value| function["bdf"].as_str().unwrap().to_owned();
    let addresses: BTreeSet<_> = functions.iter().map(bdf).collect();
    assert_eq!(addresses.len(), functions.len(), "a function comes twice");
    addresses
}

/// What `jq` makes of a document; `None` where it is not installed.
fn jq(filter: &str, document: &str) -> Option<String> {
    let mut command = Command::new("jq");
    command
        .args(["-e", "-r", filter])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let mut input = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(document.as_bytes()).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn list_of_4096_functions_is_one_valid_document() {
    // Thousands of small files: memory is quicker than a disk.
    let directory = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let nodes = server(4096);
    Tree::of(directory.path(), &nodes).unwrap();
    let ran = sriovctl(&["list", "--json"], Some(directory.path()));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let expected: BTreeSet<_> = nodes.iter().map(|node| node.bdf.to_string()).collect();
    assert_eq!(addresses(&ran.stdout), expected);
    match jq(".functions | length", &ran.stdout) {
        Some(count) => assert_eq!(count.trim(), "4096"),
        None => skip("jq is not installed; serde_json accepts the document"),
    }
}

#[test]
fn list_of_this_machine_is_one_valid_document() {
    let Ok(entries) = std::fs::read_dir("/sys/bus/pci/devices") else {
        return skip("this machine has no PCI bus");
    };
    let expected: BTreeSet<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    if expected.is_empty() {
        return skip("this machine has no PCI functions");
    }
    let ran = sriovctl(&["list", "--json"], None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(addresses(&ran.stdout), expected);
    if let Some(all) = jq(".functions[].bdf", &ran.stdout) {
        assert!(all.lines().eq(&expected), "{all}");
    }
}
