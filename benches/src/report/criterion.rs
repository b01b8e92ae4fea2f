//! Figures of criterion, from the files that it leaves: `GROUP/WAY/PARAMETER/new/{benchmark,sample}.json`.
//!
//! The group's name is `SUITE: CASE`. Its samples are the turns, though the ways did not take turns: they have a spread, and are not paired.

use super::Run;
use crate::record::{Clock, Environment, Record};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: Option<String>,
    value_str: Option<String>,
}

#[derive(Deserialize)]
struct Sample {
    iters: Vec<f64>,
    times: Vec<f64>,
}

/// A run of all that lies below a directory.
///
/// # Errors
/// When a file cannot be read, or is not what criterion writes.
pub fn run(directory: &Path) -> Result<Run> {
    let mut records = Vec::new();
    collect(directory, &mut records)?;
    records.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Run {
        environment: Environment {
            name: "software, by the clock".to_owned(),
            ..Environment::default()
        },
        records: records.into_iter().map(|(_, record)| record).collect(),
        absences: Vec::new(),
    })
}

/// Each with what it is sorted by: numbers in the parameter by their value.
type Found = ((String, u64, String), Record);

fn collect(directory: &Path, records: &mut Vec<Found>) -> Result<()> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.ends_with("new") {
            records.extend(record(&path)?);
        } else if path.is_dir() {
            collect(&path, records)?;
        }
    }
    Ok(())
}

/// `None` of a benchmark without a group and a way.
fn record(new: &Path) -> Result<Option<Found>> {
    let benchmark: Benchmark = read(&new.join("benchmark.json"))?;
    let Some(way) = benchmark.function_id else {
        return Ok(None);
    };
    let sample: Sample = read(&new.join("sample.json"))?;
    let (suite, case) = benchmark
        .group_id
        .split_once(": ")
        .unwrap_or(("software", &benchmark.group_id));
    let parameter = benchmark.value_str.unwrap_or_default();
    let number = parameter.parse().unwrap_or(0);
    let record = Record {
        suite: suite.to_owned(),
        case: format!("{case} {parameter}").trim_end().to_owned(),
        way: way.clone(),
        given: [].into(),
        clock: Clock::Wall,
        unit: "ns/op".to_owned(),
        turns: sample
            .times
            .iter()
            .zip(&sample.iters)
            .map(|(time, count)| time / count)
            .collect(),
        distribution: Vec::new(),
    };
    Ok(Some(((benchmark.group_id, number, way), record)))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "files of a test")]
    fn what_criterion_leaves_becomes_records() {
        let directory = tempfile::tempdir().unwrap();
        for (name, parameter, time) in [("a", "1000", 20.0), ("b", "16", 10.0)] {
            let new = directory.path().join(name).join("ours").join(parameter).join("new");
            std::fs::create_dir_all(&new).unwrap();
            let benchmark = serde_json::json!({
                "group_id": "iova: rings", "function_id": "ours", "value_str": parameter, "throughput": null
            });
            std::fs::write(new.join("benchmark.json"), benchmark.to_string()).unwrap();
            let sample =
                serde_json::json!({ "sampling_mode": "Linear", "iters": [1.0, 2.0], "times": [time, 2.0 * time] });
            std::fs::write(new.join("sample.json"), sample.to_string()).unwrap();
        }
        let records = run(directory.path()).unwrap().records;
        let found: Vec<_> = records
            .iter()
            .map(|record| (record.case.as_str(), &record.turns[..]))
            .collect();
        assert_eq!(
            found,
            [("rings 16", &[10.0, 10.0][..]), ("rings 1000", &[20.0, 20.0][..])]
        );
        assert_eq!((records[0].suite.as_str(), records[0].way.as_str()), ("iova", "ours"));
    }
}
