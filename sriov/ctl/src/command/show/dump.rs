//! `show -F`: functions out of the text of `lspci -x`, `-xxx` or `-xxxx`.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use crate::render::style;
use crate::render::table::printable;
use crate::selector::Selector;
use crate::view::config::Json;
use pci::Describe as _;
use pci::dump::{self, DumpedFunction};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

/// More than the dump of a machine with every function of 16 segments.
const LIMIT: u64 = 1 << 30;

/// Shows the functions of a dump, all or those of the given addresses.
pub(super) fn run(file: &Path, selectors: &[Selector], output: &mut Output) -> Outcome {
    let text = read(file).map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied {
            Exit::Denied
        } else {
            Exit::Failed
        };
        Failure::new(exit, "io", error.to_string()).step(format!("read {}", file.display()))
    })?;
    let all = dump::parse(&text)?;
    let (shown, unmatched) = select(&all, selectors)?;
    if shown.is_empty() {
        let missing = if unmatched.is_empty() {
            "any function".to_owned()
        } else {
            unmatched.join(", ")
        };
        return Err(Failure::new(
            Exit::NoMatch,
            "no_match",
            format!("the dump does not have {missing}"),
        ));
    }
    if output.is_json() {
        let values: Vec<_> = shown.iter().map(|function| function.config.describe()).collect();
        let functions = shown.iter().zip(&values).map(|(function, config)| View {
            bdf: function.bdf.to_string(),
            title: &function.title,
            config: Json(config),
        });
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            functions: functions.collect(),
            unmatched: &unmatched,
        })?;
    } else {
        let heading = style::HEADING;
        for (index, function) in shown.iter().enumerate() {
            let out = output.data();
            let separator = if index > 0 { "\n" } else { "" };
            writeln!(
                out,
                "{separator}{heading}{}{heading:#}  {}",
                function.bdf,
                printable(&function.title)
            )?;
            super::text::write_config(out, &function.config)?;
        }
        for selector in &unmatched {
            output.warn(format_args!("the dump does not have {selector}"));
        }
    }
    Ok(if unmatched.is_empty() {
        Exit::Ok
    } else {
        Exit::PartialMatch
    })
}

fn read(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        io::stdin().lock().take(LIMIT).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(LIMIT).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The functions of these addresses, in order of address, and the selectors that name none. A dump has no names.
fn select<'a>(
    all: &'a [DumpedFunction],
    selectors: &[Selector],
) -> Result<(Vec<&'a DumpedFunction>, Vec<String>), Failure> {
    let mut shown: Vec<&DumpedFunction> = Vec::new();
    let mut unmatched = Vec::new();
    for selector in selectors {
        let address = selector.address();
        let address =
            address.ok_or_else(|| Failure::usage(format!("{selector}: a dump is searched by address only")))?;
        let before = shown.len();
        shown.extend(all.iter().filter(|function| function.bdf == address));
        if shown.len() == before {
            unmatched.push(selector.to_string());
        }
    }
    if selectors.is_empty() {
        shown.extend(all);
    }
    shown.sort_by_key(|function| function.bdf);
    shown.dedup_by_key(|function| function.bdf);
    Ok((shown, unmatched))
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    functions: Vec<View<'a>>,
    unmatched: &'a [String],
}

#[derive(Serialize)]
struct View<'a> {
    bdf: String,
    title: &'a str,
    config: Json<'a>,
}
