//! NVMe commands by our driver and by others, on one namespace in one run: how many in a second, or what each costs the CPU.
//!
//! `bench-nvme rates|costs PROGRAM [--quick] [--device BDF]`, with the path of `nvme-perf`; costs are for a machine whose clock counts
//! instructions. Rates in emulation depend on what else the host does: the ways take turns. All of them read, and none writes.
#![forbid(unsafe_code)]

mod load;
mod peers;

use anyhow::Result;
use benches::meter::Meter;
use benches::named::Named;
use benches::program::{Arguments, Case, Program, Turns, What, in_turns};
use benches::record::Clock;
use clap::Parser;
use load::{Bench, Load, Way};

/// Measure reads of an NVMe controller
///
/// One that is named with --device goes to and fro between the kernel's driver and vfio-pci, and has in the end what it had before. Its first
/// namespace is read, and never written; what is mounted from it, or otherwise in use, refuses. Each change is an operation in sriovctl's journal, which
/// keeps the last hundred. Needs root, and sriovctl on the path. If this is killed: sriovctl bind BDF --driver nvme, or what it was on.
#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    arguments: Arguments,
}

/// Runs of each kind.
const TURNS: usize = 3;

fn main() -> Result<()> {
    let Command { arguments } = Command::parse();
    arguments.check()?;
    let versions: [(&str, &[&str]); 2] = [("fio", &["fio", "--version"]), ("qemu-img", &["qemu-img", "--version"])];
    let device = arguments.common.device;
    let mut out = Program::on_device("nvme", device, &versions, &[])?;
    let named = device.map(|device| Named::new(device, &["nvme"])).transpose()?;
    let mut bench = Bench::new(&arguments.program, named)?;
    match arguments.what {
        What::Rates => rates(&mut out, &mut bench, arguments.common.is_quick)?,
        What::Costs => costs(&mut out, &mut bench, arguments.common.is_quick)?,
    }
    for (way, why) in bench.absent() {
        out.absent("", way.name(), why)?;
    }
    out.absent(
        "",
        "libblkio",
        "has no NVMe driver of its own: it goes through the kernel's io_uring, as fio does",
    )?;
    bench.end()?;
    out.end()
}

fn loads(threads: &[u16], sizes: &[u32], depths: &[u16]) -> Vec<Load> {
    let mut loads = Vec::new();
    for &threads in threads {
        for &bytes in sizes {
            loads.extend(depths.iter().map(|&depth| Load { bytes, depth, threads }));
        }
    }
    loads
}

fn case(name: &str, load: Load, clock: Clock, unit: &'static str) -> Case {
    let given = [
        ("bytes", load.bytes.to_string()),
        ("depth", load.depth.to_string()),
        ("threads", load.threads.to_string()),
    ];
    Case {
        name: name.to_owned(),
        given: given.map(|(name, value)| (name.to_owned(), value)).into(),
        clock,
        unit,
    }
}

/// Random reads in a second.
fn rates(out: &mut Program, bench: &mut Bench, is_quick: bool) -> Result<()> {
    let loads = if is_quick {
        loads(&[1, 2], &[4096], &[1, 32])
    } else {
        loads(&[1, 2], &[512, 4096], &[1, 8, 32, 128])
    };
    for load in loads {
        let case = case("random reads", load, Clock::Wall, "reads/s");
        out.note(&format!(
            "{} bytes, {} at a time, {} threads",
            load.bytes, load.depth, load.threads
        ))?;
        let mut seen = Turns::default();
        for turn in 0..TURNS {
            for way in in_turns(&Way::ALL, turn) {
                if let Some(rate) = bench.rate(way, load)? {
                    seen.add(way.name(), rate);
                }
            }
        }
        out.say(&case, seen)?;
    }
    Ok(())
}

/// What a read costs in instructions: of the whole machine, and those of the driver alone, without what it waits, for which nobody else's
/// are known. While the host works for a device that clock all but stands, so a program that looks once more before it sleeps
/// sleeps less often than it would on hardware.
fn costs(out: &mut Program, bench: &mut Bench, is_quick: bool) -> Result<()> {
    let meter = Meter::new()?;
    let depths: &[u16] = if is_quick { &[1, 32] } else { &[1, 8, 32, 128] };
    for load in loads(&[1], &[4096], depths) {
        out.note(&format!("{} at a time", load.depth))?;
        let unit = "instructions/read";
        let mut seen = Turns::default();
        for turn in 0..if is_quick { 1 } else { TURNS } {
            for way in in_turns(&[Way::Interrupt, Way::Kernel, Way::Qemu], turn) {
                if let Some(cost) = bench.cost(&meter, way, load)? {
                    seen.add(way.name(), cost);
                }
            }
        }
        out.say(
            &case("a random read, whole machine", load, Clock::Instructions, unit),
            seen,
        )?;
        let mut seen = Turns::default();
        seen.add(Way::Poll.name(), bench.own_cost(load)?);
        out.say(
            &case("a random read, driver alone", load, Clock::Instructions, unit),
            seen,
        )?;
    }
    Ok(())
}
