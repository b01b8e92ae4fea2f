//! What a reading command looks at: the topology, and where they are needed names and holders.

use crate::column::Need;
use crate::failure::Failure;
use pci::{ClassCode, Function, Names, Sysfs, Topology};
use sriov::Holders;

/// A machine as far as the command needs it.
pub(crate) struct Machine {
    pub(crate) topology: Topology,
    names: Option<Names>,
    /// Who holds what; `None` when nobody asked.
    pub(crate) holders: Option<Holders>,
}

impl Machine {
    /// Reads what is needed and nothing else.
    ///
    /// # Errors
    /// When there is no PCI bus under the root.
    pub(crate) fn read(sysfs: &Sysfs, need: Need) -> Result<Self, Failure> {
        Ok(Self {
            topology: Topology::read_fields(sysfs, need.fields)?,
            names: need.names.then(|| Names::read(sysfs)),
            holders: need.holders.then(|| Holders::scan(sysfs)),
        })
    }

    /// The name of a class, or its code where the database has none.
    pub(crate) fn class_name(&self, class: ClassCode) -> String {
        todo!()
    }
}
