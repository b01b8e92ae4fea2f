//! Checks and tests of this machine, through cargo; their results as entries of the one list.

use crate::initramfs::{cargo, workspace};
use crate::report::{Report, Verdict};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A test prints this at the beginning of a line, followed by the reason, when it cannot run.
pub const SKIP_MARK: &str = "lab-skip: ";

/// Formatting, lints and documentation: one result each.
///
/// # Errors
/// When cargo cannot be started.
pub fn checks(report: &mut Report) -> Result<()> {
    let mut fmt = cargo();
    fmt.args(["fmt", "--all", "--check"]);
    let mut clippy = cargo();
    clippy.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "benches/device",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]);
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings");
    for (name, mut command) in [("check fmt", fmt), ("check clippy", clippy), ("check doc", doc)] {
        let start = Instant::now();
        let output = command.stdin(Stdio::null()).output().context("start cargo")?;
        let verdict = if output.status.success() {
            Verdict::Passed
        } else {
            Verdict::Failed(format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ))
        };
        report.add(name.to_owned(), verdict, Some(start.elapsed()));
    }
    Ok(())
}

/// `cargo test` of the workspace, read test by test.
///
/// # Errors
/// When cargo cannot be started.
pub fn tests(report: &mut Report, filter: Option<&str>) -> Result<()> {
    // Both streams in one pipe: cargo names the program on one, the program its tests on the other.
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("exec \"$0\" \"$@\" 2>&1")
        .arg(cargo().get_program());
    command
        .args([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--color",
            "never",
            "--",
            "--show-output",
        ])
        .args(filter);
    let mut child = command
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let out = child.stdout.take().context("the pipe of cargo test")?;
    let mut reader = Reader::default();
    for line in BufReader::new(out).split(b'\n') {
        reader.line(&String::from_utf8_lossy(&line?));
    }
    reader.close_program();
    let status = child.wait()?;
    let failed = reader
        .results
        .iter()
        .any(|(_, verdict)| matches!(verdict, Verdict::Failed(_)));
    for (name, verdict) in reader.results {
        report.add(name, verdict, None);
    }
    if !status.success() && !failed {
        report.add(
            "cargo test".to_owned(),
            Verdict::Failed(format!("{status}\n{}", reader.rest)),
            None,
        );
    }
    std::io::stdout().flush()?;
    Ok(())
}

/// Reads what cargo and the standard test harness print.
#[derive(Debug, Default)]
struct Reader {
    program: String,
    /// Results of the program that is being read.
    open: BTreeMap<String, Verdict>,
    /// Whose output section is being read.
    section: Option<String>,
    results: Vec<(String, Verdict)>,
    /// Lines that belong to no test: what the compiler says when it fails.
    rest: String,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some(program) = line.trim_start().strip_prefix("Running ") {
            self.start(
                program
                    .rsplit_once('/')
                    .map_or(program, |(_, file)| file)
                    .trim_end_matches(')'),
            );
        } else if let Some(name) = line.trim_start().strip_prefix("Doc-tests ") {
            self.start(&format!("{name} (doc)"));
        } else if let Some((name, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            // `ignored, reason` is a skip; the project has none, but a dependency's doc may.
            let verdict = match verdict.split(' ').next().unwrap_or_default().trim_end_matches(',') {
                "ok" => Verdict::Passed,
                "ignored" => Verdict::Skipped(
                    verdict
                        .split_once(", ")
                        .map_or("ignored", |(_, reason)| reason)
                        .to_owned(),
                ),
                _ => Verdict::Failed(String::new()),
            };
            self.open.insert(name.to_owned(), verdict);
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.section = Some(name.to_owned());
        } else if let Some(verdict) = self.section.as_ref().and_then(|section| self.open.get_mut(section)) {
            match (verdict, line.strip_prefix(SKIP_MARK)) {
                (Verdict::Failed(text), _) => {
                    text.push_str(line);
                    text.push('\n');
                }
                (verdict, Some(reason)) => *verdict = Verdict::Skipped(reason.to_owned()),
                _ => {}
            }
        } else if self.rest.len() < 1 << 16 {
            self.rest.push_str(line);
            self.rest.push('\n');
        }
        if line == "failures:" || line == "successes:" {
            self.section = None;
        }
    }

    fn start(&mut self, program: &str) {
        self.close_program();
        // cargo appends a hash: `pci-0123456789abcdef`
        let named = program.rsplit_once('-').filter(|(_, hash)| hash.len() == 16);
        self.program = named.map_or(program, |(name, _)| name).to_owned();
    }

    fn close_program(&mut self) {
        self.section = None;
        let program = &self.program;
        self.results.extend(
            std::mem::take(&mut self.open)
                .into_iter()
                .map(|(name, verdict)| (format!("{program} {name}"), verdict)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_skips_and_failures_are_read_from_the_harness() {
        let text = "\
     Running unittests src/lib.rs (target/debug/deps/pci-0123456789abcdef)

running 3 tests
test bdf::tests::reads ... ok
test tree::agrees ... ok
test walk::ends ... FAILED

successes:

---- tree::agrees stdout ----
lab-skip: lspci is not installed

successes:
    bdf::tests::reads

failures:

---- walk::ends stdout ----

thread 'walk::ends' panicked at pci/src/walk.rs:1:1:
no end

failures:
    walk::ends
   Doc-tests pci

running 1 test
test pci/src/bdf.rs - bdf::Bdf (line 3) ... ok
";
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.close_program();
        let find = |name: &str| {
            reader
                .results
                .iter()
                .find(|(found, _)| found == name)
                .map(|(_, verdict)| verdict.clone())
        };
        assert_eq!(find("pci bdf::tests::reads"), Some(Verdict::Passed));
        assert_eq!(
            find("pci tree::agrees"),
            Some(Verdict::Skipped("lspci is not installed".into()))
        );
        assert!(matches!(find("pci walk::ends"), Some(Verdict::Failed(text)) if text.contains("no end")));
        assert_eq!(
            find("pci (doc) pci/src/bdf.rs - bdf::Bdf (line 3)"),
            Some(Verdict::Passed)
        );
        assert_eq!(reader.results.len(), 4);
    }
}
