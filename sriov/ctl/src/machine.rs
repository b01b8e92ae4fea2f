//! What a reading command looks at: the topology, and where they are needed names and holders.

use crate::column::Need;
use crate::failure::Failure;
use crate::output::Output;
use pci::{ClassCode, Fields, Function, Sysfs, Topology};

/// A machine as far as the command needs it.
pub(crate) struct Machine {
    pub(crate) topology: Topology,
}

impl Machine {
    /// What [`is_free`](Self::is_free) needs.
    pub(crate) const FREE: Need = Need {
        fields: Fields::ID.union(Fields::DRIVER).union(Fields::GROUP).union(Fields::CLASS_DEVICES),
        names: false,
        holders: true,
    };

    /// Reads what is needed and nothing else.
    ///
    /// # Errors
    /// When there is no PCI bus under the root.
    pub(crate) fn read(sysfs: &Sysfs, need: Need) -> Result<Self, Failure> {
        Ok(Self {
            topology: Topology::read_fields(sysfs, need.fields)?,
        })
    }

    /// The name of a class, or its code where the database has none.
    pub(crate) fn class_name(&self, class: ClassCode) -> String {
        class.to_string()
    }
    pub(crate) fn vendor_name(&self, function: &Function) -> Option<String> {
        None
    }
    pub(crate) fn function_name(&self, function: &Function) -> String {
        String::new()
    }
    pub(crate) fn is_free(&self, function: &Function) -> bool {
        true
    }
    pub(crate) fn note_what_was_not_seen(&self, output: &mut Output) {}
}
