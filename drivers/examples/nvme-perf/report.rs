//! What was measured, as text or JSON.

#![expect(clippy::print_stdout, reason = "this is a program")]

use super::Arguments;
use super::cost::Cost;
use super::work::Outcome;
use anyhow::Context;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;

const PERCENTILES: [f64; 8] = [1.0, 25.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99];

/// Prints the sum of all threads, and each of them. The first error of a thread is the error.
pub(crate) fn print(arguments: &Arguments, outcomes: Vec<anyhow::Result<Outcome>>) -> anyhow::Result<()> {
    let outcomes = outcomes.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut latency = Histogram::new_from(&outcomes.first().context("no thread")?.latency);
    for outcome in &outcomes {
        latency.add(&outcome.latency)?;
    }
    // Each thread by its own time: what one does after the others have ended does not count less.
    let iops: f64 = outcomes.iter().map(rate).sum();
    let commands: u64 = outcomes.iter().map(|outcome| outcome.commands).sum();
    let bandwidth = iops * f64::from(arguments.bytes);
    if arguments.json {
        let threads: Vec<Value> = outcomes
            .iter()
            .map(|outcome| {
                json!({
                    "commands": outcome.commands,
                    "seconds": outcome.elapsed.as_secs_f64(),
                    "iops": rate(outcome),
                    "latency_ns": summary(&outcome.latency),
                })
            })
            .collect();
        let report = json!({
            "device": arguments.device.bdf.to_string(),
            "namespace": arguments.namespace,
            "workload": format!("{:?} {:?}", arguments.pattern, arguments.workload).to_lowercase(),
            "wait": format!("{:?}", arguments.wait).to_lowercase(),
            "depth": arguments.depth,
            "bytes": arguments.bytes,
            "cmb": arguments.cmb,
            "commands": commands,
            "iops": iops,
            "bytes_per_second": bandwidth,
            "latency_ns": summary(&latency),
            "threads": threads,
        });
        println!("{report:#}");
        return Ok(());
    }
    println!(
        "{} {:?} {:?}, {} bytes, depth {}, {} threads, {:?}",
        arguments.device.bdf,
        arguments.pattern,
        arguments.workload,
        arguments.bytes,
        arguments.depth,
        outcomes.len(),
        arguments.wait,
    );
    println!("{commands} commands, {iops:.0} per second, {:.2} MB/s", bandwidth / 1e6);
    println!(
        "latency in us: mean {:.2}, deviation {:.2}, least {:.2}, most {:.2}",
        latency.mean() / 1e3,
        latency.stdev() / 1e3,
        micros(latency.min()),
        micros(latency.max()),
    );
    for percentile in PERCENTILES {
        println!(
            "{percentile:>8} % {:>12.2}",
            micros(latency.value_at_percentile(percentile))
        );
    }
    Ok(())
}

/// Prints what the driver costs.
#[expect(clippy::cast_precision_loss, reason = "53 bits are enough to be read")]
pub(crate) fn print_cost(arguments: &Arguments, cost: &Cost) -> anyhow::Result<()> {
    let each = |time: Duration| time.as_nanos() as f64 / cost.commands as f64;
    let (submission, completion) = (each(cost.submission), each(cost.completion));
    if arguments.json {
        let report = json!({
            "device": arguments.device.bdf.to_string(),
            "depth": arguments.depth,
            "bytes": arguments.bytes,
            "cmb": arguments.cmb,
            "commands": cost.commands,
            "submission_ns": submission,
            "completion_ns": completion,
        });
        println!("{report:#}");
        return Ok(());
    }
    println!(
        "{} commands of {} bytes, {} at a time: {submission:.1} ns to submit one, {completion:.1} ns to take it",
        cost.commands, arguments.bytes, arguments.depth,
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough to be read")]
fn rate(outcome: &Outcome) -> f64 {
    outcome.commands as f64 / outcome.elapsed.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough to be read")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn summary(latency: &Histogram<u64>) -> Value {
    let percentiles = PERCENTILES
        .map(|percentile| json!({ "percentile": percentile, "value": latency.value_at_percentile(percentile) }));
    json!({
        "mean": latency.mean(),
        "deviation": latency.stdev(),
        "least": latency.min(),
        "most": latency.max(),
        "percentiles": percentiles,
    })
}
