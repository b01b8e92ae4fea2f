//! `status`: who has which function in his hands.

use crate::args::Functions;
use crate::column::Need;
use crate::failure::Outcome;
use crate::output::{Output, SCHEMA_VERSION};
use crate::render::table::Table;
use crate::request::Settings;
use crate::selector;
use crate::snapshot::{self, Snapshot};
use crate::view::Unknowns;
use pci::{Bdf, Function};
use serde::Serialize;
use sriov::{Coverage, Holders, Journal, Process, Usage};
use std::collections::BTreeSet;

/// Shows functions that are on a VFIO driver, held by a process, or used by the machine.
pub(crate) fn run(args: &Functions, settings: &Settings, output: &mut Output) -> Outcome {
    let need = Snapshot::FREE | Need::fields(selector::fields(&args.selectors));
    let snapshot = Snapshot::read(&settings.sysfs, need)?;
    let selection = selector::resolve(&args.selectors, &snapshot.topology, &settings.sysfs)?;
    let usage = Usage::read(&settings.sysfs, &snapshot.topology);
    let functions = selection
        .functions
        .iter()
        .filter_map(|bdf| snapshot.topology.function(*bdf));
    let functions: Vec<View> = functions
        .filter_map(|function| View::new(&snapshot, &usage, function))
        .collect();
    let holders = snapshot.holders.as_ref();
    let processes = if args.selectors.is_empty() {
        processes(holders, None)
    } else {
        processes(holders, Some(&selection.functions))
    };
    let operation = if settings.sysfs.is_host() {
        unfinished(settings)
    } else {
        Ok(None)
    };

    if output.is_json() {
        let mut unknown = Unknowns::default();
        let operation = operation.unwrap_or_else(|reason| {
            unknown.insert("unfinished_operation", reason);
            None
        });
        output.document(&Document {
            schema_version: SCHEMA_VERSION,
            functions,
            processes,
            not_seen: NotSeen::from(holders.map(|holders| &holders.coverage)),
            uses_not_read: usage.unknown.iter().map(ToString::to_string).collect(),
            unfinished_operation: operation,
            unknown,
            unmatched: &selection.unmatched,
        })?;
        return Ok(selection.exit());
    }

    let mut table = Table::new(["bdf", "driver", "group", "state", "by"]);
    for function in &functions {
        function.add_to(&mut table);
    }
    if table.is_empty() {
        output.note("no function is on a VFIO driver, held or in use");
    } else {
        table.write(output.data(), true)?;
    }
    for process in processes
        .iter()
        .filter(|process| process.files.iter().all(|file| file.functions.is_empty()))
    {
        let files: Vec<&str> = process.files.iter().map(|file| file.path.as_str()).collect();
        output.note(format_args!(
            "{} (pid {}) has {} open",
            process.process,
            process.pid,
            files.join(", ")
        ));
    }
    snapshot.note_what_was_not_seen(output);
    for unknown in &usage.unknown {
        output.note(format_args!("some uses are not known: {unknown}"));
    }
    match operation {
        Ok(Some(id)) => output.warn(format_args!(
            "operation {id} is under way or was interrupted: sriovctl log {id}"
        )),
        Ok(None) => {}
        Err(reason) if settings.verbose => output.note(format_args!("the journal is not known: {reason}")),
        Err(_) => {}
    }
    Ok(super::finish(&selection, output))
}

fn unfinished(settings: &Settings) -> Result<Option<u64>, String> {
    let journal = Journal::at(settings.journal());
    let operation = journal.unfinished().map_err(|error| error.to_string())?;
    Ok(operation.map(|operation| operation.id))
}

/// The processes with VFIO files, of `functions` only where given.
fn processes(holders: Option<&Holders>, functions: Option<&BTreeSet<Bdf>>) -> Vec<ProcessView> {
    let processes = holders.map(|holders| holders.processes.as_slice()).unwrap_or_default();
    let is_wanted = |process: &&Process| {
        functions.is_none_or(|wanted| {
            process
                .files
                .iter()
                .flat_map(|f| &f.functions)
                .any(|f| wanted.contains(f))
        })
    };
    processes.iter().filter(is_wanted).map(ProcessView::from).collect()
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    functions: Vec<View>,
    processes: Vec<ProcessView>,
    not_seen: NotSeen,
    uses_not_read: Vec<String>,
    unfinished_operation: Option<u64>,
    unknown: Unknowns,
    unmatched: &'a [String],
}

#[derive(Serialize)]
struct View {
    bdf: String,
    driver: Option<String>,
    group: Option<u32>,
    /// `held`, `used`, `free`, or `blocked` when nobody has it and VFIO would not hand it out.
    state: &'static str,
    held_by: Vec<HeldBy>,
    used_for: Vec<String>,
}

#[derive(Serialize)]
struct HeldBy {
    pid: u32,
    process: String,
    fd: u32,
    through: String,
}

#[derive(Serialize)]
struct ProcessView {
    pid: u32,
    process: String,
    command_line: String,
    files: Vec<FileView>,
}

#[derive(Serialize)]
struct FileView {
    fd: u32,
    path: String,
    functions: Vec<String>,
}

/// What the scan for holders could not see: the number of processes, or everything.
#[derive(Serialize)]
struct NotSeen {
    processes: Option<usize>,
    hidden: bool,
    reason: Option<String>,
}

impl View {
    /// `None` for a function that nobody has and nobody prepared for a guest.
    fn new(snapshot: &Snapshot, usage: &Usage, function: &Function) -> Option<Self> {
        let bdf = function.bdf;
        let processes = snapshot
            .holders
            .as_ref()
            .map(|holders| holders.processes.as_slice())
            .unwrap_or_default();
        let files = processes
            .iter()
            .flat_map(|process| process.files.iter().map(move |file| (process, file)));
        let held_by = files
            .filter(|(_, file)| file.functions.contains(&bdf))
            .map(|(process, file)| HeldBy {
                pid: process.pid,
                process: process.command.clone(),
                fd: file.fd,
                through: file.path.display().to_string(),
            });
        let held_by: Vec<HeldBy> = held_by.collect();
        let used_for: Vec<String> = usage.of(bdf).iter().map(ToString::to_string).collect();
        let state = match (held_by.is_empty(), used_for.is_empty(), snapshot::is_on_vfio(function)) {
            (false, _, _) => "held",
            (true, false, _) => "used",
            (true, true, true) if snapshot.is_free(function) => "free",
            (true, true, true) => "blocked",
            (true, true, false) => return None,
        };
        Some(Self {
            bdf: bdf.to_string(),
            driver: function.driver.as_ref().ok().cloned().flatten(),
            group: function
                .iommu_group
                .as_ref()
                .ok()
                .and_then(Option::as_ref)
                .map(|group| group.0),
            state,
            held_by,
            used_for,
        })
    }

    /// One row for each holder and use; address and driver in the first one only.
    fn add_to(&self, table: &mut Table) {
        let held = self.held_by.iter().map(|holder| {
            let HeldBy {
                pid,
                process,
                fd,
                through,
            } = holder;
            format!("{process} (pid {pid}) fd {fd} {through}")
        });
        let mut by: Vec<String> = held.chain(self.used_for.iter().cloned()).collect();
        if by.is_empty() {
            by.push("-".to_owned());
        }
        let group = self.group.map_or_else(|| "-".to_owned(), |group| group.to_string());
        for (index, by) in by.iter().enumerate() {
            if index == 0 {
                table.row([&self.bdf, self.driver.as_deref().unwrap_or("-"), &group, self.state, by]);
            } else {
                table.row(["", "", "", "", by]);
            }
        }
    }
}

impl From<&Process> for ProcessView {
    fn from(process: &Process) -> Self {
        let files = process.files.iter().map(|file| FileView {
            fd: file.fd,
            path: file.path.display().to_string(),
            functions: file.functions.iter().map(ToString::to_string).collect(),
        });
        Self {
            pid: process.pid,
            process: process.command.clone(),
            command_line: process.command_line.clone(),
            files: files.collect(),
        }
    }
}

impl From<Option<&Coverage>> for NotSeen {
    fn from(coverage: Option<&Coverage>) -> Self {
        let (processes, hidden) = match coverage {
            Some(Coverage::Full) => (Some(0), false),
            Some(Coverage::Partial { unreadable, hidden }) => (Some(*unreadable), *hidden),
            Some(Coverage::Nothing(_)) | None => (None, true),
        };
        Self {
            processes,
            hidden,
            reason: coverage.and_then(snapshot::not_seen),
        }
    }
}
