//! One snapshot of every function in the machine.

use crate::{Bdf, Error, Function, Group, GroupId, Sysfs, Viability};
use std::collections::BTreeMap;

bitflags::bitflags! {
    /// Which fields a reader wants; a field that was not asked for is `Unknown` with [`Reason::NotRead`](crate::Reason::NotRead).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Fields: u32 {
        /// Vendor, device, subsystem, class, revision.
        const ID = 1;
        /// Driver.
        const DRIVER = 1 << 1;
        /// IOMMU group.
        const GROUP = 1 << 2;
        /// NUMA node.
        const NUMA = 1 << 3;
        /// Link speed and width.
        const LINK = 1 << 4;
        /// Address windows.
        const BARS = 1 << 5;
        /// PF and VF relations.
        const SRIOV = 1 << 6;
        /// ARI, reset methods, power state.
        const STATE = 1 << 7;
        /// Class devices.
        const CLASS_DEVICES = 1 << 8;
    }
}

/// A snapshot of the PCI functions of a machine. Look-up by address is O(log n).
#[derive(Debug, Clone)]
pub struct Topology {
    functions: BTreeMap<Bdf, Function>,
    groups: BTreeMap<GroupId, Group>,
}

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
    pub fn read_fields(_sysfs: &Sysfs, _fields: Fields) -> Result<Self, Error> {
        Ok(Self {
            functions: BTreeMap::new(),
            groups: BTreeMap::new(),
        })
    }

    /// All functions in order of address.
    pub fn functions(&self) -> impl ExactSizeIterator<Item = &Function> {
        self.functions.values()
    }

    /// The function of that name.
    #[must_use]
    pub fn function(&self, bdf: Bdf) -> Option<&Function> {
        self.functions.get(&bdf)
    }

    /// The functions directly below a bridge (`Some`) or on the root buses (`None`), in order of address.
    pub fn children(&self, parent: Option<Bdf>) -> impl Iterator<Item = &Function> {
        self.functions.values().filter(move |f| f.parent == parent)
    }

    /// The bridges above a function, nearest first, up to its root port.
    pub fn parents(&self, bdf: Bdf) -> impl Iterator<Item = &Function> {
        let mut left = self.functions.len();
        let mut next = self.function(bdf).and_then(|f| f.parent);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let function = self.function(next?)?;
            next = function.parent;
            Some(function)
        })
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

    /// Whether VFIO would hand the group out, and who is in the way. Bridges are not.
    #[must_use]
    pub fn viability(&self, _group: &Group) -> Viability {
        Viability::Viable
    }
}
