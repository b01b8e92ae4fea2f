//! One snapshot of every function in the machine.
//!
//! [`Topology::read`] takes it in one pass; everything after that is look-up in memory. Reading touches no configuration
//! space (raw reads of every device can crash some machines) and no file whose reading takes the device lock.

mod attributes;
mod class_devices;
mod read;
mod visit;

use crate::group::spoils;
use crate::{Bdf, Error, Function, Group, GroupId, Reason, Spoiler, Sysfs, Unknown, Viability};
use std::collections::BTreeMap;

bitflags::bitflags! {
    /// Which fields a reader wants; a field that was not asked for is `Unknown` with [`Reason::NotRead`](crate::Reason::NotRead).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Fields: u32 {
        /// Vendor, device, subsystem, class.
        const ID = 1;
        /// Driver.
        const DRIVER = 1 << 1;
        /// IOMMU group.
        const GROUP = 1 << 2;
        /// NUMA node.
        const NUMA = 1 << 3;
        /// Link speed and width. On recent kernels this wakes a sleeping device, as the kernel asks the device itself.
        const LINK = 1 << 4;
        /// Address windows.
        const BARS = 1 << 5;
        /// PF and VF relations.
        const SRIOV = 1 << 6;
        /// Revision.
        const REVISION = 1 << 7;
        /// ARI.
        const ARI = 1 << 8;
        /// Reset methods.
        const RESET = 1 << 9;
        /// Power state.
        const POWER = 1 << 10;
        /// Class devices.
        const CLASS_DEVICES = 1 << 11;
        /// Domain type, reserved regions and other members of every IOMMU group.
        const GROUP_DETAILS = 1 << 12;
    }
}

/// A snapshot of the PCI functions of a machine. Look-up by address is O(log n).
#[derive(Debug, Clone)]
pub struct Topology {
    /// In order of address.
    functions: Vec<Function>,
    /// The positions of the functions below each bridge, in order of address; `None` for the root buses.
    children: BTreeMap<Option<Bdf>, Vec<usize>>,
    groups: BTreeMap<GroupId, Group>,
    oddities: Vec<Unknown>,
}

/// No path from a function to its root port is longer: there are 256 bus numbers in a segment.
const MAX_DEPTH: usize = 256;

impl Topology {
    /// Reads everything, in one pass over `sys/bus/pci/devices`.
    ///
    /// # Errors
    /// [`ErrorKind::NoPciBus`](crate::ErrorKind::NoPciBus) when there is no such directory. A single device or file that cannot
    /// be read is not an error: its fields say so.
    pub fn read(sysfs: &Sysfs) -> Result<Self, Error> {
        Self::read_fields(sysfs, Fields::all())
    }

    /// Reads only `fields` (and what they need).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_fields(sysfs: &Sysfs, fields: Fields) -> Result<Self, Error> {
        read::topology(sysfs, fields)
    }

    /// All functions in order of address.
    pub fn functions(&self) -> impl ExactSizeIterator<Item = &Function> {
        self.functions.iter()
    }

    /// The function of that name.
    #[must_use]
    pub fn function(&self, bdf: Bdf) -> Option<&Function> {
        let position = self.functions.binary_search_by_key(&bdf, |function| function.bdf);
        self.functions.get(position.ok()?)
    }

    /// The functions directly below a bridge (`Some`) or on the root buses (`None`), in order of address.
    pub fn children(&self, parent: Option<Bdf>) -> impl Iterator<Item = &Function> {
        let children = self.children.get(&parent).map(Vec::as_slice);
        children
            .unwrap_or_default()
            .iter()
            .filter_map(|position| self.functions.get(*position))
    }

    /// The bridges above a function, nearest first, up to its root port.
    pub fn parents(&self, bdf: Bdf) -> impl Iterator<Item = &Function> {
        let first = self.function(bdf).and_then(|f| f.parent);
        let bridges = std::iter::successors(first.and_then(|b| self.function(b)), |f| self.function(f.parent?));
        // A captured tree can claim that two bridges lie below each other.
        bridges.take(MAX_DEPTH)
    }

    /// The enabled VFs of a PF by index.
    pub fn virtual_functions(&self, pf: Bdf) -> impl Iterator<Item = &Function> {
        let vfs = self
            .function(pf)
            .and_then(|f| f.sriov.as_ref().ok()?.as_ref())
            .map(|s| s.virtual_functions.as_slice());
        vfs.unwrap_or_default().iter().filter_map(|vf| self.function(vf.bdf))
    }

    /// All IOMMU groups.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Group> {
        self.groups.values()
    }

    /// The group of that number.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(&id)
    }

    /// Whether VFIO would hand the group out, and who is in the way. Bridges are not. Needs [`Fields::ID`],
    /// [`Fields::DRIVER`] and [`Fields::GROUP`]; a member whose driver is not known counts as being in the way.
    #[must_use]
    pub fn viability(&self, group: &Group) -> Viability {
        let spoiler = |bdf: &Bdf| match self.function(*bdf) {
            Some(function) if !spoils(function) => None,
            Some(function) => Some((*bdf, function.driver.clone())),
            None => Some((*bdf, Err(Reason::Missing.at(format!("{}/{bdf}", read::DEVICES))))),
        };
        let spoilers = group.functions.iter().filter_map(spoiler);
        let spoilers: Vec<_> = spoilers.map(|(bdf, driver)| Spoiler { bdf, driver }).collect();
        if spoilers.is_empty() {
            Viability::Viable
        } else {
            Viability::Spoiled(spoilers)
        }
    }

    /// What lies among the functions and groups and makes no sense: names that are no address, links that lead elsewhere,
    /// groups that cannot be read. Empty on a healthy machine.
    #[must_use]
    pub fn oddities(&self) -> &[Unknown] {
        &self.oddities
    }
}
