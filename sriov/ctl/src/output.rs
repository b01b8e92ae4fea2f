//! Where a run writes: standard output for data, standard error for talk.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::render::{self, table::Table};
use anstream::{AutoStream, ColorChoice};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal as _, StderrLock, StdoutLock, Write};

/// The version of every JSON document. Within a version, fields are only added.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// The streams of a run and how to write to them.
pub(crate) struct Output {
    stdout: BufWriter<AutoStream<StdoutLock<'static>>>,
    stderr: AutoStream<StderrLock<'static>>,
    json: bool,
    pretty: bool,
    talks_to_terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool, color: ColorChoice) -> Self {
        let (stdout, stderr) = (io::stdout().lock(), io::stderr().lock());
        let resolve = |auto: ColorChoice| if color == ColorChoice::Auto { auto } else { color };
        // JSON has no colours, and so needs no search for those to take out.
        let out = if json {
            ColorChoice::AlwaysAnsi
        } else {
            resolve(AutoStream::choice(&stdout))
        };
        let err = resolve(AutoStream::choice(&stderr));
        Self {
            json,
            pretty: stdout.is_terminal(),
            talks_to_terminal: stderr.is_terminal(),
            stdout: BufWriter::with_capacity(1 << 16, AutoStream::new(stdout, out)),
            stderr: AutoStream::new(stderr, err),
        }
    }

    /// Whether the result is wanted as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches standard error.
    pub(crate) fn talks_to_terminal(&self) -> bool {
        self.talks_to_terminal
    }

    /// The stream for data.
    pub(crate) fn data(&mut self) -> &mut impl Write {
        &mut self.stdout
    }

    /// Writes a table. Its rows have no colours, and so need no search for those to take out.
    pub(crate) fn table(&mut self, table: &Table, with_header: bool) -> io::Result<()> {
        if with_header {
            table.write_header(&mut self.stdout)?;
        }
        self.stdout.flush()?;
        io::stdout().lock().write_all(table.body().as_bytes())
    }

    /// Says something on standard error, after what was written to standard output before.
    pub(crate) fn talk(&mut self, text: std::fmt::Arguments<'_>) {
        // A broken standard output is reported when the run ends. The reader of standard error may be gone too; the work
        // goes on all the same.
        drop(self.stdout.flush());
        // In one piece: others write to the same terminal.
        drop(self.stderr.write_all(text.to_string().as_bytes()));
    }

    /// Says something on standard error that the user should know but that fails nothing.
    pub(crate) fn note(&mut self, text: impl std::fmt::Display) {
        let style = render::style::NOTE;
        self.talk(format_args!("{style}note:{style:#} {text}\n"));
    }

    /// Warns on standard error.
    pub(crate) fn warn(&mut self, text: impl std::fmt::Display) {
        let style = render::style::WARNING;
        self.talk(format_args!("{style}warning:{style:#} {text}\n"));
    }

    /// Writes the one JSON document of the run.
    pub(crate) fn document(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let written = if self.pretty {
            serde_json::to_writer_pretty(&mut self.stdout, document)
        } else {
            serde_json::to_writer(&mut self.stdout, document)
        };
        written.map_err(io::Error::from)?;
        Ok(writeln!(self.stdout)?)
    }

    /// Ends the run: reports a failure, flushes, and settles the exit code.
    pub(crate) fn finish(mut self, outcome: Outcome) -> Exit {
        let outcome = outcome.and_then(|exit| self.stdout.flush().map(|()| exit).map_err(Failure::from));
        match outcome {
            Ok(exit) => exit,
            Err(failure) if failure.is_broken_pipe() => failure.exit,
            Err(failure) => self.report(&failure),
        }
    }

    fn report(&mut self, failure: &Failure) -> Exit {
        if !self.json {
            self.talk(format_args!("{}", render::error::Text(failure)));
            return failure.exit;
        }
        let written = self.document(&render::error::Document::new(failure));
        match written.and_then(|()| Ok(self.stdout.flush()?)) {
            Err(broken) if broken.is_broken_pipe() => return broken.exit,
            // Standard output takes nothing: the failure must not go unheard.
            Err(_) => self.talk(format_args!("{}", render::error::Text(failure))),
            Ok(()) => {}
        }
        failure.exit
    }
}
