//! Steps of long work: what is being done and for how long, and on failure the log, its end and what to do.

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Shows steps on standard error: a moving bar on a terminal, a line at the beginning and end elsewhere.
#[derive(Debug)]
pub struct Progress {
    logs: PathBuf,
}

/// A step that is under way.
#[derive(Debug)]
pub struct Step {
    name: String,
    bar: ProgressBar,
    log: File,
    log_path: PathBuf,
}

impl Progress {
    /// Logs go to this directory.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn new(logs: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
        Ok(Self { logs })
    }

    /// Runs one step. `name` says what is done; `total` is how many lines its commands will print, if known.
    ///
    /// # Errors
    /// Those of `work`, with the step, the time, the log's path and the fix.
    pub fn step<T>(
        &self,
        name: &str,
        total: Option<u64>,
        fix: &str,
        work: impl FnOnce(&mut Step) -> Result<T>,
    ) -> Result<T> {
        let file: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let log_path = self.logs.join(format!("{file}.log"));
        let log = File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
        let start = Instant::now();
        let mut step = Step {
            name: name.to_owned(),
            bar: bar(name, total),
            log,
            log_path,
        };
        let result = work(&mut step);
        let took = start.elapsed();
        step.bar.finish_and_clear();
        match result {
            Ok(value) => {
                say(&format!("  done {name} ({:.1} s)", took.as_secs_f64()));
                Ok(value)
            }
            Err(error) => {
                let tail = tail(&step.log_path, 15);
                let log = step.log_path.display();
                let fix = if fix.is_empty() {
                    String::new()
                } else {
                    format!("\n  fix      {fix}")
                };
                Err(error).with_context(|| {
                    format!(
                        "step \"{name}\" failed after {:.0} s\n  log      {log}{fix}\n{tail}",
                        took.as_secs_f64()
                    )
                })
            }
        }
    }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        say(&format!("  .... {name}"));
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "  {spinner} {prefix} [{bar:24}] {percent}% {elapsed} {wide_msg}",
        ),
        None => (ProgressBar::new_spinner(), "  {spinner} {prefix} {elapsed} {wide_msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

impl Step {
    /// Runs a command to its end; its output goes to the log, and each line of its standard output counts as one unit.
    ///
    /// # Errors
    /// When it cannot be started or does not succeed.
    pub fn run(&mut self, command: &mut Command) -> Result<()> {
        writeln!(self.log, "$ {command:?}")?;
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.log.try_clone()?)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out).split(b'\n') {
                let line = line?;
                self.log.write_all(&line)?;
                self.log.write_all(b"\n")?;
                self.bar.inc(1);
                self.bar.set_message(
                    String::from_utf8_lossy(&line)
                        .trim()
                        .chars()
                        .take(60)
                        .collect::<String>(),
                );
            }
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("{program}: {status}");
        }
        Ok(())
    }

    /// The step's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The last lines of a file, indented.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let Ok(file) = File::open(path) else {
        return String::new();
    };
    let mut last = std::collections::VecDeque::new();
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        if last.len() == lines {
            last.pop_front();
        }
        last.push_back(format!("  | {}", String::from_utf8_lossy(&line).trim_end()));
    }
    Vec::from(last).join("\n")
}

/// Says a line to the user.
#[expect(clippy::print_stderr, reason = "standard error is where the lab talks")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
