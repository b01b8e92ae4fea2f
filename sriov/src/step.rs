//! The vocabulary of a change: what a plan lists, what apply runs, what the journal remembers.

use pci::{Bdf, VfIndex};
use std::path::PathBuf;
use std::time::Duration;

/// A change to the machine as a list of steps in order. An empty plan means that the machine is already as asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What to do, in order; undone in reverse.
    pub steps: Vec<Step>,
    /// What the user should know, although nothing is in the way.
    pub warnings: Vec<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The function that changes.
    pub target: Target,
    /// What happens to it.
    pub action: Action,
}

/// A function, also one that does not exist yet: First VF Offset and VF Stride may depend on NumVFs (PCIe 6.0 §9.3.3.9), so
/// a VF to come is named by its PF and index and found through `virtfnN` when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A function that exists.
    Function(Bdf),
    /// A VF by index.
    VirtualFunction {
        /// Its PF.
        pf: Bdf,
        /// Which VF.
        index: VfIndex,
    },
}

/// What a step does. Every action knows how to be verified and how to be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Write an attribute of the target. Verified by reading it back; undone by writing the former value.
    Set {
        /// Which attribute.
        attribute: Attribute,
        /// Its new value; empty clears a `driver_override`.
        value: String,
    },
    /// Take the target from its driver (`driver/unbind`). Undone by probing it again for the former driver.
    Unbind,
    /// Let the kernel look for a driver (`drivers_probe`). Verified by the `driver` link; undone by unbinding.
    Probe {
        /// The driver that must have it afterwards; `None` when any native driver, or none, is fine.
        driver: Option<String>,
    },
    /// Wait until something is there that the kernel creates in its own time. Changes nothing, so nothing to undo.
    Wait {
        /// What to wait for.
        condition: Condition,
        /// For how long.
        deadline: Duration,
    },
}

/// The attributes that plans write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Attribute {
    /// `sriov_numvfs`
    NumVfs,
    /// `sriov_drivers_autoprobe`
    DriversAutoprobe,
    /// `driver_override`
    DriverOverride,
}

/// What a [`Action::Wait`] waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// All `virtfn0` … `virtfn(count-1)` links of the PF lead to a function.
    VirtualFunctions {
        /// How many.
        count: u16,
    },
    /// The VFIO group node `/dev/vfio/GROUP` of the target.
    GroupNode,
    /// The VFIO character device of the target, `vfio-dev/vfioN` and `/dev/vfio/devices/vfioN`.
    DeviceNode,
    /// A file, relative to the root.
    Exists(PathBuf),
}
