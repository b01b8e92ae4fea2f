//! Cases in processes of their own, and their results as TAP.

use crate::complaints::Complaints;
use crate::machine::Snapshot;
use crate::stage::{Stage, Staged};
use anyhow::{Context, Result, ensure};
use lab::Machine;
use lab::case::Outcome;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, setrlimit};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Exit status of a skipped case.
const SKIPPED: u8 = 77;

/// The cases beside one program of the kernel's.
pub(crate) struct File {
    /// The program's name.
    pub(crate) name: &'static str,
    pub(crate) machine: Machine,
    /// How the machine is prepared.
    pub(crate) stage: Stage,
    pub(crate) cases: Vec<Case>,
    /// Time limit of the whole file in seconds.
    pub(crate) limit_s: u64,
    /// Arguments of the kernel's program that leave out what takes long.
    pub(crate) short: &'static [&'static str],
    /// Why cases of the kernel's program fail, in brackets, where they do.
    pub(crate) remark: &'static str,
}

/// One case.
pub(crate) struct Case {
    pub(crate) name: String,
    run: Box<Run>,
    /// Whether the library may say that it could not give something back.
    may_leak: bool,
}

type Run = dyn Fn(&Staged) -> Result<Outcome>;

/// How long one case may take; the kernel's harness gives 30 s.
const CASE_LIMIT: Duration = Duration::from_secs(90);

impl Case {
    pub(crate) fn new(name: impl Into<String>, run: impl Fn(&Staged) -> Result<Outcome> + 'static) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
            may_leak: false,
        }
    }

    /// A case that makes giving back fail too.
    pub(crate) fn that_may_leak(self) -> Self {
        Self { may_leak: true, ..self }
    }
}

/// Prints the files as the lab reads them.
pub(crate) fn list(files: &[File]) -> Result<ExitCode> {
    let files: Vec<lab::conformance::File> = files
        .iter()
        .map(|file| lab::conformance::File {
            name: file.name.to_owned(),
            machine: file.machine.clone(),
            cases: file.cases.iter().map(|case| case.name.clone()).collect(),
            limit_s: file.limit_s,
            remark: file.remark.to_owned(),
            short: file.short.iter().map(|argument| (*argument).to_owned()).collect(),
        })
        .collect();
    serde_json::to_writer(std::io::stdout().lock(), &files)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the cases of a file whose names contain `filter`.
pub(crate) fn ours(file: &File, filter: Option<&str>) -> Result<ExitCode> {
    let chosen: Vec<&Case> = file
        .cases
        .iter()
        .filter(|case| filter.is_none_or(|filter| case.name.contains(filter)))
        .collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "TAP version 13\n1..{}", chosen.len())?;
    prepared(file.stage, |staged| {
        for (number, case) in (1..).zip(&chosen) {
            let start = Instant::now();
            let (line, said) = match in_a_child(file, case, staged) {
                Ok((0, _)) => (format!("ok {number} {}", case.name), String::new()),
                Ok((code, said)) if code == i32::from(SKIPPED) => (
                    format!("ok {number} {} # SKIP {}", case.name, said.trim()),
                    String::new(),
                ),
                Ok((code, said)) => (format!("not ok {number} {}", case.name), format!("exit {code}\n{said}")),
                Err(error) => (format!("not ok {number} {}", case.name), format!("{error:#}")),
            };
            for said in said.lines() {
                writeln!(out, "# {said}")?;
            }
            writeln!(out, "{line}\n# {:.2} s", start.elapsed().as_secs_f64())?;
            out.flush()?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the kernel's program in the same surroundings; its output is passed on.
pub(crate) fn theirs(file: &File, program: &str, arguments: &[&str]) -> Result<ExitCode> {
    let mut code = None;
    prepared(file.stage.without_vf(), |staged| {
        let mut command = Command::new(program);
        command.args(arguments);
        command.args(staged.functions().map(|bdf| bdf.to_string()));
        if file.stage == Stage::FunctionWithVf {
            staged.allow_vfs()?;
        }
        let status = command
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("start {program}"))?;
        code = status.code();
        Ok(())
    })?;
    let code = code.and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Runs one case in this process.
pub(crate) fn case(file: &File, name: &str) -> Result<ExitCode> {
    let case = file.cases.iter().find(|case| case.name == name);
    let case = case.with_context(|| format!("no case {name}"))?;
    let staged = Staged::from_environment()?;
    let complaints = Complaints::listen();
    let outcome = (case.run)(&staged)?;
    let said = complaints.take();
    ensure!(
        case.may_leak || said.is_empty(),
        "something was leaked:\n{}",
        said.join("\n")
    );
    match outcome {
        Outcome::Passed | Outcome::Retried(_) => Ok(ExitCode::SUCCESS),
        Outcome::Skipped(reason) => {
            write!(std::io::stdout().lock(), "{reason}")?;
            Ok(ExitCode::from(SKIPPED))
        }
    }
}

/// An error goes where the parent process reads it.
pub(crate) fn say_error(error: &anyhow::Error) -> ExitCode {
    // Whoever reads may be gone; the exit status says it too.
    drop(writeln!(std::io::stdout().lock(), "{error:#}"));
    ExitCode::FAILURE
}

/// Prepares the machine, works, and sees that the machine is as it was.
fn prepared(stage: Stage, work: impl FnOnce(&mut Staged) -> Result<()>) -> Result<()> {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Memlock, unlimited).context("lift RLIMIT_MEMLOCK")?;
    let before = Snapshot::take()?;
    let mut staged = stage.set()?;
    let worked = work(&mut staged);
    let cleared = staged.clear();
    worked.and(cleared)?;
    before.must_equal(&Snapshot::take()?)
}

/// Runs one case in a process of its own: its exit status, 128 and the number of a signal that ended it, and what it said.
fn in_a_child(file: &File, case: &Case, staged: &Staged) -> Result<(i32, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["case", file.name, &case.name]).stdin(Stdio::null());
    staged.to_environment(&mut command);
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    // The write ends that the command holds would keep the pipe open.
    drop(command);
    let (to, output) = sync_channel(1);
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        let read = reader.take(1 << 16).read_to_end(&mut said);
        // Nobody waits for it any more after the limit.
        drop(to.send(read.map(|_| String::from_utf8_lossy(&said).into_owned())));
    });
    // The pipe ends with the last process that has it.
    let said = output.recv_timeout(CASE_LIMIT);
    if said.is_err() {
        let group = Pid::from_raw(i32::try_from(child.id())?).context("a process id")?;
        kill_process_group(group, Signal::KILL)?;
    }
    let status = child.wait()?;
    reading.join().ok().context("the reader of the output failed")?;
    let said = said.with_context(|| format!("it did not end in {} s", CASE_LIMIT.as_secs()))??;
    let code = status.code();
    Ok((code.unwrap_or_else(|| 128 + status.signal().unwrap_or_default()), said))
}
