//! `util`: manual pages and markdown, made from the definition of the command line.

use crate::args::{Cli, Util};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA_VERSION};
use crate::render::markdown;
use clap::CommandFactory as _;
use clap_mangen::Man;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Prints or writes documentation.
pub(crate) fn run(args: &Util, output: &mut Output) -> Outcome {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let text = match args {
        Util::Markdown => markdown::document(&command),
        Util::Man { dir: None } => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            String::from_utf8_lossy(&page).into_owned()
        }
        Util::Man { dir: Some(dir) } => {
            let mut files = Vec::new();
            let written = write_pages(&command, dir, &mut files);
            written.map_err(|error| {
                Failure::new(Exit::Failed, "io", error.to_string()).step(format!("write {}", dir.display()))
            })?;
            return list(&files, output);
        }
    };
    if output.is_json() {
        output.document(&Text {
            schema_version: SCHEMA_VERSION,
            text: &text,
        })?;
    } else {
        output.data().write_all(text.as_bytes())?;
    }
    Ok(Exit::Ok)
}

/// Writes the page of a command and those of its subcommands.
fn write_pages(command: &clap::Command, dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let page = Man::new(command.clone());
    let path = dir.join(page.get_filename());
    let mut file = File::create(&path)?;
    page.render(&mut file)?;
    file.flush()?;
    files.push(path);
    let mut below = command.get_subcommands().filter(|command| !command.is_hide_set());
    below.try_for_each(|command| write_pages(command, dir, files))
}

fn list(files: &[PathBuf], output: &mut Output) -> Outcome {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    if output.is_json() {
        output.document(&Files {
            schema_version: SCHEMA_VERSION,
            files: &files,
        })?;
    } else {
        for file in &files {
            writeln!(output.data(), "{file}")?;
        }
    }
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Text<'a> {
    schema_version: u32,
    text: &'a str,
}

#[derive(Serialize)]
struct Files<'a> {
    schema_version: u32,
    files: &'a [String],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_is_explained_in_its_manual_page() {
        fn check(command: &clap::Command) {
            let mut page = Vec::new();
            Man::new(command.clone()).render(&mut page).unwrap();
            let page = String::from_utf8(page).unwrap();
            // An argument without help is followed by nothing.
            assert!(!page.contains("\\fR\n\n.TP") && !page.contains("\\fR\n.TP"), "{page}");
            command
                .get_subcommands()
                .filter(|command| !command.is_hide_set())
                .for_each(check);
        }
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        check(&command);
    }
}
