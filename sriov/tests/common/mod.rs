//! Machines and plans that several tests use.
#![allow(dead_code, reason = "each test crate uses a part")]

use pci::{Bdf, VfIndex};
use sriov::fake::Machine;
use sriov::{Action, Attribute, Condition, Error, Executor, Journal, Loss, Plan, Progress, Step, Target};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const WAIT: Duration = Duration::from_millis(20);

pub(crate) fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

pub(crate) fn pf() -> Bdf {
    bdf("0000:01:00.0")
}

/// A NIC with 7 VFs, a disk with 4, and a plain function that is bound through an override.
pub(crate) fn machine() -> Machine {
    let mut machine = Machine::new()
        .with_pf(pf(), 7, "igb", Some("igbvf"))
        .with_pf(bdf("0000:02:00.0"), 4, "nvme", Some("nvme"))
        .with_function(bdf("0000:03:00.0"), "e1000e");
    let plain = machine.functions.get_mut(&bdf("0000:03:00.0")).unwrap();
    plain.driver = Some("uio_pci_generic".to_owned());
    plain.driver_override = "uio_pci_generic".to_owned();
    machine
}

pub(crate) fn set(target: Target, attribute: Attribute, value: &str) -> Step {
    let value = value.to_owned();
    Step {
        target,
        action: Action::Set { attribute, value },
    }
}

pub(crate) fn wait(target: Target, condition: Condition) -> Step {
    let action = Action::Wait {
        condition,
        deadline: WAIT,
    };
    Step { target, action }
}

pub(crate) fn unbind(target: Target) -> Step {
    Step {
        target,
        action: Action::Unbind,
    }
}

pub(crate) fn probe(target: Target, driver: Option<&str>) -> Step {
    let driver = driver.map(str::to_owned);
    Step {
        target,
        action: Action::Probe { driver },
    }
}

/// Binds a function to `driver`: override, away from what it has, probe, nodes.
pub(crate) fn bind(target: Target, driver: &str) -> Vec<Step> {
    vec![
        set(target, Attribute::DriverOverride, driver),
        unbind(target),
        probe(target, Some(driver)),
        wait(target, Condition::GroupNode),
        wait(target, Condition::DeviceNode),
    ]
}

/// Creates `count` VFs of a PF and binds them to vfio-pci.
pub(crate) fn create(pf: Bdf, count: u16) -> Plan {
    let function = Target::Function(pf);
    let mut steps = vec![
        set(function, Attribute::DriversAutoprobe, "0"),
        set(function, Attribute::NumVfs, &count.to_string()),
        wait(function, Condition::VirtualFunctions { count }),
    ];
    for index in 0..count {
        let target = Target::VirtualFunction {
            pf,
            index: VfIndex(index),
        };
        steps.extend(bind(target, "vfio-pci"));
    }
    steps.push(set(function, Attribute::DriversAutoprobe, "1"));
    plan(steps)
}

pub(crate) fn plan(steps: Vec<Step>) -> Plan {
    Plan {
        steps,
        warnings: Vec::new(),
    }
}

/// A machine and a journal, with everything allowed.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) machine: Machine,
    pub(crate) journal: Journal,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) asked: Vec<Loss>,
    pub(crate) refusal: Option<Error>,
}

impl Lab {
    pub(crate) fn new(machine: Machine) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            machine,
            journal: Journal::at(directory.path()),
            directory,
            asked: Vec::new(),
            refusal: None,
        }
    }

    pub(crate) fn with<T>(&mut self, work: impl FnOnce(&mut Executor<'_>) -> T) -> T {
        let (asked, refusal) = (&mut self.asked, &self.refusal);
        let mut guard = |loss| {
            asked.push(loss);
            refusal.clone().map_or(Ok(()), Err)
        };
        let mut progress = |_: Progress<'_>| {};
        work(&mut Executor::new(
            &mut self.machine,
            &self.journal,
            &mut guard,
            &mut progress,
        ))
    }

    pub(crate) fn apply(&mut self, plan: &Plan) -> Result<sriov::Applied, Error> {
        self.with(|executor| executor.apply(plan, "test"))
    }

    pub(crate) fn undo(&mut self) -> Result<sriov::Undone, Error> {
        self.with(|executor| executor.undo(None))
    }

    pub(crate) fn file(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("{id:06}.jsonl"))
    }
}
