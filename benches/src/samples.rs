//! What criterion has measured, as records.
//!
//! Criterion writes a directory for each benchmark, in which `new/benchmark.json` has its name and `new/sample.json` its samples. It takes the ways of
//! a case one after the other, not in turns: the n-th turns of two records have nothing to do with one another.

use crate::ops::{self, Operation};
use crate::record::{Clock, Record};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The names that criterion knows an operation by: group, function, parameter.
#[must_use]
pub fn names(operation: &Operation) -> (String, &'static str, Option<String>) {
    let group = format!("{}, {}", operation.suite, operation.case);
    (group, operation.way, operation.at.map(|(number, _)| number.to_string()))
}

#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: Option<String>,
    value_str: Option<String>,
}

#[derive(Deserialize)]
struct Samples {
    /// How often a cycle was done in each.
    iters: Vec<f64>,
    /// And how long that took, in nanoseconds.
    times: Vec<f64>,
}

/// The last figures in a directory of criterion's, such as `target/criterion`, of all operations that it has any of; none where there is no such
/// directory.
///
/// # Errors
/// When what is there cannot be read, or is not as criterion writes it.
pub fn read(directory: &Path) -> Result<Vec<Record>> {
    let mut found = Vec::new();
    for directory in directories(directory)? {
        let Some(benchmark) = json::<Benchmark>(&directory.join("benchmark.json"))? else {
            continue;
        };
        let Some(samples) = json::<Samples>(&directory.join("sample.json"))? else {
            continue;
        };
        found.push((benchmark, samples));
    }
    let mut records = Vec::new();
    for operation in ops::all() {
        let (group, function, parameter) = names(&operation);
        let is_it = |benchmark: &Benchmark| {
            benchmark.group_id == group
                && benchmark.function_id.as_deref() == Some(function)
                && benchmark.value_str == parameter
        };
        if let Some((_, samples)) = found.iter().find(|(benchmark, _)| is_it(benchmark)) {
            let per_cycle = f64::from(operation.per_cycle);
            let turns = samples.times.iter().zip(&samples.iters);
            let turns = turns.map(|(time, cycles)| time / cycles / per_cycle).collect();
            records.push(Record {
                alone: true,
                ..operation.record(Clock::Wall, turns)
            });
        }
    }
    Ok(records)
}

/// All directories of the name `new`, a few levels below.
fn directories(top: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![(top.to_owned(), 0)];
    while let Some((directory, depth)) = left.pop() {
        if directory.ends_with("new") {
            found.push(directory);
            continue;
        }
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.with_context(|| directory.display().to_string())?,
        };
        for entry in entries {
            let entry = entry?;
            if depth < 4 && entry.file_type()?.is_dir() {
                left.push((entry.path(), depth + 1));
            }
        }
    }
    Ok(found)
}

/// What a file says; `None` where there is no such file.
fn json<T: DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    let text = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| file.display().to_string())?,
    };
    let value = serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_nanoseconds_of_one_operation() {
        let top = tempfile::tempdir().unwrap();
        assert_eq!(read(&top.path().join("nothing")).unwrap(), []);
        let operation = ops::all().into_iter().find(|operation| operation.at.is_some()).unwrap();
        let (group, function, parameter) = names(&operation);
        let new = top.path().join("any").join("where").join("new");
        fs::create_dir_all(&new).unwrap();
        let file = |name: &str, value: serde_json::Value| {
            serde_json::to_writer(fs::File::create(new.join(name)).unwrap(), &value).unwrap();
        };
        file(
            "benchmark.json",
            serde_json::json!({"group_id": group, "function_id": function, "value_str": parameter, "title": "any"}),
        );
        let cycles = f64::from(operation.per_cycle);
        file(
            "sample.json",
            serde_json::json!({"iters": [1.0, 10.0], "times": [7.0 * cycles, 80.0 * cycles]}),
        );
        let expected = Record {
            alone: true,
            ..operation.record(Clock::Wall, vec![7.0, 8.0])
        };
        assert_eq!(read(top.path()).unwrap(), [expected]);
    }
}
