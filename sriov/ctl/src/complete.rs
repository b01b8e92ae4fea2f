//! What the shell offers after the tab key: names of this machine.

use crate::{column, explain};
use clap::builder::StyledStr;
use clap_complete::engine::CompletionCandidate;
use pci::{Driver, Fields, Function, Sysfs, Topology};
use std::ffi::OsStr;

/// The variable by which a shell's script asks for candidates.
pub(crate) const VARIABLE: &str = "SRIOVCTL_COMPLETE";

/// Addresses and class devices, for any selector.
pub(crate) fn functions(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, |_| true)
}

/// As [`functions`], PFs only.
pub(crate) fn physical_functions(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, |function| matches!(function.sriov, Ok(Some(_))))
}

/// Drivers of the PCI bus.
pub(crate) fn drivers(current: &OsStr) -> Vec<CompletionCandidate> {
    let drivers = Driver::read_all(&sysfs()).unwrap_or_default();
    starting_with(current, drivers.into_iter().map(|driver| (driver.name, None)))
}

/// Columns; with several separated by commas, the last one.
pub(crate) fn columns(current: &OsStr) -> Vec<CompletionCandidate> {
    let before = current
        .to_str()
        .and_then(|text| text.rfind([',', '+']).and_then(|end| text.get(..=end)));
    let before = before.unwrap_or_default();
    let columns = column::COLUMNS.iter();
    starting_with(
        current,
        columns.map(|column| (format!("{before}{}", column.name), Some(column.about.to_owned()))),
    )
}

/// Codes of errors.
pub(crate) fn codes(current: &OsStr) -> Vec<CompletionCandidate> {
    let entries = explain::ENTRIES.iter();
    starting_with(
        current,
        entries.map(|entry| (entry.code.to_owned(), Some(entry.title.to_owned()))),
    )
}

fn candidates(current: &OsStr, keep: impl Fn(&Function) -> bool) -> Vec<CompletionCandidate> {
    let fields = Fields::CLASS_DEVICES | Fields::SRIOV | Fields::DRIVER;
    let Ok(topology) = Topology::read_fields(&sysfs(), fields) else {
        return Vec::new();
    };
    // `pf:ens1f0` is completed after its prefix.
    let prefix = current
        .to_str()
        .filter(|text| text.starts_with("pf:"))
        .map_or("", |_| "pf:");
    let kept = topology.functions().filter(|function| keep(function));
    let found = kept.flat_map(|function| {
        let driver = function.driver.clone().ok().flatten();
        let address = function.bdf.to_string();
        let devices = function.class_devices.as_deref().unwrap_or_default();
        let names = devices
            .iter()
            .map(|device| (format!("{prefix}{}", device.name), Some(address.clone())));
        let names: Vec<_> = names.collect();
        std::iter::once((format!("{prefix}{address}"), driver)).chain(names)
    });
    starting_with(current, found)
}

fn starting_with(
    current: &OsStr,
    candidates: impl Iterator<Item = (String, Option<String>)>,
) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else {
        return Vec::new();
    };
    candidates
        .filter(|(value, _)| value.starts_with(current))
        .map(|(value, help)| CompletionCandidate::new(value).help(help.map(StyledStr::from)))
        .collect()
}

fn sysfs() -> Sysfs {
    std::env::var_os("SRIOVCTL_SYSROOT").map_or_else(Sysfs::host, Sysfs::at)
}
