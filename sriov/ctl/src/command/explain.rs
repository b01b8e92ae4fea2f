//! `explain`: the knowledge base behind the codes of errors.

use crate::args::Explain;
use crate::exit::Exit;
use crate::explain::{self, ENTRIES, Entry};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use crate::render::style;
use crate::similar;
use serde::Serialize;
use std::io::Write as _;

/// Explains one code, or lists all.
pub(crate) fn run(args: &Explain, output: &mut Output) -> Outcome {
    let entries: Vec<&Entry> = match &args.code {
        Some(code) => vec![explain::find(code).ok_or_else(|| unknown(code))?],
        None => ENTRIES.iter().collect(),
    };
    if output.is_json() {
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            entries: entries.into_iter().map(View::from).collect(),
        })?;
        return Ok(Exit::Ok);
    }
    let heading = style::HEADING;
    for entry in &entries {
        if args.code.is_none() {
            writeln!(output.data(), "{heading}{}{heading:#}  {}", entry.code, entry.title)?;
            continue;
        }
        writeln!(output.data(), "{heading}{}: {}{heading:#}", entry.code, entry.title)?;
        for (label, text) in [("cause", entry.cause), ("check", entry.check), ("fix", entry.fix)] {
            writeln!(output.data(), "  {label:<5}  {}", wrap(text))?;
        }
    }
    Ok(Exit::Ok)
}

fn unknown(code: &str) -> Failure {
    let failure = Failure::new(Exit::NoMatch, "no_match", format!("no error has the code {code:?}"));
    let hint = similar::hint(&code.to_ascii_uppercase(), ENTRIES.iter().map(|entry| entry.code));
    failure.hint(hint.unwrap_or_else(|| "list all codes: sriovctl explain".to_owned()))
}

/// Lines of at most 100 characters below a label of nine.
fn wrap(text: &str) -> String {
    const WIDTH: usize = 91;
    let mut lines = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        if used > 0 && used + 1 + word.len() > WIDTH {
            lines.push_str("\n         ");
            used = 0;
        } else if used > 0 {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += word.len();
    }
    lines
}

#[derive(Serialize)]
struct Document {
    schema_version: u32,
    entries: Vec<View>,
}

#[derive(Serialize)]
struct View {
    code: &'static str,
    title: &'static str,
    cause: &'static str,
    check: &'static str,
    fix: &'static str,
}

impl From<&Entry> for View {
    fn from(entry: &Entry) -> Self {
        let Entry {
            code,
            title,
            cause,
            check,
            fix,
        } = *entry;
        Self {
            code,
            title,
            cause,
            check,
            fix,
        }
    }
}
