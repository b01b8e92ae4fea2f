//! The structures behind JSON documents: one per kind of fact, so that the library's types stay free to change.

use pci::Reading;
use serde::Serialize;
use std::collections::BTreeMap;

pub(crate) mod config;
pub(crate) mod function;
pub(crate) mod isolation;
pub(crate) mod step;

/// A process that has a function in its hands.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Holder {
    function: Option<String>,
    pid: u32,
    process: String,
    command_line: String,
    through: String,
}

impl From<&sriov::Holder> for Holder {
    fn from(holder: &sriov::Holder) -> Self {
        Self {
            function: holder.function.map(|function| function.to_string()),
            pid: holder.pid,
            process: holder.command.clone(),
            command_line: holder.command_line.clone(),
            through: holder.path.display().to_string(),
        }
    }
}

/// Why values are `null` although there may be one: the reason by the name of the field.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Unknowns(BTreeMap<&'static str, String>);

impl Unknowns {
    /// The value, or `None` and a note of the reason.
    pub(crate) fn known<T>(&mut self, field: &'static str, reading: Reading<T>) -> Option<T> {
        reading.map_err(|unknown| self.insert(field, unknown.to_string())).ok()
    }

    /// As [`known`](Self::known), where `None` may also be the value.
    pub(crate) fn optional<T>(&mut self, field: &'static str, reading: Reading<Option<T>>) -> Option<T> {
        self.known(field, reading).flatten()
    }

    /// The fields and reasons noted so far.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(field, reason)| (*field, reason.as_str()))
    }

    /// Notes why a field is not known.
    pub(crate) fn insert(&mut self, field: &'static str, reason: String) {
        self.0.insert(field, reason);
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {}) through {}", self.process, self.pid, self.through)
    }
}
