//! `kill -9` at every point: whatever the journal and the machine are then, undo restores the former state.
//!
//! An operation is a row of writes to the machine with journal bytes appended in between. Between two writes the machine stands still
//! while the journal grows byte by byte; every such pair of machine and journal is a state that a killed process can leave.

#![cfg(test)]

mod common;

use common::{Lab, bdf, bind, create, machine, pf, plan, probe, set, unbind};
use pci::VfIndex;
use proptest::prelude::*;
use sriov::fake::Machine;
use sriov::{Access, Attribute, Executor, Failure, Plan, Status, Step, Target};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Remembers the machine and the journal's length at each write.
#[derive(Debug)]
struct Traced<'a> {
    machine: &'a mut Machine,
    journal: PathBuf,
    /// The journal's length when a write began, and the machine after it.
    trace: Vec<(u64, Machine)>,
}

impl Access for Traced<'_> {
    fn read(&mut self, path: &Path, limit: Duration) -> Result<String, Failure> {
        self.machine.read(path, limit)
    }

    fn write(&mut self, path: &Path, value: &str, limit: Duration) -> Result<(), Failure> {
        let len = std::fs::metadata(&self.journal).unwrap().len();
        let outcome = self.machine.write(path, value, limit);
        self.trace.push((len, self.machine.clone()));
        outcome
    }

    fn is_claimed(&mut self, path: &Path, limit: Duration) -> Result<bool, Failure> {
        self.machine.is_claimed(path, limit)
    }

    fn policy_routes(&mut self, limit: Duration) -> Result<Vec<sriov::PolicyRoutes>, Failure> {
        self.machine.policy_routes(limit)
    }

    fn link(&mut self, path: &Path) -> Result<Option<String>, Failure> {
        self.machine.link(path)
    }

    fn names(&mut self, path: &Path) -> Result<Vec<String>, Failure> {
        self.machine.names(path)
    }

    fn exists(&mut self, path: &Path) -> Result<bool, Failure> {
        self.machine.exists(path)
    }

    fn claim(&mut self, path: &Path) -> Result<std::os::fd::OwnedFd, Failure> {
        self.machine.claim(path)
    }
}

/// What a killed process can leave.
#[derive(Debug)]
struct Crash {
    machine: Machine,
    journal: Vec<u8>,
}

/// Where the last line of the journal may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Torn {
    Anywhere,
    /// Before its first byte, after it, before the newline, and whole: within a line one place is as good as another.
    AtEdges,
}

/// Runs `work` to its end on a copy of `start` and returns every state that killing it would have left.
fn crashes(start: &Machine, journal: &[u8], torn: Torn, work: impl Fn(&mut Executor<'_>)) -> Vec<Crash> {
    let lab = Lab::new(start.clone());
    if !journal.is_empty() {
        put(&lab.file(1), journal);
    }
    let mut traced = Traced {
        machine: &mut lab.machine.clone(),
        journal: lab.file(1),
        trace: vec![(journal.len() as u64, lab.machine.clone())],
    };
    let (mut guard, mut progress) = (|_| Ok(()), |_: sriov::Progress<'_>| {});
    work(&mut Executor::new(&mut traced, &lab.journal, &mut guard, &mut progress));
    let trace = std::mem::take(&mut traced.trace);
    let whole = get(&lab.file(1));
    let ends = trace.iter().skip(1).map(|(len, _)| *len).chain([whole.len() as u64]);
    let mut crashes = Vec::new();
    for ((begin, machine), end) in trace.iter().zip(ends.collect::<Vec<_>>()) {
        // Undoing cuts a torn line off before it appends, so the journal may have become shorter.
        for len in (*begin).min(end)..=end {
            let (journal, rest) = whole.split_at(usize::try_from(len).unwrap());
            let at_edge =
                journal.is_empty() || journal.ends_with(b"\n") || journal.ends_with(b"\n{") || rest.starts_with(b"\n");
            if torn == Torn::Anywhere || at_edge {
                crashes.push(Crash {
                    machine: machine.clone(),
                    journal: journal.to_vec(),
                });
            }
        }
    }
    crashes
}

/// A new file: some file systems flush one that is cut to nothing and written again.
fn put(path: &Path, bytes: &[u8]) {
    drop(std::fs::remove_file(path));
    File::create_new(path).unwrap().write_all(bytes).unwrap();
}

fn get(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Undoes what a crash left, if anything; afterwards the machine must be as it was.
fn recover(crash: &Crash, before: &Machine) {
    let mut lab = Lab::new(crash.machine.clone());
    put(&lab.file(1), &crash.journal);
    if let Some(operation) = lab.journal.unfinished().unwrap() {
        assert_eq!(lab.undo().unwrap().operation, operation.id);
        let status = lab.journal.operation(Some(1)).unwrap().status;
        assert_eq!(status, Status::Undone);
    } else if lab.journal.operation(None).is_ok() {
        lab.undo().unwrap();
    }
    let text = String::from_utf8_lossy(&crash.journal);
    assert_eq!(lab.machine.functions, before.functions, "journal:\n{text}");
}

fn survives_every_crash(start: &Machine, plan: &Plan, torn: Torn) -> usize {
    let crashes = crashes(start, &[], torn, |executor| drop(executor.apply(plan, "test")));
    for crash in &crashes {
        recover(crash, start);
    }
    crashes.len()
}

#[test]
fn creating_and_binding_vfs_can_be_killed_anywhere() {
    let count = survives_every_crash(&machine(), &create(pf(), 3), Torn::AtEdges);
    assert!(count > 50, "only {count} states");
}

#[test]
fn rebinding_and_releasing_can_be_killed_anywhere() {
    let target = Target::Function(bdf("0000:03:00.0"));
    survives_every_crash(&machine(), &plan(bind(target, "vfio-pci")), Torn::Anywhere);
    let release = vec![
        unbind(target),
        set(target, Attribute::DriverOverride, ""),
        probe(target, None),
    ];
    survives_every_crash(&machine(), &plan(release), Torn::Anywhere);
}

#[test]
fn deleting_vfs_can_be_killed_anywhere() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 2)).unwrap();
    survives_every_crash(&lab.machine, &delete(2), Torn::AtEdges);
    // Without steps for the VFs the kernel takes them from their drivers; they come back with them all the same.
    survives_every_crash(
        &lab.machine,
        &plan(vec![set(Target::Function(pf()), Attribute::NumVfs, "0")]),
        Torn::AtEdges,
    );
}

#[test]
fn changing_the_count_can_be_killed_anywhere() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 2)).unwrap();
    let count = |value| set(Target::Function(pf()), Attribute::NumVfs, value);
    let first = Target::VirtualFunction {
        pf: pf(),
        index: VfIndex(0),
    };
    // The first step is on a VF that is deleted later, the last one on a VF that did not exist before.
    let steps = vec![
        set(first, Attribute::DriverOverride, "igbvf"),
        count("0"),
        count("3"),
        set(first, Attribute::DriverOverride, "pci-stub"),
    ];
    survives_every_crash(&lab.machine, &plan(steps), Torn::AtEdges);
}

#[test]
fn deleted_vfs_do_not_visit_another_driver_on_their_way_back() {
    let mut with_vfs = Lab::new(machine());
    with_vfs.apply(&create(pf(), 2)).unwrap();
    let mut lab = Lab::new(with_vfs.machine);
    let step = set(Target::Function(pf()), Attribute::NumVfs, "0");
    lab.apply(&plan(vec![step])).unwrap();
    let journal = get(&lab.file(1));
    let states = crashes(&lab.machine, &journal, Torn::AtEdges, |executor| {
        drop(executor.undo(Some(1)));
    });
    let strays = |machine: &Machine| machine.functions.values().any(|f| f.driver.as_deref() == Some("igbvf"));
    assert!(states.iter().any(|crash| crash.machine.vf(pf(), 1).is_some()));
    assert!(!states.iter().any(|crash| strays(&crash.machine)));
}

#[test]
fn an_apply_that_fails_can_be_killed_while_it_rolls_back() {
    let mut start = machine();
    let last = Target::Function(bdf("0000:03:00.0"));
    start.refusing.insert("refused".to_owned());
    let mut plan = create(pf(), 2);
    plan.steps.extend(bind(last, "refused"));
    survives_every_crash(&start, &plan, Torn::AtEdges);
}

#[test]
fn undoing_can_be_killed_anywhere_again_and_again() {
    let target = Target::Function(bdf("0000:03:00.0"));
    let (empty, mut with_vfs) = (machine(), Lab::new(machine()));
    with_vfs.apply(&create(pf(), 2)).unwrap();
    let delete = plan(vec![set(Target::Function(pf()), Attribute::NumVfs, "0")]);
    let cases = [
        (&empty, plan(bind(target, "vfio-pci"))),
        (&empty, create(pf(), 2)),
        (&with_vfs.machine, delete),
    ];
    for (start, plan) in cases {
        let mut first = crashes(start, &[], Torn::AtEdges, |executor| {
            drop(executor.apply(&plan, "test"));
        });
        // One state between each two writes, then every state that undoing from there can be killed in.
        first.reverse();
        first.dedup_by(|next, last| next.machine.functions == last.machine.functions);
        for crash in first {
            let second = crashes(&crash.machine, &crash.journal, Torn::AtEdges, |executor| {
                drop(executor.undo(None));
            });
            second.iter().for_each(|crash| recover(crash, start));
        }
    }
}

fn delete(count: u16) -> Plan {
    let vfs = (0..count).map(|index| Target::VirtualFunction {
        pf: pf(),
        index: VfIndex(index),
    });
    let mut steps: Vec<Step> = vfs
        .flat_map(|vf| [unbind(vf), set(vf, Attribute::DriverOverride, "")])
        .collect();
    steps.push(set(Target::Function(pf()), Attribute::NumVfs, "0"));
    plan(steps)
}

/// Steps on the functions of the machine in any order, wise or not.
fn any_step() -> impl Strategy<Value = Step> {
    let plain = Target::Function(bdf("0000:03:00.0"));
    let pf = Target::Function(pf());
    let driver = prop_oneof![Just("vfio-pci"), Just("igbvf"), Just("e1000e"), Just("refused")];
    let vf = (0u16..3).prop_map(|index| Target::VirtualFunction {
        pf: common::pf(),
        index: VfIndex(index),
    });
    let target = prop_oneof![Just(plain), vf];
    prop_oneof![
        2 => (0u16..9).prop_map(move |count| set(pf, Attribute::NumVfs, &count.to_string())),
        1 => prop_oneof![Just("0"), Just("1")].prop_map(move |on| set(pf, Attribute::DriversAutoprobe, on)),
        2 => (target.clone(), prop_oneof![driver.clone(), Just("")])
            .prop_map(|(target, name)| set(target, Attribute::DriverOverride, name)),
        2 => target.clone().prop_map(unbind),
        3 => (target, proptest::option::of(driver)).prop_map(|(target, driver)| probe(target, driver)),
    ]
}

/// A PF with some VFs, each in any state that a tool may have left.
fn any_start() -> impl Strategy<Value = Machine> {
    let binding = prop_oneof![
        Just((Some("igbvf"), "")),
        Just((Some("vfio-pci"), "vfio-pci")),
        Just((Some("vfio-pci"), "")),
        Just((None, "")),
        Just((None, "vfio-pci")),
    ];
    (any::<bool>(), proptest::collection::vec(binding, 0..4)).prop_map(|(autoprobe, bindings)| {
        let mut machine = machine();
        machine.refusing.insert("refused".to_owned());
        let count = bindings.len().to_string();
        let file = Path::new("sys/bus/pci/devices/0000:01:00.0");
        machine.write(&file.join("sriov_numvfs"), &count, common::WAIT).unwrap();
        let value = if autoprobe { "1" } else { "0" };
        machine
            .write(&file.join("sriov_drivers_autoprobe"), value, common::WAIT)
            .unwrap();
        for (index, (driver, name)) in (0..).zip(bindings) {
            let vf = machine.vf(pf(), index).unwrap();
            let function = machine.functions.get_mut(&vf).unwrap();
            function.driver = driver.map(str::to_owned);
            function.driver_override = name.to_owned();
        }
        machine
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Also plans that make no sense, and fail half way, leave nothing behind, whenever they are killed.
    #[test]
    fn no_plan_leaves_anything_behind(start in any_start(), steps in proptest::collection::vec(any_step(), 1..8)) {
        let plan = plan(steps);
        for crash in crashes(&start, &[], Torn::AtEdges, |executor| drop(executor.apply(&plan, "test"))) {
            recover(&crash, &start);
        }
    }
}
