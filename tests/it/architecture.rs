//! The invariants of the workspace that a program can check: which crate may use which, and what must not occur in the sources.
//!
//! Every rule first rejects a sample that breaks it, so that a rule which can no longer fail is noticed.

mod code;
mod ledger;
mod manifests;
mod rule;
mod sources;

use rule::Rule;
use std::path::{Path, PathBuf};

/// The root of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A line that breaks a rule, as compilers spell it.
fn finding(path: &str, line: usize, says: &str) -> String {
    format!("{path}:{line}: {says}")
}

/// Fails with all findings.
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
