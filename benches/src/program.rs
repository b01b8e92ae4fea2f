//! What the programs that measure in the lab have in common: where they run, and how they say what they saw.

use crate::record::{Absence, Clock, Environment, Line, Lines, Record};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::io::{Stdout, Write, stdout};
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that measures one suite.
#[derive(Debug)]
pub struct Program {
    suite: &'static str,
    lines: Lines<Stdout>,
}

/// What a program that compares a driver of ours with others is asked for.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Rates or costs.
    #[arg(
        value_enum,
        hide_possible_values = true,
        help = "How many in a second (rates), or the instructions of each (costs: in the lab)"
    )]
    pub what: What,
    /// Path of our driver's example.
    #[arg(help = "Path of our driver's example")]
    pub program: String,
    /// As of all programs.
    #[command(flatten)]
    pub common: Common,
}

/// What every program is asked for that measures on a device.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// The user's own function, which is left as it was found.
    #[arg(
        long,
        value_name = "BDF",
        help = "Your own function; outside of the lab no other is touched [default: the lab's]"
    )]
    pub device: Option<pci::Bdf>,
    /// Fewer cases and turns.
    #[arg(long = "quick", help = "Fewer cases and turns")]
    pub is_quick: bool,
}

/// Which figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// How many in a second.
    Rates,
    /// Instructions for each.
    Costs,
}

impl Arguments {
    /// Refuses costs of a named device outside of the lab, where no clock counts instructions.
    ///
    /// # Errors
    /// Then.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.what == What::Rates || is_lab(),
            "costs are instructions, which the clock of cargo lab bench counts; with --device: rates"
        );
        Ok(())
    }
}

/// Whether this runs in the lab, whose devices are nobody's.
#[must_use]
pub fn is_lab() -> bool {
    std::env::var_os("LAB").is_some()
}

/// What a figure is of, and in what circumstances.
#[derive(Debug, Clone)]
pub struct Case {
    /// As in [`Record::case`].
    pub name: String,
    /// As in [`Record::given`].
    pub given: BTreeMap<String, String>,
    /// As in [`Record::clock`].
    pub clock: Clock,
    /// As in [`Record::unit`].
    pub unit: &'static str,
}

/// The figures of a case, by way and turn.
#[derive(Debug, Default)]
pub struct Turns(Vec<(String, Vec<f64>)>);

impl Program {
    /// One that changes the machine it runs on.
    ///
    /// # Errors
    /// Outside of the lab, and as [`on_host`](Self::on_host).
    pub fn in_lab(suite: &'static str, peers: &[(&str, &[&str])]) -> Result<Self> {
        ensure!(
            is_lab(),
            "this changes the machine it runs on: cargo lab bench runs it in the lab"
        );
        Self::on_host(suite, peers)
    }

    /// One that changes the machine of the lab, or elsewhere the function that its user named; `crates` are compared with, too.
    ///
    /// # Errors
    /// Outside of the lab without such a function, and as [`on_host`](Self::on_host).
    pub fn on_device(
        suite: &'static str,
        named: Option<pci::Bdf>,
        peers: &[(&str, &[&str])],
        crates: &[&str],
    ) -> Result<Self> {
        ensure!(
            named.is_some() || is_lab(),
            "this changes the machine it runs on: cargo lab bench runs it in the lab, and --device BDF has it change that function for a while"
        );
        Self::speaking(suite, peers, crates)
    }

    /// Begins to speak: says where it runs, and which versions of `peers` are there, which are asked for theirs by these commands.
    ///
    /// # Errors
    /// When it was built without optimisation: such figures would say nothing.
    pub fn on_host(suite: &'static str, peers: &[(&str, &[&str])]) -> Result<Self> {
        Self::speaking(suite, peers, &[])
    }

    fn speaking(suite: &'static str, peers: &[(&str, &[&str])], crates: &[&str]) -> Result<Self> {
        ensure!(
            !cfg!(debug_assertions),
            "figures of a program built without --release would say nothing"
        );
        let mut lines = Lines::new(stdout());
        let versions = peers
            .iter()
            .filter_map(|(name, argv)| Some(((*name).to_owned(), version(argv)?)));
        lines.say(&Line::Environment(Environment {
            name: String::new(),
            facts: facts()?,
            peers: versions.chain(crate::peers::versions(crates)).collect(),
        }))?;
        Ok(Self { suite, lines })
    }

    /// What it says from here on belongs to another suite.
    pub fn turn_to(&mut self, suite: &'static str) {
        self.suite = suite;
    }

    /// Says the figures of a case.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn say(&mut self, case: &Case, turns: Turns) -> Result<()> {
        turns
            .0
            .into_iter()
            .try_for_each(|(way, turns)| self.say_way(case, &way, turns, Vec::new()))
    }

    /// Says the figures of one way, with a histogram.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn say_way(&mut self, case: &Case, way: &str, turns: Vec<f64>, distribution: Vec<(f64, u64)>) -> Result<()> {
        Ok(self.lines.say(&Line::Record(Record {
            suite: self.suite.to_owned(),
            case: case.name.clone(),
            way: way.to_owned(),
            given: case.given.clone(),
            clock: case.clock,
            unit: case.unit.to_owned(),
            turns,
            alone: false,
            distribution,
        }))?)
    }

    /// Says that there are no figures of a way, of all cases when `case` is empty.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn absent(&mut self, case: &str, way: &str, reason: &str) -> Result<()> {
        let [suite, case, way, reason] = [self.suite, case, way, reason].map(str::to_owned);
        Ok(self.lines.say(&Line::Absence(Absence {
            suite,
            case,
            way,
            reason,
        }))?)
    }

    /// Says something to the user.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, text: &str) -> Result<()> {
        Ok(writeln!(stdout(), "{text}")?)
    }

    /// Says that there is no more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(self) -> Result<()> {
        Ok(self.lines.end()?)
    }
}

impl Turns {
    /// Adds the next turn of a way.
    pub fn add(&mut self, way: &str, figure: f64) {
        match self.0.iter_mut().find(|(name, _)| name == way) {
            Some((_, figures)) => figures.push(figure),
            None => self.0.push((way.to_owned(), vec![figure])),
        }
    }

    /// The figures of a way so far.
    #[must_use]
    pub fn of(&self, way: &str) -> &[f64] {
        let found = self.0.iter().find(|(name, _)| name == way);
        found.map_or(&[], |(_, figures)| figures.as_slice())
    }
}

/// Takes the ways in their order in even turns and backwards in odd ones, so that none always follows the same other.
pub fn in_turns<T: Copy>(ways: &[T], turn: usize) -> Vec<T> {
    let mut ways = ways.to_vec();
    if turn % 2 == 1 {
        ways.reverse();
    }
    ways
}

/// The first line that a command says, if it is there.
fn version(argv: &[&str]) -> Option<String> {
    let (program, arguments) = argv.split_first()?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let line = said
        .iter()
        .flat_map(|text| text.lines())
        .find(|line| !line.trim().is_empty())?;
    Some(line.trim().to_owned())
}

/// By which of the kernel's interfaces a device is opened where a case names none.
#[must_use]
pub fn interface() -> Option<&'static str> {
    let all = [("/dev/iommu", "iommufd"), ("/dev/vfio", "type1v2")];
    let found = all.into_iter().find(|(path, _)| Path::new(path).exists());
    found.map(|(_, name)| name)
}

/// What the machine says of itself.
fn facts() -> Result<BTreeMap<String, String>> {
    let kernel = rustix::system::uname();
    let cpus = std::thread::available_parallelism()?;
    let module = |module: &str, parameter: &str| {
        let path = format!("/sys/module/{module}/parameters/{parameter}");
        let value = system_tests::machine::read(path).ok()?;
        Some((format!("{module}.{parameter}"), value))
    };
    let mut facts = BTreeMap::from([
        ("kernel".to_owned(), kernel.release().to_string_lossy().into_owned()),
        ("CPUs".to_owned(), cpus.to_string()),
        ("profile".to_owned(), "release".to_owned()),
    ]);
    facts.extend(interface().map(|name| ("interface".to_owned(), name.to_owned())));
    facts.extend(module("kvm_amd", "avic"));
    facts.extend(module("kvm_intel", "enable_ipiv"));
    if let Ok(version) = system_tests::machine::read("/proc/sys/kernel/version") {
        facts.insert("kernel build".to_owned(), version);
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_there_and_back() {
        assert_eq!(in_turns(&[1, 2, 3], 0), [1, 2, 3]);
        assert_eq!(in_turns(&[1, 2, 3], 1), [3, 2, 1]);
        let mut turns = Turns::default();
        for figure in [1.0, 2.0] {
            turns.add("ours", figure);
        }
        assert_eq!((turns.of("ours"), turns.of("raw")), (&[1.0, 2.0][..], &[][..]));
    }
}
