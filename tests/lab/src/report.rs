//! The one list of results: of this machine's tests and of the lab's.

use std::io::Write;
use std::time::Duration;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It holds, but not at once, for this reason.
    Retried(String),
    /// It does not; with what it said.
    Failed(String),
    /// It could not run, for this reason.
    Skipped(String),
}

/// Results in the order in which they came.
#[derive(Debug, Default)]
pub struct Report {
    results: Vec<(String, Verdict)>,
    notes: Vec<String>,
}

impl Report {
    /// Keeps a text that is said at the end, above the counts.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Adds a result and says it on standard output.
    pub fn add(&mut self, name: String, verdict: Verdict, took: Option<Duration>) {
        let took = took
            .map(|took| format!(" ({:.1} s)", took.as_secs_f64()))
            .unwrap_or_default();
        line(&match &verdict {
            Verdict::Passed => format!("pass  {name}{took}"),
            Verdict::Retried(reason) => format!("pass  {name}{took}: {reason}"),
            Verdict::Failed(why) => format!("FAIL  {name}{took}\n{}", indent(why)),
            Verdict::Skipped(reason) => format!("skip  {name}: {reason}"),
        });
        self.results.push((name, verdict));
    }

    /// Says retries, failures and skips once more, then the notes, then the counts as the last line. Whether nothing failed.
    #[must_use]
    pub fn close(&self) -> bool {
        let (mut passed, mut retried, mut failed, mut skipped) = (0, 0, 0, 0);
        line("");
        for (name, verdict) in &self.results {
            match verdict {
                Verdict::Passed => passed += 1,
                Verdict::Retried(reason) => {
                    passed += 1;
                    retried += 1;
                    line(&format!("pass  {name}: {reason}"));
                }
                Verdict::Failed(_) => {
                    failed += 1;
                    line(&format!("FAIL  {name}"));
                }
                Verdict::Skipped(reason) => {
                    skipped += 1;
                    line(&format!("skip  {name}: {reason}"));
                }
            }
        }
        for note in &self.notes {
            line("");
            line(note);
        }
        let again = match retried {
            0 => String::new(),
            _ => format!(" ({retried} not at once)"),
        };
        line(&format!("{passed} passed{again}, {failed} failed, {skipped} skipped"));
        failed == 0 && passed > 0
    }
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("      | {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Results go to standard output; a reader that went away changes nothing about them.
fn line(text: &str) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_good_only_when_something_passed_and_nothing_failed() {
        let mut report = Report::default();
        assert!(!report.close());
        report.add("a".into(), Verdict::Skipped("no card".into()), None);
        assert!(!report.close());
        report.add("b".into(), Verdict::Retried("a guest stalled".into()), None);
        assert!(report.close());
        report.add("c".into(), Verdict::Failed("no".into()), None);
        assert!(!report.close());
    }
}
