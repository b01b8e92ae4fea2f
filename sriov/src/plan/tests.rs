//! Plans on the picture of a machine, run by the executor on the machine itself.

mod bind;
mod count;
mod wishes;

use super::*;
use crate::fake::{self, Role};
use crate::testing::{Tree, bdf};
use crate::{Executor, Journal, Loss, Plan, Progress, WantedDriver};
use pci::{RoutingId, Segment};
use std::num::NonZeroU16;

/// A machine with a NIC of 8 VFs, and what it takes to change it.
struct Lab {
    fake: fake::Machine,
    has_device_nodes: bool,
    journal: Journal,
    _directory: tempfile::TempDir,
}

fn pf() -> Bdf {
    bdf("01:00.0")
}

fn vf(index: u16) -> Bdf {
    Bdf::new(Segment(0), RoutingId(0x0101 + index))
}

fn vfio() -> WantedDriver {
    WantedDriver::Named("vfio-pci".to_owned())
}

fn igbvf() -> WantedDriver {
    WantedDriver::Named("igbvf".to_owned())
}

fn check_loss(tree: &Tree, loss: Loss) -> Result<(), Error> {
    Machine::check_loss(&tree.sysfs(), &mut fake::Machine::new(), loss, |_| false)
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            fake: fake::Machine::new().with_pf(pf(), 8, "igb", Some("igbvf")),
            has_device_nodes: true,
            journal: Journal::at(directory.path()),
            _directory: directory,
        }
    }

    /// With VFs, each bound to `driver`.
    fn with_vfs(count: u16, driver: Option<&WantedDriver>) -> Self {
        let mut lab = Self::new();
        let plan = lab.create(count, driver).unwrap();
        lab.apply(&plan);
        lab
    }

    fn tree(&self) -> Tree {
        let tree = Tree::of(&self.fake);
        if self.has_device_nodes {
            tree.directory("sys/class/vfio-dev");
        }
        tree
    }

    fn machine(&mut self) -> Machine {
        let tree = self.tree();
        self.machine_in(&tree)
    }

    fn machine_in(&mut self, tree: &Tree) -> Machine {
        tree.machine(&mut self.fake).unwrap()
    }

    fn create(&mut self, count: u16, driver: Option<&WantedDriver>) -> Result<Plan, Error> {
        create_vfs(&self.machine(), pf(), NonZeroU16::new(count).unwrap(), driver)
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Executor<'_>) -> T) -> T {
        let mut guard = |_: Loss| Ok(());
        let mut progress = |_: Progress<'_>| {};
        work(&mut Executor::new(
            &mut self.fake,
            &self.journal,
            &mut guard,
            &mut progress,
        ))
    }

    fn apply(&mut self, plan: &Plan) {
        self.with(|executor| executor.apply(plan, "test")).unwrap();
    }

    fn driver_of(&self, function: Bdf) -> Option<&str> {
        self.fake.driver_of(function)
    }

    fn sriov(&mut self) -> &mut fake::Sriov {
        match &mut self.fake.functions.get_mut(&pf()).unwrap().role {
            Role::Physical(sriov) => sriov,
            other => panic!("{other:?}"),
        }
    }
}

/// The steps as text, one per line.
fn text(plan: &Plan) -> Vec<String> {
    let line = |step: &Step| {
        let rest = match &step.action {
            Action::Set { value, .. } => format!(" {value:?}"),
            _ => String::new(),
        };
        format!("{}: {}{rest}", step.target, step.action)
    };
    plan.steps.iter().map(line).collect()
}
