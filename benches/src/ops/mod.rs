//! The table of operations that are measured, each once: `cargo bench -p benches` times them, the program `counts` counts their instructions and
//! calls to VFIO and iommufd.
//!
//! An [`Operation`] is made ready, and then done in cycles. A cycle leaves everything as it found it, so that any number of cycles costs the
//! same each. What belongs to the operation runs within [`metered`]; a model of a device does not.

mod config;
mod igbvf;
mod iova;
mod lookup;
mod map;
mod nvme;
mod plan;
mod pool;
mod random;
mod topology;
mod view;

use crate::record::{Absence, Clock, Record};
use anyhow::{Context, Result};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use vfio_core::fake::Machine;

/// The library that is measured, among the ways to do a thing.
pub const OURS: &str = "ours";

/// Something that is done, in one way.
pub struct Operation {
    /// What it belongs to.
    pub suite: &'static str,
    /// What is done.
    pub case: &'static str,
    /// At how many of what, where that makes a series.
    pub at: Option<(u64, &'static str)>,
    /// By whom.
    pub way: &'static str,
    /// How often a cycle does it.
    pub per_cycle: u32,
    /// What can be said of it.
    pub clocks: &'static [Clock],
    /// Whether it takes memory from the allocator or gives some back, where counting checks that.
    pub allocates: Option<bool>,
    prepare: Box<dyn Fn() -> Result<Subject>>,
}

/// What an operation is done to.
pub struct Subject {
    cycle: Box<dyn FnMut() -> Result<()>>,
    /// Notes the calls to VFIO and iommufd. Other system calls do not reach it.
    machine: Option<Machine>,
    /// What the cycle stands on, dropped after it.
    _ground: Box<dyn Any>,
}

/// All of them, those of a series next to one another.
#[must_use]
pub fn all() -> Vec<Operation> {
    let suites = [
        topology::operations,
        config::operations,
        plan::operations,
        iova::operations,
        lookup::operations,
        map::operations,
        pool::operations,
        nvme::operations,
        igbvf::operations,
        view::operations,
    ];
    suites.iter().flat_map(|operations| operations()).collect()
}

/// What is not measured, and why.
#[must_use]
pub fn absences() -> Vec<Absence> {
    iova::absences()
}

/// Runs what counts. The program `counts` knows this function by its name.
#[inline(never)]
pub fn metered<R>(operation: impl FnOnce() -> R) -> R {
    operation()
}

impl Operation {
    fn new<F>(suite: &'static str, case: &'static str, way: &'static str, per_cycle: u32, prepare: F) -> Self
    where
        F: Fn() -> Result<Subject> + 'static,
    {
        Self {
            suite,
            case,
            at: None,
            way,
            per_cycle,
            clocks: &[Clock::Wall, Clock::Instructions],
            allocates: None,
            prepare: Box::new(prepare),
        }
    }

    fn at(self, number: u64, what: &'static str) -> Self {
        Self {
            at: Some((number, what)),
            ..self
        }
    }

    fn by(self, clocks: &'static [Clock]) -> Self {
        Self { clocks, ..self }
    }

    /// One that does shows that the allocator is seen where those that do not use none.
    fn allocates(self, does: bool) -> Self {
        Self {
            allocates: Some(does),
            ..self
        }
    }

    /// Makes it ready. May take long, and much memory.
    ///
    /// # Errors
    /// What the parts of it say.
    pub fn prepare(&self) -> Result<Subject> {
        (self.prepare)().with_context(|| self.id())
    }

    /// Its name, of which there is one.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.suite, self.titled(), self.way)
    }

    /// Its case, and the number where there is a series of them.
    #[must_use]
    pub fn titled(&self) -> String {
        match self.at {
            Some((number, what)) => format!("{}, {number} {what}", self.case),
            None => self.case.to_owned(),
        }
    }

    /// A figure of it.
    #[must_use]
    pub fn record(&self, clock: Clock, turns: Vec<f64>) -> Record {
        let unit = match clock {
            Clock::Wall => "ns/op",
            Clock::Instructions => "instructions/op",
            Clock::Count => "VFIO calls/op",
        };
        let given = self.at.map(|(number, what)| (what.to_owned(), number.to_string()));
        Record {
            suite: self.suite.to_owned(),
            case: self.titled(),
            way: self.way.to_owned(),
            given: BTreeMap::from_iter(given),
            clock,
            unit: unit.to_owned(),
            turns,
            alone: false,
            distribution: Vec::new(),
        }
    }
}

impl Subject {
    fn new(cycle: impl FnMut() -> Result<()> + 'static) -> Self {
        Self {
            cycle: Box::new(cycle),
            machine: None,
            _ground: Box::new(()),
        }
    }

    fn on(self, ground: impl Any) -> Self {
        Self {
            _ground: Box::new(ground),
            ..self
        }
    }

    fn with_calls_of(self, machine: Machine) -> Self {
        Self {
            machine: Some(machine),
            ..self
        }
    }

    /// Does it as often as a cycle does.
    ///
    /// # Errors
    /// What the parts of it say.
    pub fn cycle(&mut self) -> Result<()> {
        (self.cycle)()
    }

    /// How many calls to VFIO and iommufd a cycle makes, where that is known.
    ///
    /// # Errors
    /// What the parts of it say.
    pub fn calls(&mut self) -> Result<Option<usize>> {
        let Some(machine) = &self.machine else { return Ok(None) };
        machine.forget_calls();
        (self.cycle)()?;
        Ok(Some(machine.calls().len()))
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_operation_has_a_name_of_its_own() {
        let operations = all();
        let ids: BTreeSet<_> = operations.iter().map(Operation::id).collect();
        assert_eq!(ids.len(), operations.len());
    }

    #[test]
    fn each_operation_works_and_does_so_again() {
        let small = |operation: &Operation| operation.at.is_none_or(|(number, _)| number <= 1000);
        let works = |operation: &Operation| -> Result<()> {
            let mut subject = operation.prepare()?;
            // Rings go round.
            for _ in 0..if operation.per_cycle < 64 { 40 } else { 2 } {
                subject.cycle()?;
            }
            let is_counted = operation.clocks.contains(&Clock::Count);
            anyhow::ensure!(subject.calls()?.is_some() == is_counted, "who notes the calls?");
            Ok(())
        };
        let operations = all();
        let failures = operations
            .iter()
            .filter(|operation| small(operation))
            .filter_map(|operation| {
                let error = works(operation).err()?;
                Some(format!("{operation:?}: {error:#}"))
            });
        assert_eq!(failures.collect::<Vec<_>>(), Vec::<String>::new());
    }

    #[test]
    fn what_is_absent_is_not_measured() {
        let operations = all();
        for absence in absences() {
            let measured = operations.iter().any(|operation| {
                (operation.suite, operation.way) == (&absence.suite, &absence.way) && operation.titled() == absence.case
            });
            assert!(!measured, "{absence:?}");
        }
    }
}
