//! NVMe commands by our driver and by others, on one namespace in one run: how many in a second, or what each costs the CPU.
//!
//! `vm-bench-nvme rates PROGRAM` and `vm-bench-nvme costs PROGRAM`, with the path of `nvme-perf`; costs are for a machine whose clock counts
//! instructions. Rates in emulation depend on what else the host does: each figure is the median of runs that took turns.
#![forbid(unsafe_code)]

#[path = "bench_nvme/load.rs"]
mod load;
#[path = "machine.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod machine;
#[path = "bench_nvme/meter.rs"]
mod meter;

use anyhow::{Context, Result, bail, ensure};
use load::{Bench, Load, Way};
use meter::Meter;
use std::io::Write;
use std::process::Command;

const DEPTHS: [u16; 4] = [1, 8, 32, 128];
const SIZES: [u32; 2] = [512, 4096];
/// Runs of each kind.
const TURNS: usize = 3;

fn main() -> Result<()> {
    ensure!(
        std::env::var_os("LAB").is_some(),
        "this changes the machine it runs on: cargo lab bench runs it in the lab"
    );
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, program] = arguments.as_slice() else {
        bail!("usage: vm-bench-nvme rates|costs PROGRAM");
    };
    let bench = Bench::new(program)?;
    match what.as_str() {
        "rates" => rates(bench),
        "costs" => costs(bench),
        other => bail!("{other:?} is neither rates nor costs"),
    }
}

/// Random reads in a second, and how many times as many ours are, polled.
fn rates(mut bench: Bench) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let ways = Way::ALL;
    writeln!(out, "random reads per second, and ours polled / each")?;
    head(&mut out, &ways)?;
    for threads in [1, 2] {
        for bytes in SIZES {
            for depth in DEPTHS {
                let load = Load { bytes, depth, threads };
                let mut seen = ways.map(|_| Vec::new());
                for _ in 0..TURNS {
                    for (way, seen) in ways.iter().zip(&mut seen) {
                        seen.extend(bench.rate(*way, load)?);
                    }
                }
                let medians = seen.map(median);
                let ours = medians.first().copied().flatten();
                row(&mut out, load, medians, |figure| Some(ours? / figure))?;
            }
        }
    }
    bench.say_absent(&mut out)?;
    for name in ["spdk_nvme_perf", "vfn-perf"] {
        let found = Command::new(name).arg("--help").output().is_ok();
        let word = if found { "there, to be run by hand" } else { "absent" };
        writeln!(out, "{name}: {word}")?;
    }
    Ok(())
}

/// What a read costs in instructions of the whole machine, and how many times as many as ours, polled. Ours, polled, are those of the driver
/// without what it waits. While the host works for a device that clock all but stands, so a program that looks once more before it sleeps
/// sleeps less often than it would on hardware.
fn costs(mut bench: Bench) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let meter = Meter::new()?;
    let ways = [Way::Poll, Way::Interrupt, Way::Kernel, Way::Qemu];
    writeln!(out, "instructions per random read, and each / ours polled")?;
    head(&mut out, &ways)?;
    for depth in DEPTHS {
        let load = Load {
            bytes: 4096,
            depth,
            threads: 1,
        };
        let ours = bench.own_cost(load)?;
        let mut figures = vec![Some(ours)];
        for way in ways.into_iter().skip(1) {
            figures.push(bench.cost(&meter, way, load)?);
        }
        row(&mut out, load, figures, |figure| Some(figure / ours))?;
    }
    bench.say_absent(&mut out)
}

fn head(out: &mut impl Write, ways: &[Way]) -> Result<()> {
    write!(out, "{:>7} {:>6} {:>6}", "threads", "bytes", "depth")?;
    for way in ways {
        write!(out, " {:>16}", way.name())?;
    }
    Ok(writeln!(out)?)
}

fn row(
    out: &mut impl Write,
    load: Load,
    figures: impl IntoIterator<Item = Option<f64>>,
    ratio: impl Fn(f64) -> Option<f64>,
) -> Result<()> {
    write!(out, "{:>7} {:>6} {:>6}", load.threads, load.bytes, load.depth)?;
    for figure in figures {
        match figure.and_then(|figure| Some((figure, ratio(figure)?))) {
            Some((figure, ratio)) => write!(out, " {figure:>9.0} {ratio:>6.2}")?,
            None => write!(out, " {:>16}", "absent")?,
        }
    }
    writeln!(out)?;
    out.flush().context("standard output")
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}
