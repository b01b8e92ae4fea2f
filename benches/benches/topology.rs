//! Reading the topology of a large machine: within the process, and as a whole program against `lspci`.
#![forbid(unsafe_code)]

use benches::Machine;
use benches::list::{Comparison, lspci_is_missing};
use criterion::{Criterion, Throughput};
use pci::{Fields, Names, Sysfs, Topology};
use std::hint::black_box;

/// What `sriovctl list` reads for its default columns.
const LIST: Fields = Fields::ID
    .union(Fields::DRIVER)
    .union(Fields::GROUP)
    .union(Fields::NUMA)
    .union(Fields::SRIOV)
    .union(Fields::CLASS_DEVICES);

fn main() -> anyhow::Result<()> {
    let machine = Machine::of(4096)?;
    let mut criterion = Criterion::default().configure_from_args();
    in_process(&mut criterion, &machine);
    criterion.final_summary();
    // As a test, nothing is measured.
    if std::env::args().any(|argument| argument == "--bench") {
        against_lspci(&machine)?;
    }
    Ok(())
}

fn in_process(criterion: &mut Criterion, machine: &Machine) {
    let sysfs = machine.tree.sysfs();
    let mut group = criterion.benchmark_group("topology");
    group
        .throughput(Throughput::Elements(machine.functions as u64))
        .sample_size(20);
    group.bench_function("list", |bencher| {
        bencher.iter(|| Topology::read_fields(&sysfs, LIST));
    });
    group.bench_function("list and names", |bencher| {
        bencher.iter(|| {
            let names = Names::read(&Sysfs::host());
            let topology = Topology::read_fields(&sysfs, LIST);
            let functions = topology.iter().flat_map(Topology::functions);
            functions
                .filter_map(|function| names.device(*function.vendor.as_ref().ok()?, *function.device.as_ref().ok()?))
                .map(|name| black_box(name).len())
                .sum::<usize>()
        });
    });
    group.bench_function("everything", |bencher| {
        bencher.iter(|| Topology::read(&sysfs));
    });
    group.finish();
}

#[expect(clippy::print_stdout, reason = "where results go")]
fn against_lspci(machine: &Machine) -> anyhow::Result<()> {
    match lspci_is_missing() {
        Some(reason) => println!("lab-skip: {reason}"),
        None => println!("list\n{}", Comparison::run(machine, 21)?),
    }
    Ok(())
}
