//! Makes a report of what benchmarks printed: `report --out DIR [--criterion DIR] FILE…` writes `report.json`, `report.html` and `report.md`.
//!
//! Aims that are missed are said, and no failure.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use benches::aims::Verdict;
use benches::record::Environment;
use benches::report::{self, Report, Run};
use benches::{ops, peers, samples};
use clap::Parser;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Make a report of what benchmarks printed
#[derive(Debug, Parser)]
struct Args {
    /// Where the report goes
    #[arg(long)]
    out: PathBuf,
    /// Where criterion left its results
    #[arg(long)]
    criterion: Option<PathBuf>,
    /// What is known of the machine that they were measured on, as a file of lines
    #[arg(long, requires = "criterion")]
    criterion_on: Option<PathBuf>,
    /// What programs printed
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() -> Result<()> {
    let args = Args::parse();
    let mut report = Report::default();
    for path in &args.files {
        report.add(&read(path)?).with_context(|| path.display().to_string())?;
    }
    if let Some(directory) = &args.criterion {
        let run = Run {
            environment: of_criterion(args.criterion_on.as_deref())?,
            records: samples::read(directory)?,
            absences: ops::absences(),
        };
        report.runs.extend(Some(run).filter(|run| !run.records.is_empty()));
        let pages = directory.join("report/index.html");
        if pages.is_file() {
            let absolute = std::path::absolute(&pages)?;
            let pages = pages.strip_prefix(&args.out).unwrap_or(&absolute);
            report.criterion = Some(pages.display().to_string());
        }
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    write(&args.out.join("report.json"), &report.json()?)?;
    write(&args.out.join("report.md"), &report.markdown())?;
    write(&args.out.join("report.html"), &report.html())?;
    let judgements = report.judgements();
    for judgement in &judgements {
        let verdict = match judgement.verdict {
            Verdict::Met => "met         ",
            Verdict::NotMeasured => "not measured",
            Verdict::Undecided => "undecided   ",
            Verdict::Missed => "missed      ",
        };
        println!("{verdict}  {}", judgement.aim.text);
    }
    Ok(())
}

/// What criterion's figures were measured on, which says nothing of that itself.
fn of_criterion(lines: Option<&Path>) -> Result<Environment> {
    let mut environment = match lines {
        Some(path) => report::environment(&read(path)?).with_context(|| path.display().to_string())?,
        None => Environment {
            name: "software time".to_owned(),
            ..Environment::default()
        },
    };
    environment.peers.extend(peers::versions(peers::OF_SOFTWARE));
    Ok(environment)
}

fn read(path: &Path) -> Result<String> {
    let mut said = String::new();
    let file = File::open(path).and_then(|mut file| file.read_to_string(&mut said));
    file.with_context(|| format!("read {}", path.display()))?;
    Ok(said)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written = File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("write {}", path.display()))
}
