//! No operation takes more instructions than before, and none of a data path takes memory.

use benches::counts;
use std::process::Command;

/// Instructions of optimised code are counted, whatever the tests are built as.
#[test]
#[expect(clippy::print_stdout, reason = "why it is left out")]
fn no_operation_has_become_dearer() {
    if let Some(reason) = counts::incomparable(counts::file()).unwrap() {
        println!("lab-skip: {reason}");
        return;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "benches",
            "--bin",
            "counts",
            "--",
            "--check",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
}
