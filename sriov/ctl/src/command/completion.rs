//! `completion`: the script by which a shell asks this program for candidates.

use crate::args::{Completion, Shell};
use crate::complete::VARIABLE;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use clap_complete::env::Shells;
use serde::Serialize;
use std::io::Write as _;

/// Prints the script.
pub(crate) fn run(args: &Completion, output: &mut Output) -> Outcome {
    let name = match args.shell {
        Shell::Bash => "bash",
        Shell::Elvish => "elvish",
        Shell::Fish => "fish",
        Shell::Zsh => "zsh",
    };
    let shells = Shells::builtins();
    let shell = shells
        .completer(name)
        .ok_or_else(|| Failure::internal(format!("no completion for {name}")))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "sriovctl", "sriovctl", "sriovctl", &mut script)?;
    if output.is_json() {
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            shell: name,
            script: &String::from_utf8_lossy(&script),
        })?;
    } else {
        output.data().write_all(&script)?;
    }
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    shell: &'a str,
    script: &'a str,
}
