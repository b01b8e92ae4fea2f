//! `show`: everything that is known about functions, of this machine or of a dump of configuration space.

mod dump;
mod text;

use crate::args::Show;
use crate::column::Need;
use crate::failure::Outcome;
use crate::output::{Output, SCHEMA_VERSION};
use crate::request::Settings;
use crate::selector;
use crate::snapshot::Snapshot;
use crate::view::config::Json;
use crate::view::function::FunctionView;
use pci::{ConfigSpace, Describe as _, Fields, Reading};
use serde::Serialize;
use sriov::Usage;

/// Shows the selected functions.
pub(crate) fn run(args: &Show, settings: &Settings, output: &mut Output) -> Outcome {
    if let Some(file) = &args.from {
        return dump::run(file, &args.selectors, output);
    }
    let need = Need::names(Fields::all()) | Need::HOLDERS;
    let snapshot = Snapshot::read(&settings.sysfs, need)?;
    let selection = selector::resolve(&args.selectors, &snapshot.topology, &settings.sysfs)?;
    let usage = Usage::read(&settings.sysfs, &snapshot.topology);
    let functions = selection
        .functions
        .iter()
        .filter_map(|bdf| snapshot.topology.function(*bdf));
    let shown: Vec<Shown> = functions
        .map(|function| Shown {
            function: FunctionView::new(&snapshot, &usage, &settings.sysfs, function),
            config: function.config(&settings.sysfs),
        })
        .collect();

    if output.is_json() {
        let values: Vec<_> = shown
            .iter()
            .map(|shown| shown.config.as_ref().map(ConfigSpace::describe))
            .collect();
        let functions = shown.iter().zip(&values).map(|(shown, config)| JsonFunction {
            function: &shown.function,
            config: config.as_ref().ok().map(Json),
            config_unknown: config.as_ref().err().map(ToString::to_string),
        });
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            functions: functions.collect(),
            unmatched: &selection.unmatched,
        })?;
        return Ok(selection.exit());
    }
    for (index, shown) in shown.iter().enumerate() {
        text::write(shown, index > 0, output)?;
        if settings.verbose {
            for (field, reason) in shown.function.unknown.iter() {
                output.note(format_args!("{}: {field} is not known: {reason}", shown.function.bdf));
            }
        }
    }
    snapshot.note_what_was_not_seen(output);
    Ok(super::finish(&selection, output))
}

/// A function and its configuration space. Without privilege the kernel gives the first 64 bytes only.
struct Shown {
    function: FunctionView,
    config: Reading<ConfigSpace>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    functions: Vec<JsonFunction<'a>>,
    unmatched: &'a [String],
}

#[derive(Serialize)]
struct JsonFunction<'a> {
    #[serde(flatten)]
    function: &'a FunctionView,
    /// Decoded configuration space.
    config: Option<Json<'a>>,
    config_unknown: Option<String>,
}
