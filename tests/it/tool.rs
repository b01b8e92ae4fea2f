//! The tool itself, on generated machines and on this one.

mod json;
mod refusals;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// The tool as the lab gets it.
static SRIOVCTL: LazyLock<PathBuf> = LazyLock::new(|| lab::build_programs().unwrap().join("sriovctl"));

/// The most seconds that a run may take; `timeout` ends it then, and exits with 124.
const LIMIT_S: &str = "60";

/// What a run left.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the tool, on a captured machine if one is given.
fn sriovctl(arguments: &[&str], machine: Option<&Path>) -> Ran {
    let mut command = Command::new("timeout");
    command.arg(LIMIT_S).arg(&*SRIOVCTL).args(arguments);
    if let Some(root) = machine {
        command.arg("--sysroot").arg(root);
    }
    let output = command
        .stdin(Stdio::null())
        .env_remove("SRIOVCTL_SYSROOT")
        .output()
        .unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
