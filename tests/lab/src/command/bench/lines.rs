//! Lines of benchmarks, put together from the pieces in which they arrive, and kept until the run is over.
//!
//! A line of a benchmark is JSON behind a mark; the last one says how many there were, so that none is lost without a word.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

const MARK: &str = "bench: ";

/// What programs said.
#[derive(Debug)]
pub(super) struct Lines {
    suite: &'static str,
    /// The beginning of a line whose end has not come.
    open: Vec<u8>,
    values: Vec<Value>,
    /// How many lines the last program said it wrote.
    end: Option<u64>,
    /// Whether a line could not be read.
    is_torn: bool,
}

impl Lines {
    /// Of a suite.
    pub(super) fn new(suite: &'static str) -> Self {
        Self {
            suite,
            open: Vec::new(),
            values: Vec::new(),
            end: None,
            is_torn: false,
        }
    }

    /// Takes the next piece; what is no line of a benchmark goes to `other`.
    pub(super) fn take(&mut self, piece: &[u8], mut other: impl FnMut(&str)) {
        for byte in piece {
            if *byte == b'\n' {
                self.flush(&mut other);
            } else {
                self.open.push(*byte);
            }
        }
    }

    /// Ends the line that is open.
    pub(super) fn flush(&mut self, mut other: impl FnMut(&str)) {
        let line = std::mem::take(&mut self.open);
        let line = String::from_utf8_lossy(&line);
        let Some(text) = line.strip_prefix(MARK) else {
            if !line.is_empty() {
                other(&line);
            }
            return;
        };
        match serde_json::from_str::<Value>(text) {
            Ok(value) if value.get("line").and_then(Value::as_str) == Some("end") => {
                self.end = value.get("lines").and_then(Value::as_u64);
            }
            Ok(value) => self.values.push(value),
            Err(_) => self.is_torn = true,
        }
    }

    /// Sees that nothing is missing.
    pub(super) fn finish(&self) -> Result<()> {
        let arrived = u64::try_from(self.values.len())?;
        ensure!(!self.is_torn, "a line of the benchmark arrived torn");
        // Criterion's figures come in files.
        if arrived == 0 && self.end.is_none() && self.suite == super::plan::SOFTWARE {
            return Ok(());
        }
        let end = self.end.context("the benchmark did not say its last line")?;
        ensure!(arrived == end, "of {end} lines of the benchmark {arrived} arrived");
        Ok(())
    }

    /// Says that figures of ours are missing.
    pub(super) fn fail(&mut self, reason: &str) {
        let reason = reason.lines().next().unwrap_or_default();
        self.values
            .push(json!({ "line": "absence", "suite": self.suite, "case": "", "way": "ours", "reason": reason }));
    }

    /// Writes all of it, with what the host knows before it.
    pub(super) fn write(&self, path: &Path, name: &str, facts: &BTreeMap<String, String>) -> Result<()> {
        let environment = json!({ "line": "environment", "name": name, "facts": facts, "peers": {} });
        let end = json!({ "line": "end", "lines": self.values.len() + 1 });
        let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        for value in std::iter::once(&environment).chain(&self.values).chain([&end]) {
            writeln!(file, "{MARK}{value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pieces: &[&str]) -> (Lines, String) {
        let (mut lines, mut other) = (Lines::new("map"), String::new());
        for piece in pieces {
            lines.take(piece.as_bytes(), |line| other += &format!("{line};"));
        }
        lines.flush(|line| other += &format!("{line};"));
        (lines, other)
    }

    #[test]
    fn pieces_become_lines() {
        let (lines, other) = taken(&[
            "hello\nben",
            "ch: {\"line\":\"rec",
            "ord\"}\nbench: {\"line\":\"end\",\"lines\":1}\nbye",
        ]);
        assert_eq!((lines.values.len(), other.as_str()), (1, "hello;bye;"));
        lines.finish().unwrap();
    }

    #[test]
    fn what_is_lost_or_torn_is_said() {
        let error = |pieces: &[&str]| taken(pieces).0.finish().unwrap_err().to_string();
        assert!(error(&["bench: {\"line\":\"record\"}\n"]).contains("its last line"));
        assert!(error(&["bench: {\"line\":\"end\",\"lines\":1}\n"]).contains("of 1 lines of the benchmark 0 arrived"));
        assert!(error(&["bench: {\"line\":\"rec\nbench: {\"line\":\"end\",\"lines\":0}\n"]).contains("torn"));
    }

    /// A run that failed half-way is in the report with what there was, and is whole for who reads it.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a file of the test")]
    fn a_run_that_failed_is_written() {
        let (mut lines, _) = taken(&["bench: {\"line\":\"record\"}\n"]);
        lines.fail("no device\nand more");
        let file = tempfile::NamedTempFile::new().unwrap();
        lines
            .write(
                file.path(),
                "map",
                &BTreeMap::from([("QEMU".to_owned(), "11".to_owned())]),
            )
            .unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let said: Vec<&str> = text.lines().collect();
        assert_eq!(said.len(), 4);
        assert!(
            said[0].contains("\"name\":\"map\"") && said[0].contains("\"QEMU\":\"11\""),
            "{text}"
        );
        assert!(said[2].contains("\"reason\":\"no device\""), "{text}");
        assert_eq!(said[3], "bench: {\"line\":\"end\",\"lines\":3}");
    }
}
