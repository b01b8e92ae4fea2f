//! What a reading command looks at: the topology, and where they are needed names and holders.

use crate::column::Need;
use crate::failure::Failure;
use crate::output::Output;
use pci::{Bdf, ClassCode, Fields, Function, Names, Sysfs, Topology, Viability};
use sriov::{Coverage, Holder, Holders};
use std::borrow::Cow;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

/// A machine as far as the command needs it.
pub(crate) struct Snapshot {
    pub(crate) topology: Topology,
    names: Names,
    /// Who holds what; `None` when nobody asked.
    pub(crate) holders: Option<Holders>,
}

impl Snapshot {
    /// What [`is_free`](Self::is_free) needs.
    pub(crate) const FREE: Need = Need {
        fields: Fields::ID
            .union(Fields::DRIVER)
            .union(Fields::GROUP)
            .union(Fields::CLASS_DEVICES),
        names: false,
        holders: true,
    };

    /// Reads what is needed and nothing else.
    ///
    /// # Errors
    /// When there is no PCI bus under the root.
    pub(crate) fn read(sysfs: &Sysfs, need: Need) -> Result<Self, Failure> {
        let (topology, names) = thread::scope(|scope| {
            // The names come from a large file, and a topology begins with a wait for one long directory.
            let names = need.names.then(|| scope.spawn(|| Names::read(sysfs)));
            let topology = Topology::read_fields(sysfs, need.fields);
            (topology, names.map(ScopedJoinHandle::join))
        });
        Ok(Self {
            topology: topology?,
            names: names.map_or_else(Names::built_in, |read| {
                read.unwrap_or_else(|panic| resume_unwind(panic))
            }),
            holders: need.holders.then(|| Holders::scan(sysfs)),
        })
    }

    /// The name of a class, or its code where the database has none.
    pub(crate) fn class_name(&self, class: ClassCode) -> Cow<'_, str> {
        let by_code = || format!("Class {class}").into();
        self.names.class(class).map_or_else(by_code, Cow::Borrowed)
    }

    /// The name of the vendor, if the database has it.
    pub(crate) fn vendor_name(&self, function: &Function) -> Option<&str> {
        self.names.vendor(*function.vendor.as_ref().ok()?)
    }

    /// The name of the device, if the database has it.
    pub(crate) fn device_name(&self, function: &Function) -> Option<&str> {
        self.names
            .device(*function.vendor.as_ref().ok()?, *function.device.as_ref().ok()?)
    }

    /// The name of the board, if the database has it.
    pub(crate) fn subsystem_name(&self, function: &Function) -> Option<&str> {
        let (vendor, device) = (function.vendor.as_ref().ok()?, function.device.as_ref().ok()?);
        self.names
            .subsystem(*vendor, *device, (*function.subsystem.as_ref().ok()?)?)
    }

    /// Vendor and device by name, each by number where it has none.
    pub(crate) fn function_name(&self, function: &Function) -> String {
        let by_number = |number: Option<String>| number.map_or("?".into(), |number| format!("[{number}]").into());
        let vendor = self.vendor_name(function).map(Cow::Borrowed);
        let vendor = vendor.unwrap_or_else(|| by_number(function.vendor.as_ref().ok().map(ToString::to_string)));
        let device = self.device_name(function).map(Cow::Borrowed);
        let device = device.unwrap_or_else(|| by_number(function.device.as_ref().ok().map(ToString::to_string)));
        [&*vendor, " ", &*device].concat()
    }

    /// Who holds a function, as far as could be seen.
    pub(crate) fn holders_of(&self, function: Bdf) -> Vec<Holder> {
        self.holders
            .as_ref()
            .map(|holders| holders.of(function))
            .unwrap_or_default()
    }

    /// Whether a guest can take the function now: on a VFIO driver, in a viable group that nobody has anything of.
    pub(crate) fn is_free(&self, function: &Function) -> bool {
        let group = function
            .iommu_group
            .as_ref()
            .ok()
            .and_then(|id| self.topology.group((*id)?));
        is_on_vfio(function)
            && group.is_some_and(|group| {
                self.topology.viability(group) == Viability::Viable
                    && group.functions.iter().all(|member| self.holders_of(*member).is_empty())
            })
            // Nobody can say which function such a process has.
            && self.holders.as_ref().is_some_and(|holders| holders.unnamed().is_empty())
    }

    /// Says on standard error what the user's privileges did not allow to see.
    pub(crate) fn note_what_was_not_seen(&self, output: &mut Output) {
        if let Some(text) = self.holders.as_ref().and_then(|holders| not_seen(&holders.coverage)) {
            output.note(text);
        }
    }
}

/// Whether its driver hands the function to user space through VFIO: by name, or because it made a VFIO device.
pub(crate) fn is_on_vfio(function: &Function) -> bool {
    let devices = function.class_devices.as_deref().unwrap_or_default();
    let by_name = |driver: &str| driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci");
    matches!(&function.driver, Ok(Some(driver)) if by_name(driver)) || devices.iter().any(|d| d.class == "vfio-dev")
}

/// What a scan for holders could not see, in words.
pub(crate) fn not_seen(coverage: &Coverage) -> Option<String> {
    match coverage {
        Coverage::Full => None,
        Coverage::Partial { unreadable, hidden } => {
            let hidden = if *hidden { ", and others are hidden" } else { "" };
            Some(format!(
                "{unreadable} processes could not be looked into{hidden}: run as root to see all holders"
            ))
        }
        Coverage::Nothing(unknown) => Some(format!("who holds functions is not known: {unknown}")),
    }
}
