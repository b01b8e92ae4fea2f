//! One module per command. Each takes its arguments and the settings, and writes through [`Output`].

mod assign;
mod change;
mod completion;
mod emit;
mod explain;
mod groups;
pub(crate) mod guest;
mod list;
mod log;
mod ready;
mod run;
mod show;
mod status;
mod token;
mod tree;
mod util;
pub(crate) mod vm;
pub(crate) mod worker;

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::Output;
use crate::request::{Request, Task};
use crate::selector::Selection;

/// Runs a request.
pub(crate) fn run(request: Request, output: &mut Output) -> Outcome {
    let Request { settings, task } = request;
    match task {
        Task::List(args) => list::run(args, &settings, output),
        Task::Tree(args) => tree::run(&args, &settings, output),
        Task::Show(args) => show::run(&args, &settings, output),
        Task::Groups(args) => groups::run(&args, &settings, output),
        Task::Status(args) => status::run(&args, &settings, output),
        Task::Change(change) => change::run(&change, &settings, output),
        Task::Undo(undo) => change::undo::run(&undo, &settings, output),
        Task::Log(args) => log::run(&args, &settings, output),
        Task::Emit(args) => emit::run(&args, &settings, output),
        Task::Run(args) => run::run(&args, &settings, output),
        Task::Assign(args) => assign::assign(&args, &settings, output),
        Task::Unassign(args) => assign::unassign(&args, &settings, output),
        Task::Explain(args) => explain::run(&args, output),
        Task::Completion(args) => completion::run(&args, output),
        Task::Util(args) => util::run(&args, output),
        Task::Worker => worker::run(&settings),
        Task::Guest(args) => guest::run(&args),
        Task::VmProcess(args) => vm::run(&args, output),
    }
}

/// How a reading command ends: says which selectors matched nothing.
fn finish(selection: &Selection, output: &mut Output) -> Exit {
    if !output.is_json() {
        for selector in &selection.unmatched {
            output.warn(format_args!("no function, or not every one, matches {selector}"));
        }
    }
    selection.exit()
}
