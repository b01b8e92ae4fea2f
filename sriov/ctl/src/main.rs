//! Create, bind and hand out SR-IOV virtual functions: the command line over [`pci`] and [`sriov`].
//!
//! The flow of a run: [`args`] (what was typed) → [`request`] (what it means) → one of [`command`] → [`render`] → [`exit`].
//! Standard output carries data, standard error everything else.
#![forbid(unsafe_code)]

mod args;
mod class;
mod column;
mod command;
mod complete;
mod describe;
mod exit;
mod explain;
mod failure;
mod filter;
mod glob;
mod log;
mod output;
mod progress;
mod render;
mod request;
mod selector;
mod similar;
mod snapshot;
mod time;
mod view;

use anstream::ColorChoice;
use args::{Cli, Color};
use clap::{CommandFactory as _, Parser as _};
use exit::Exit;
use failure::{Failure, Outcome};
use output::Output;
use request::Request;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::process::ExitCode;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_defect));
    std::panic::catch_unwind(run).unwrap_or(Exit::Internal).into()
}

/// A panic is a defect of this program; who meets one should know what to do with it.
fn report_defect(panic: &PanicHookInfo<'_>) {
    // Nobody may be listening on standard error.
    drop(writeln!(
        log::Stderr,
        "error: a defect of sriovctl, please report it: {panic}"
    ));
}

fn run() -> Exit {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    clap_complete::CompleteEnv::with_factory(Cli::command)
        .var(complete::VARIABLE)
        .complete();
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => {
            log::show(cli.global.verbose);
            let mut output = Output::new(cli.global.json, color(cli.global.color));
            let outcome = Request::try_from(cli).and_then(|request| command::run(request, &mut output));
            output.finish(outcome)
        }
        Err(error) => unparsed(&arguments, &error),
    }
}

/// Help and version go to standard output and are a success; anything else is a wrong command line.
fn unparsed(arguments: &[OsString], error: &clap::Error) -> Exit {
    let has = |flag: &str| arguments.iter().any(|argument| argument == OsStr::new(flag));
    let color = arguments
        .iter()
        .find_map(|argument| argument.to_str()?.strip_prefix("--color="));
    let color = match color {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    };
    let mut output = Output::new(has("--json") && error.use_stderr(), color);
    let text = error.render();
    let outcome = if !error.use_stderr() {
        write_help(&mut output, &text)
    } else if output.is_json() {
        let text = text.to_string();
        Err(Failure::usage(
            text.trim().strip_prefix("error: ").unwrap_or(&text).trim(),
        ))
    } else {
        output.talk(format_args!("{}", text.ansi()));
        Ok(Exit::Usage)
    };
    output.finish(outcome)
}

fn write_help(output: &mut Output, text: &clap::builder::StyledStr) -> Outcome {
    write!(output.data(), "{}", text.ansi())?;
    Ok(Exit::Ok)
}

fn color(color: Color) -> ColorChoice {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
}
