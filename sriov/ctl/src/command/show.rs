//! `show`
use crate::args::Show;
use crate::failure::Outcome;
use crate::output::Output;
use crate::request::Settings;
pub(crate) fn run(_args: &Show, _settings: &Settings, _output: &mut Output) -> Outcome { Ok(crate::exit::Exit::Ok) }
