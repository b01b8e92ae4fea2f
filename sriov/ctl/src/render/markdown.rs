//! The help of all commands as one markdown text.

use clap::{Arg, Command};
use std::fmt::{self, Display};

/// The document for a command and everything below it. The command must have been built.
pub(crate) fn document(command: &Command) -> String {
    Section { command, depth: 1 }.to_string()
}

struct Section<'a> {
    command: &'a Command,
    depth: usize,
}

impl Display for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, depth } = *self;
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
        writeln!(f, "{} {name}\n", "#".repeat(depth))?;
        if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
            writeln!(f, "{about}\n")?;
        }
        let usage = command.clone().render_usage().to_string();
        writeln!(f, "```text\n{}\n```\n", usage.trim_start_matches("Usage: "))?;
        // Global options are described once, at the top.
        let shown = |arg: &&Arg| !arg.is_hide_set() && (depth == 1 || !arg.is_global_set()) && arg.get_id() != "help";
        let mut arguments = command.get_arguments().filter(shown).peekable();
        if arguments.peek().is_some() {
            arguments.try_for_each(|argument| write_argument(f, argument))?;
            writeln!(f)?;
        }
        if let Some(after) = command.get_after_long_help() {
            writeln!(f, "```text\n{after}\n```\n")?;
        }
        let mut below = command.get_subcommands().filter(|command| !command.is_hide_set());
        below.try_for_each(|command| {
            Self {
                command,
                depth: depth + 1,
            }
            .fmt(f)
        })
    }
}

fn write_argument(f: &mut fmt::Formatter<'_>, argument: &Arg) -> fmt::Result {
    let names = argument.get_value_names().unwrap_or_default();
    let takes_value = argument.get_action().takes_values() || argument.is_positional();
    let value = if takes_value {
        names.iter().map(|name| format!("<{name}>")).collect()
    } else {
        Vec::new()
    };
    let flags = argument.get_short().map(|short| format!("-{short}"));
    let flags = flags
        .into_iter()
        .chain(argument.get_long().map(|long| format!("--{long}")));
    let spelling = [flags.collect::<Vec<_>>().join(", "), value.join(" ")];
    let spelling = spelling
        .iter()
        .filter(|part| !part.is_empty())
        .map(String::as_str)
        .collect::<Vec<_>>();
    let help = argument
        .get_long_help()
        .or_else(|| argument.get_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    write!(
        f,
        "- `{}`: {}",
        spelling.join(" "),
        help.replace("\n\n", ". ").replace('\n', " ")
    )?;
    let defaults = argument
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy());
    let defaults: Vec<_> = if takes_value { defaults.collect() } else { Vec::new() };
    if !defaults.is_empty() {
        write!(f, " (default: {})", defaults.join(", "))?;
    }
    if takes_value {
        let values = argument.get_possible_values();
        for value in values.iter().filter(|value| !value.is_hide_set()) {
            write!(f, "\n  - `{}`", value.get_name())?;
            if let Some(help) = value.get_help() {
                write!(f, ": {help}")?;
            }
        }
    }
    writeln!(f)
}
