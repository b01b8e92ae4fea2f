//! What is measured on a device that this process has: the program `device-bench`.
//!
//! A [`Session`] says what there is to measure on and takes the figures. Each part is a module with a `run`.

pub mod dma;
pub mod interrupt;
pub mod lab;
pub mod map;
pub mod meter;
pub mod open;
pub mod pool;

use crate::peers;
use crate::program::interface;
use crate::record::{Absence, Clock, Environment, Line, Lines, Record};
use anyhow::{Context, Result};
use meter::Meter;
use pci::Bdf;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{Read, Stdout, Write};

/// A run of the program.
#[derive(Debug)]
pub struct Session {
    /// The clock.
    pub meter: Meter,
    /// Fewer sizes, fewer turns.
    pub is_quick: bool,
    /// Only cases that have this in their names.
    pub filter: Option<String>,
    lines: Lines<Stdout>,
}

/// A case of a suite, as a record names it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Of which suite.
    pub suite: &'static str,
    /// Its name.
    pub name: String,
    /// Its circumstances.
    pub given: BTreeMap<String, String>,
}

impl Case {
    /// A case.
    pub fn new(suite: &'static str, name: impl Into<String>, given: &[(&str, &str)]) -> Self {
        let given = given.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            suite,
            name: name.into(),
            given: given.collect(),
        }
    }
}

impl Session {
    /// Says what the machine is.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn new(clock: Clock, is_quick: bool, filter: Option<String>) -> Result<Self> {
        let mut lines = Lines::new(std::io::stdout());
        lines.say(&Line::Environment(environment(clock)))?;
        Ok(Self {
            meter: Meter::new(clock),
            is_quick,
            filter,
            lines,
        })
    }

    /// Whether a case is asked for.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Tells a figure: one value for each turn, of what the clock counts for an operation.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn tell(&mut self, case: &Case, way: &str, turns: Vec<f64>) -> Result<()> {
        self.tell_as(case, way, turns, self.meter.clock(), self.meter.unit(), Vec::new())
    }

    /// As [`tell`](Self::tell), in a unit of its own and with a histogram.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn tell_as(
        &mut self,
        case: &Case,
        way: &str,
        turns: Vec<f64>,
        clock: Clock,
        unit: &str,
        distribution: Vec<(f64, u64)>,
    ) -> Result<()> {
        say(&format!("{}: {way}: {:.1} {unit}", case.name, meter::median(&turns)));
        let record = Record {
            suite: case.suite.to_owned(),
            case: case.name.clone(),
            way: way.to_owned(),
            given: case.given.clone(),
            clock,
            unit: unit.to_owned(),
            turns,
            alone: false,
            distribution,
        };
        Ok(self.lines.say(&Line::Record(record))?)
    }

    /// Tells that a figure cannot be had.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn miss(&mut self, suite: &str, case: &str, way: &str, reason: &(impl Display + ?Sized)) -> Result<()> {
        let reason = reason.to_string();
        say(&format!("{case}: {way}: not measured: {reason}"));
        let absence = Absence {
            suite: suite.to_owned(),
            case: case.to_owned(),
            way: way.to_owned(),
            reason,
        };
        Ok(self.lines.say(&Line::Absence(absence))?)
    }

    /// Tells that this is all.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn end(self) -> Result<()> {
        Ok(self.lines.end()?)
    }
}

/// For the user.
fn say(text: &str) {
    // Whoever closed it does not want to know.
    drop(std::io::stderr().write_all(format!("{text}\n").as_bytes()));
}

/// What is measured on.
fn environment(clock: Clock) -> Environment {
    let name = match clock {
        Clock::Instructions => "device, instructions",
        Clock::Wall | Clock::Count => "device, wall clock",
    };
    let cpu = file("/proc/cpuinfo");
    let cpu = cpu.as_deref().unwrap_or_default().lines();
    let cpus: Vec<&str> = cpu
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name)
        .collect();
    let is_bypassed = ["kvm_intel/parameters/enable_ipiv", "kvm_amd/parameters/avic"];
    let posted = is_bypassed.iter().find_map(|path| {
        let value = file(&format!("/sys/module/{path}"))?;
        Some(format!("{path}: {}", value.trim()))
    });
    let facts = [
        ("processor", cpus.first().map(|name| (*name).to_owned())),
        ("processors", Some(cpus.len().to_string())),
        ("kernel", file("/proc/sys/kernel/osrelease")),
        ("profile", Some("release".to_owned())),
        ("interface", interface().map(str::to_owned)),
        ("lab", std::env::var("LAB").ok()),
        ("load", file("/proc/loadavg")),
        (
            "posted interrupts",
            Some(posted.unwrap_or_else(|| "no KVM that posts interrupts".to_owned())),
        ),
        (
            "instructions",
            (clock == Clock::Instructions)
                .then(|| "what the IOMMU and the device do, its IOTLB's invalidation too, takes none".to_owned()),
        ),
    ];
    let facts = facts
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.trim().to_owned())));
    Environment {
        name: name.to_owned(),
        facts: facts.collect(),
        peers: peers::versions(peers::OF_DEVICE),
    }
}

/// What a small file of the system holds.
fn file(path: &str) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.read_to_string(&mut text).ok()?;
    Some(text)
}

/// The driver that a function is on.
fn driver(bdf: Bdf) -> Option<String> {
    let link = std::fs::read_link(format!("/sys/bus/pci/devices/{bdf}/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Functions that this process may have: bound to a VFIO driver by whoever started it.
///
/// # Errors
/// For one that is on another driver, with what binds it.
pub fn ready(functions: &[Bdf]) -> Result<()> {
    functions.iter().try_for_each(|bdf| {
        let driver =
            driver(*bdf).with_context(|| format!("{bdf} has no driver: sriovctl bind {bdf} --driver vfio-pci"))?;
        anyhow::ensure!(
            driver.contains("vfio"),
            "{bdf} is on {driver}: sriovctl bind {bdf} --driver vfio-pci"
        );
        Ok(())
    })
}
