//! Reading the functions of a machine.

use super::{OURS, Operation, Subject, metered};
use crate::Machine;
use crate::record::Clock;
use anyhow::{Result, ensure};
use pci::{Fields, Names, Sysfs, Topology};
use std::hint::black_box;

/// What `sriovctl list` reads for its default columns.
const LIST: Fields = Fields::ID
    .union(Fields::DRIVER)
    .union(Fields::GROUP)
    .union(Fields::NUMA)
    .union(Fields::SRIOV)
    .union(Fields::CLASS_DEVICES);

type Read = fn(&Sysfs) -> Result<()>;

pub(super) fn operations() -> Vec<Operation> {
    // What is done for a file belongs to the kernel, and the names to another package: instructions would say little.
    let cases: [(&str, Read); 3] = [("list", list), ("list and names", names), ("everything", all)];
    let mut operations = Vec::new();
    for (case, read) in cases {
        operations.extend([16, 256, 4096].map(|functions| {
            Operation::new("topology", case, OURS, 1, move || subject(functions, read))
                .at(functions as u64, "functions")
                .by(&[Clock::Wall])
        }));
    }
    operations
}

fn subject(functions: usize, read: Read) -> Result<Subject> {
    let machine = Machine::of(functions)?;
    let sysfs = machine.tree.sysfs();
    let found = Topology::read_fields(&sysfs, LIST)?.functions().count();
    ensure!(found == functions, "{found} of {functions} functions");
    Ok(Subject::new(move || metered(|| read(&sysfs))).on(machine))
}

fn list(sysfs: &Sysfs) -> Result<()> {
    black_box(Topology::read_fields(sysfs, LIST)?);
    Ok(())
}

fn names(sysfs: &Sysfs) -> Result<()> {
    let names = Names::read(&Sysfs::host());
    let topology = Topology::read_fields(sysfs, LIST)?;
    let named = topology
        .functions()
        .filter_map(|function| names.device(*function.vendor.as_ref().ok()?, *function.device.as_ref().ok()?))
        .map(|name| black_box(name).len())
        .sum::<usize>();
    black_box(named);
    Ok(())
}

fn all(sysfs: &Sysfs) -> Result<()> {
    black_box(Topology::read(sysfs)?);
    Ok(())
}
