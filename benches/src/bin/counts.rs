//! Instructions, and calls to VFIO and iommufd, of each operation that is measured, as records; and whether they are as they were.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use benches::counts::lab::{self, LabBaselines, Outcome};
use benches::counts::{self, Baselines, Difference};
use benches::ops::{self, Operation};
use benches::peers;
use benches::record::{Absence, Clock, Environment, Line, Lines, Record};
use benches::report::Report;
use clap::Parser;
use std::collections::BTreeSet;
use std::fs;
use std::io::stdout;
use std::path::PathBuf;
use std::process::ExitCode;

/// Counts the instructions, and the calls to VFIO and iommufd, of the operations that `cargo bench -p benches` times
#[derive(Parser)]
struct Arguments {
    /// Fail when one has more than 3 % more instructions than `benches/baselines.json` says
    #[arg(long, conflicts_with = "save")]
    check: bool,
    /// Write that file
    #[arg(long)]
    save: bool,
    /// Only operations whose name has this in it
    #[arg(long, value_name = "TEXT", conflicts_with = "save")]
    filter: Option<String>,
    /// Instead of counting, check or save what runs in the lab counted, as `cargo lab bench` writes it, by `benches/lab-baselines.json`
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "filter")]
    lab: Vec<PathBuf>,
    /// Do these, under callgrind
    #[arg(long, hide = true, value_name = "NAME", num_args = 1..)]
    run: Option<Vec<String>>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let all = ops::all();
    if let Some(names) = &arguments.run {
        for name in names {
            let operation = all.iter().find(|operation| operation.id() == *name);
            counts::run(operation.with_context(|| format!("no operation is called {name}"))?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.lab.is_empty() {
        return of_lab(&arguments.lab, arguments.save);
    }
    let wanted = |operation: &Operation| {
        let filter = arguments.filter.as_ref();
        filter.is_none_or(|text| operation.id().contains(text))
    };
    let operations: Vec<Operation> = all.into_iter().filter(wanted).collect();
    if operations.is_empty() {
        bail!("no operation is called that");
    }
    let missing = counts::valgrind_is_missing();
    match missing {
        Some(reason) if arguments.check || arguments.save => {
            say(&format!("lab-skip: {reason}"));
            Ok(ExitCode::SUCCESS)
        }
        None if arguments.check || arguments.save => compare(operations, arguments.save),
        missing => report(operations, missing),
    }
}

/// All that there is: without valgrind calls alone, and why there are no instructions.
fn report(operations: Vec<Operation>, missing: Option<String>) -> Result<ExitCode> {
    let mut lines = Lines::new(stdout().lock());
    lines.say(&Line::Environment(Environment {
        name: "software, instructions".to_owned(),
        facts: match missing {
            Some(_) => [].into(),
            None => [("toolchain".to_owned(), counts::key()?)].into(),
        },
        peers: peers::versions(peers::OF_SOFTWARE),
    }))?;
    for operation in operations.iter().filter(|one| one.clocks.contains(&Clock::Count)) {
        let calls = operation.prepare()?.calls()?.context("nobody notes the calls")?;
        let calls = f64::from(u32::try_from(calls)?) / f64::from(operation.per_cycle);
        lines.say(&Line::Record(operation.record(Clock::Count, vec![calls])))?;
    }
    let counted: Vec<Operation> = operations.into_iter().filter(counts::is_counted).collect();
    match missing {
        Some(reason) => {
            let suites: BTreeSet<&str> = counted.iter().map(|operation| operation.suite).collect();
            for suite in suites {
                lines.say(&Line::Absence(Absence {
                    suite: suite.to_owned(),
                    case: "instructions".to_owned(),
                    way: "ours".to_owned(),
                    reason: reason.clone(),
                }))?;
            }
        }
        None => {
            for (_, record) in count(&counted)? {
                lines.say(&Line::Record(record))?;
            }
        }
    }
    lines.end()?;
    Ok(ExitCode::SUCCESS)
}

fn compare(operations: Vec<Operation>, is_saved: bool) -> Result<ExitCode> {
    if !is_saved && let Some(reason) = counts::incomparable(counts::file())? {
        say(&format!("lab-skip: {reason}"));
        return Ok(ExitCode::SUCCESS);
    }
    let operations: Vec<Operation> = operations.into_iter().filter(counts::is_checked).collect();
    let records = count(&operations)?;
    if is_saved {
        Baselines::new(&records)?.write(counts::file())?;
        say(&format!("{} baselines are saved", records.len()));
        return Ok(ExitCode::SUCCESS);
    }
    let difference = Baselines::read(counts::file())?.compare(&records, counts::tolerance);
    let grown = counts::grown(&records, &ops::all());
    tell(&difference, "counts --save");
    for line in &grown {
        say(&format!("worse: {line}"));
    }
    say(&format!("{} operations are compared", records.len()));
    let is_good = difference.worse.is_empty() && grown.is_empty();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What has changed, if anything, and what makes cheaper figures the baselines.
fn tell(difference: &Difference, save: &str) {
    let table = difference.to_string();
    if !table.is_empty() {
        say(table.trim_end());
    }
    if !difference.better.is_empty() {
        say(&format!("what is better is kept so by {save}"));
    }
}

/// Of runs in the lab.
fn of_lab(files: &[PathBuf], is_saved: bool) -> Result<ExitCode> {
    let mut report = Report::default();
    for file in files {
        let said = fs::read(file).with_context(|| file.display().to_string())?;
        report
            .add(&String::from_utf8_lossy(&said))
            .with_context(|| file.display().to_string())?;
    }
    let mut baselines = LabBaselines::read(&lab::file())?;
    let mut is_good = true;
    for run in &report.runs {
        let name = &run.environment.name;
        if is_saved {
            let count = baselines.save(run)?;
            say(&format!("{name}: {count} baselines are saved"));
            continue;
        }
        match baselines.check(run)? {
            None => say(&format!("{name}: nothing in it has baselines")),
            Some(Outcome::Skipped(reason)) => say(&format!("lab-skip: {name}: {reason}: cargo lab bench --save")),
            Some(Outcome::Compared(count, difference)) => {
                say(&format!("{name}: {count} figures are compared"));
                tell(&difference, "cargo lab bench --save");
                is_good &= difference.worse.is_empty();
            }
        }
    }
    if is_saved {
        baselines.write(&lab::file())?;
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn count(operations: &[Operation]) -> Result<Vec<(String, Record)>> {
    if operations.is_empty() {
        return Ok(Vec::new());
    }
    let program = std::env::current_exe()?;
    let records = counts::count(&program, &["--run"], operations)?;
    Ok(operations.iter().map(Operation::id).zip(records).collect())
}

#[expect(clippy::print_stdout, reason = "what it is for")]
fn say(text: &str) {
    println!("{text}");
}
