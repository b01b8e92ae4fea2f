//! One module per command. Each takes its arguments and the settings, and writes through [`Output`].

mod completion;
mod explain;
mod list;
mod tree;
mod util;
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
        Task::Completion(args) => completion::run(&args, output),
        Task::Util(args) => util::run(&args, output),
        Task::Explain(args) => explain::run(&args, output),
        _ => Ok(Exit::Ok),
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
