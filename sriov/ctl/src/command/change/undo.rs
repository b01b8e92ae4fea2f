//! `undo`: restores what an operation changed, or leaves the machine as it is and forgets the operation.

use super::session::{self, Session};
use crate::command::log::{self, OperationView};
use crate::describe::count;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use crate::request::{Consent, Mode, Settings, UndoTask};
use serde::Serialize;
use sriov::{Error, ErrorKind, Journal, Operation, Status};

/// Undoes an operation, or shows what that would restore.
pub(in crate::command) fn run(task: &UndoTask, settings: &Settings, output: &mut Output) -> Outcome {
    match &task.mode {
        Mode::Plan { .. } => dry_run(task.operation, settings, output),
        Mode::Apply(consent) if task.forget => forget(task.operation, consent, settings, output),
        Mode::Apply(consent) => undo(task.operation, consent, settings, output),
    }
}

fn dry_run(id: Option<u64>, settings: &Settings, output: &mut Output) -> Outcome {
    let journal = Journal::at(settings.journal());
    let operation = journal
        .operation(id)
        .map_err(|error| name_last(error.into(), &journal))?;
    if output.is_json() {
        document(&operation, None, None, output)?;
        return Ok(Exit::Ok);
    }
    if operation.status == Status::Undone {
        note_undone(&operation, output);
        return Ok(Exit::Ok);
    }
    output.note(format_args!(
        "operation {} would be undone in this order: {}",
        operation.id, operation.command
    ));
    log::undoing(&operation).write(output.data(), true)?;
    Ok(Exit::Ok)
}

fn note_undone(operation: &Operation, output: &mut Output) {
    let (id, ending) = (operation.id, log::ending(operation));
    output.note(format_args!(
        "nothing to do: operation {id} is {ending}: {}",
        operation.command
    ));
}

/// Adds to "no operation to undo" what became of the last one.
fn name_last(mut failure: Failure, journal: &Journal) -> Failure {
    if failure.kind == "no_such_operation"
        && let Ok(operations) = journal.operations()
        && let Some(last) = operations.iter().max_by_key(|operation| operation.id)
    {
        let Operation { id, command, .. } = last;
        failure = failure.hint(format!("the last operation, {id}, is {}: {command}", log::ending(last)));
    }
    failure
}

fn undo(id: Option<u64>, consent: &Consent, settings: &Settings, output: &mut Output) -> Outcome {
    session::require_root()?;
    let mut session = Session::resume(settings, consent, output)?;
    if let Some(id) = id
        && let Ok(operation) = session.journal().operation(Some(id))
        && operation.status == Status::Undone
        && !output.is_json()
    {
        note_undone(&operation, output);
        return Ok(Exit::Ok);
    }
    let undone = session.undo(id, settings, output);
    let undone = undone.map_err(|failure| name_last(failure, session.journal()))?;
    let operation = session.journal().operation(Some(undone.operation))?;
    if output.is_json() {
        document(&operation, Some(undone.restored), Some(false), output)?;
    } else {
        log::changes(&operation).write(output.data(), true)?;
        output.note(format_args!(
            "operation {} is undone: {} taken back",
            undone.operation,
            count(undone.restored, "change")
        ));
    }
    Ok(Exit::Ok)
}

fn forget(id: Option<u64>, consent: &Consent, settings: &Settings, output: &mut Output) -> Outcome {
    session::require_root()?;
    let session = Session::resume(settings, consent, output)?;
    let journal = session.journal();
    let unfinished = journal.unfinished()?.map(|operation| operation.id);
    let Some(id) = id.or(unfinished) else {
        return Err(Error::new(None, "journal", ErrorKind::NoSuchOperation { operation: None }).into());
    };
    let is_unfinished = journal.operation(Some(id))?.status == Status::Unfinished;
    journal.abandon(id)?;
    let operation = journal.operation(Some(id))?;
    if output.is_json() {
        document(&operation, Some(0), Some(is_unfinished), output)?;
    } else if !is_unfinished {
        output.note(format_args!("operation {id} is finished: there is nothing to forget"));
    } else {
        output.note(format_args!("operation {id} is forgotten; the machine stays as it is"));
    }
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Document {
    schema_version: u32,
    /// How many changes were taken back; `null` when nothing was tried.
    restored: Option<usize>,
    forgotten: Option<bool>,
    operation: OperationView,
}

fn document(
    operation: &Operation,
    restored: Option<usize>,
    forgotten: Option<bool>,
    output: &mut Output,
) -> Result<(), Failure> {
    output.document(&Document {
        schema_version: SCHEMA_VERSION,
        restored,
        forgotten,
        operation: operation.into(),
    })
}
