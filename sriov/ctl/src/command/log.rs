//! `log`: the operations of this boot, and what one of them changed.

use crate::args::Log;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use crate::render::table::Table;
use crate::request::Settings;
use crate::time;
use crate::view::step::{StepView, describe};
use serde::Serialize;
use sriov::{Action, Attribute, Binding, Change, Former, Journal, Operation, Stage, Status, Target};

/// Lists operations, or shows one.
pub(crate) fn run(args: &Log, settings: &Settings, output: &mut Output) -> Outcome {
    let journal = Journal::at(settings.journal());
    let operations = match args.operation {
        Some(id) => vec![journal.operation(Some(id)).map_err(Failure::from)?],
        None => journal.operations().map_err(Failure::from)?,
    };
    if output.is_json() {
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            operations: operations.iter().map(OperationView::from).collect(),
        })?;
        return Ok(Exit::Ok);
    }
    if operations.is_empty() {
        output.note("no operation since the machine was booted");
        return Ok(Exit::Ok);
    }
    let mut table = Table::aligned([
        ("id", true),
        ("started", false),
        ("status", false),
        ("changes", true),
        ("command", false),
    ]);
    for operation in &operations {
        let Operation { id, command, .. } = operation;
        let changes = operation.changes.len().to_string();
        table.row([
            &id.to_string(),
            &time::rfc3339(operation.started),
            status(operation.status),
            &changes,
            command,
        ]);
    }
    table.write(output.data(), true)?;
    if let (Some(_), Some(operation)) = (args.operation, operations.first()) {
        changes(operation).write(output.data(), true)?;
    }
    Ok(Exit::Ok)
}

/// What an operation changed, and how it was before.
pub(super) fn changes(operation: &Operation) -> Table {
    let mut table = Table::new(["function", "step", "before", "stage"]);
    for change in &operation.changes {
        if let Some(step) = operation.steps.get(change.step) {
            let (target, step) = (step.target.to_string(), describe(&step.action));
            // What was changed on a VF goes with the VF.
            let is_gone = operation.status == Status::Undone && change.stage != Stage::Undone;
            let stage = if is_gone { "gone" } else { stage(change.stage) };
            table.row([&target, &step, &former(&change.former), stage]);
        }
    }
    table
}

/// What undoing an operation would do, in that order.
pub(super) fn undoing(operation: &Operation) -> Table {
    let mut table = Table::new(["function", "undoes", "would restore"]);
    let pending = operation.changes.iter().filter(|change| change.stage != Stage::Undone);
    for change in pending.rev() {
        if let Some(step) = operation.steps.get(change.step) {
            let (target, action) = (step.target.to_string(), describe(&step.action));
            let former = match vanishes(operation, change.step, &step.target) {
                true => "nothing: the VF would go".to_owned(),
                false => former(&change.former),
            };
            table.row([&target, &action, &former]);
        }
    }
    table
}

/// Whether the target of a step is a VF that an earlier step created: undoing removes it.
fn vanishes(operation: &Operation, step: usize, target: &Target) -> bool {
    let creates = |change: &&Change| {
        let earlier = operation.steps.get(change.step).filter(|_| change.step < step);
        let sets_count = |action: &Action| {
            matches!(
                action,
                Action::Set {
                    attribute: Attribute::NumVfs,
                    ..
                }
            )
        };
        matches!(change.former, Former::Value(_))
            && earlier.is_some_and(|earlier| sets_count(&earlier.action) && earlier.target.anchor() == target.anchor())
    };
    matches!(target, Target::VirtualFunction { .. }) && operation.changes.iter().any(|change| creates(&change))
}

/// How an operation ended, for a sentence: `undone at 2026-11-22T14:02:05Z`.
pub(super) fn ending(operation: &Operation) -> String {
    let status = status(operation.status);
    operation.ended.map_or_else(
        || status.to_owned(),
        |ended| format!("{status} at {}", time::rfc3339(ended)),
    )
}

/// A former state in a few words.
fn former(former: &Former) -> String {
    match former {
        Former::Value(value) if value.is_empty() => "(none)".to_owned(),
        Former::Value(value) => value.clone(),
        Former::Binding(binding) => bound(binding),
        Former::VirtualFunctions(vfs) => {
            // Most VFs of a PF are bound alike.
            let mut kinds: Vec<(String, usize)> = Vec::new();
            for binding in &vfs.bindings {
                let text = bound(binding);
                match kinds.iter_mut().find(|kind| kind.0 == text) {
                    Some(kind) => kind.1 += 1,
                    None => kinds.push((text, 1)),
                }
            }
            let kinds: Vec<String> = kinds
                .into_iter()
                .map(|(text, count)| format!("{count} {text}"))
                .collect();
            format!("{} VFs: {}", vfs.bindings.len(), kinds.join("; "))
        }
    }
}

fn bound(binding: &Binding) -> String {
    let driver = binding
        .driver
        .as_deref()
        .map_or_else(|| "without driver".to_owned(), |driver| format!("on {driver}"));
    match binding.driver_override.as_str() {
        "" => driver,
        name => format!("{driver}, override {name}"),
    }
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Unfinished => "unfinished",
        Status::Done => "done",
        Status::Undone => "undone",
        Status::Abandoned => "abandoned",
    }
}

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Intended => "intended",
        Stage::Done => "done",
        Stage::Undone => "undone",
    }
}

#[derive(Serialize)]
struct Document {
    schema_version: u32,
    operations: Vec<OperationView>,
}

/// An operation of the journal.
#[derive(Serialize)]
pub(super) struct OperationView {
    id: u64,
    started: String,
    /// When it was done, undone or abandoned; `null` while it is unfinished.
    ended: Option<String>,
    command: String,
    status: &'static str,
    steps: Vec<StepView>,
    changes: Vec<ChangeView>,
}

#[derive(Serialize)]
struct ChangeView {
    /// Index into `steps`.
    step: usize,
    stage: &'static str,
    /// What `sriov_numvfs` and other attributes held.
    former_value: Option<String>,
    former_binding: Option<BindingView>,
    /// All VFs of a PF, by index.
    former_vfs: Option<Vec<BindingView>>,
}

#[derive(Serialize)]
struct BindingView {
    driver: Option<String>,
    /// Empty for none.
    driver_override: String,
}

impl From<&Operation> for OperationView {
    fn from(operation: &Operation) -> Self {
        Self {
            id: operation.id,
            started: time::rfc3339(operation.started),
            ended: operation.ended.map(time::rfc3339),
            command: operation.command.clone(),
            status: status(operation.status),
            steps: operation.steps.iter().map(StepView::from).collect(),
            changes: operation.changes.iter().map(ChangeView::from).collect(),
        }
    }
}

impl From<&Change> for ChangeView {
    fn from(change: &Change) -> Self {
        let (value, binding, vfs) = match &change.former {
            Former::Value(value) => (Some(value.clone()), None, None),
            Former::Binding(binding) => (None, Some(binding.into()), None),
            Former::VirtualFunctions(vfs) => {
                let bindings = vfs.bindings.iter().map(BindingView::from).collect();
                (Some(vfs.bindings.len().to_string()), None, Some(bindings))
            }
        };
        Self {
            step: change.step,
            stage: stage(change.stage),
            former_value: value,
            former_binding: binding,
            former_vfs: vfs,
        }
    }
}

impl From<&Binding> for BindingView {
    fn from(binding: &Binding) -> Self {
        Self {
            driver: binding.driver.clone(),
            driver_override: binding.driver_override.clone(),
        }
    }
}
