//! The vocabulary of a change: what a plan lists, what apply runs, what the journal remembers.

use pci::{Bdf, VfIndex};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A change to the machine as a list of steps in order. An empty plan means that the machine is already as asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// What to do, in order; undone in reverse.
    pub steps: Vec<Step>,
    /// What the user should know, although nothing is in the way.
    pub warnings: Vec<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The function that changes.
    pub target: Target,
    /// What happens to it.
    pub action: Action,
}

/// A function, also one that does not exist yet: First VF Offset and VF Stride may depend on NumVFs (PCIe 6.0 §9.3.3.9), so
/// a VF to come is named by its PF and index and found through `virtfnN` when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A function that exists.
    Function(#[serde(with = "bdf_text")] Bdf),
    /// A VF by index.
    VirtualFunction {
        /// Its PF.
        #[serde(with = "bdf_text")]
        pf: Bdf,
        /// Which VF.
        #[serde(with = "index_number")]
        index: VfIndex,
    },
}

/// What a step does. Every action knows how to be verified and how to be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Offer the target to a driver (`drivers/NAME/bind`), or let the kernel look for one (`drivers_probe`). Verified by the
    /// `driver` link; undone by unbinding.
    ///
    /// Either way the kernel asks the driver's id table, unless a `driver_override` names the driver.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Attribute {
    /// `sriov_numvfs`
    #[serde(rename = "sriov_numvfs")]
    NumVfs,
    /// `sriov_drivers_autoprobe`
    #[serde(rename = "sriov_drivers_autoprobe")]
    DriversAutoprobe,
    /// `driver_override`
    #[serde(rename = "driver_override")]
    DriverOverride,
}

/// What a [`Action::Wait`] waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// All `virtfn0` … `virtfn(count-1)` links of the PF lead to a function.
    VirtualFunctions {
        /// How many.
        count: u16,
    },
    /// The VFIO group node `/dev/vfio/GROUP` of the target.
    GroupNode,
    /// The VFIO device of the target, `vfio-dev/vfioN`, and its node `/dev/vfio/devices/vfioN` where the kernel has such.
    DeviceNode,
}

impl Target {
    /// The directory of the target below `sys/bus/pci/devices`, relative to the root; a VF is reached through its PF's link.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        let devices = PathBuf::from("sys/bus/pci/devices");
        match self {
            Self::Function(bdf) => devices.join(bdf.to_string()),
            Self::VirtualFunction { pf, index } => devices.join(pf.to_string()).join(format!("virtfn{}", index.0)),
        }
    }

    /// The function that is sure to exist before the plan runs: the target itself, or its PF.
    #[must_use]
    pub fn anchor(&self) -> Bdf {
        match self {
            Self::Function(bdf) | Self::VirtualFunction { pf: bdf, .. } => *bdf,
        }
    }
}

impl Action {
    /// Whether it writes this attribute.
    #[must_use]
    pub fn sets(&self, wanted: Attribute) -> bool {
        matches!(self, Self::Set { attribute, .. } if *attribute == wanted)
    }
}

impl Attribute {
    /// Its file in the function's directory.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::NumVfs => "sriov_numvfs",
            Self::DriversAutoprobe => "sriov_drivers_autoprobe",
            Self::DriverOverride => "driver_override",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(bdf) => write!(f, "{bdf}"),
            Self::VirtualFunction { pf, index } => write!(f, "{pf} VF {}", index.0),
        }
    }
}

/// As errors and traces name the step (`write sriov_numvfs`), without the value.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set { attribute, .. } => write!(f, "write {}", attribute.file_name()),
            Self::Unbind => f.write_str("write driver/unbind"),
            Self::Probe { driver: None } => f.write_str("write drivers_probe"),
            Self::Probe { driver: Some(driver) } => write!(f, "write drivers/{driver}/bind"),
            Self::Wait { condition, .. } => write!(f, "wait for {condition}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtualFunctions { count } => write!(f, "{count} virtfn links"),
            Self::GroupNode => f.write_str("the group node in /dev/vfio"),
            Self::DeviceNode => f.write_str("the device node in /dev/vfio/devices"),
        }
    }
}

/// A function in the text form of [`Bdf`].
mod bdf_text {
    use pci::Bdf;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bdf: &Bdf, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(bdf)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bdf, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A VF index as a plain number.
mod index_number {
    use pci::VfIndex;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(index: &VfIndex, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(index.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VfIndex, D::Error> {
        u16::deserialize(deserializer).map(VfIndex)
    }
}
