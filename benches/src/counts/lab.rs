//! Instructions of ours that were counted in the lab, on a machine whose clock counts them: whether a run of `cargo lab bench` took as many as before.
//!
//! Left out is what has waits in it, which that clock counts: those for timers and devices of a guest that starts, and for an NVMe controller's reads; and
//! memory of a memfd, which varies by where its pages lie.

use super::{Baselines, Difference};
use crate::record::{Clock, Environment, Record};
use crate::report::Run;
use crate::report::compare::{is_ours, median};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Of so many instructions software alone decides: a second run counts the same. Fewer are means of a busy machine, more are the kernel's.
const STEADY: std::ops::RangeInclusive<f64> = 1_000.0..=10_000.0;

/// What instructions depend on but our own sources, as the host says it.
const FACTS: [&str; 8] = [
    "QEMU",
    "kernel",
    "kernel's flavour",
    OPTIONS,
    IMAGE,
    "IOMMU",
    "memory",
    "rustc",
];
/// Those of a kernel that was built here name its compiler, too.
const OPTIONS: &str = "kernel's options";
/// One that was built here has its date in it, and says nothing.
const IMAGE: &str = "kernel's image";

/// The baselines of runs, by their names: each holds for the environment that it was measured in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabBaselines(BTreeMap<String, Baselines>);

/// What became of a run's figures.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// They were compared, so many.
    Compared(usize, Difference),
    /// They cannot be, for this reason.
    Skipped(String),
}

impl LabBaselines {
    /// Reads them; there are none where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or is none of these.
    pub fn read(file: &Path) -> Result<Self> {
        if !file.try_exists().with_context(|| file.display().to_string())? {
            return Ok(Self::default());
        }
        Ok(Self(super::read(file)?))
    }

    /// Writes them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        super::write(file, &self.0)
    }

    /// Takes the figures of a run in place of those that there were of it; says how many.
    ///
    /// # Errors
    /// When two figures have the same name.
    pub fn save(&mut self, run: &Run) -> Result<usize> {
        let figures = figures(run)?;
        let count = figures.len();
        if count > 0 {
            let instructions = figures.iter().map(|(id, record)| (id.clone(), super::mean(record)));
            let baselines = Baselines {
                key: key(&run.environment),
                instructions: instructions.collect(),
            };
            self.0.insert(run.environment.name.clone(), baselines);
        }
        Ok(count)
    }

    /// Compares the figures of a run; `None` when it has none.
    ///
    /// # Errors
    /// When two figures have the same name.
    pub fn check(&self, run: &Run) -> Result<Option<Outcome>> {
        let figures = figures(run)?;
        if figures.is_empty() {
            return Ok(None);
        }
        let here = key(&run.environment);
        Ok(Some(match self.0.get(&run.environment.name) {
            None => Outcome::Skipped("there are no baselines of it".to_owned()),
            Some(baselines) if baselines.key != here => {
                Outcome::Skipped(format!("the baselines are of {}, and this is {here}", baselines.key))
            }
            Some(baselines) => Outcome::Compared(figures.len(), baselines.compare(&figures, tolerance)),
        }))
    }
}

/// Ours, by name, each by the median of its turns: what is far from it is a tick of the machine's timer.
///
/// # Errors
/// When two have the same name.
fn figures(run: &Run) -> Result<Vec<(String, Record)>> {
    // What valgrind counts has its own baselines.
    let is_of_lab = run.environment.facts.contains_key("QEMU");
    let is_checked =
        |record: &&Record| is_of_lab && record.clock == Clock::Instructions && is_ours(&record.way) && !varies(record);
    let mut figures = BTreeMap::new();
    for record in run.records.iter().filter(is_checked) {
        let id = format!("{}/{}/{}", record.suite, record.title(), record.way);
        let one = Record {
            turns: vec![median(&record.turns)],
            ..record.clone()
        };
        ensure!(figures.insert(id.clone(), one).is_none(), "two figures are called {id}");
    }
    Ok(figures.into_iter().collect())
}

/// What a device's time is in, or where pages lie: those of a memfd made a map of 16 MiB differ by up to 12 %.
fn varies(record: &Record) -> bool {
    record.suite == "guest" || record.case.contains("memfd") || record.case.contains("whole machine")
}

/// How much more than before is too much. A second run of the same programs had most within 0.05 %; maps of many small pages differed by up to 3.5 %,
/// for they are cheaper where these happen to lie side by side in memory, and what a frame or a read costs the driver by up to 3 %.
fn tolerance(before: f64) -> f64 {
    if STEADY.contains(&before) { 0.01 } else { 0.05 }
}

/// What the figures of an environment hold for.
fn key(environment: &Environment) -> String {
    let facts = &environment.facts;
    let is_built_here = facts.contains_key(OPTIONS);
    let told = FACTS
        .iter()
        .filter(|name| !(is_built_here && **name == IMAGE))
        .filter_map(|name| Some(format!("{name}: {}", facts.get(*name)?)));
    told.collect::<Vec<_>>().join("; ")
}

/// Where the baselines are.
#[must_use]
pub fn file() -> PathBuf {
    super::file().with_file_name("lab-baselines.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Change;

    /// A run in the lab, of these ways and figures of one case.
    fn run(rustc: &str, figures: &[(&str, &[f64])]) -> Run {
        let record = |&(way, turns): &(&str, &[f64])| Record {
            suite: "map".to_owned(),
            case: "map 4 KiB".to_owned(),
            way: way.to_owned(),
            given: [("interface".to_owned(), "iommufd".to_owned())].into(),
            clock: Clock::Instructions,
            unit: "instructions/op".to_owned(),
            turns: turns.to_vec(),
            alone: false,
            distribution: Vec::new(),
        };
        let facts = [("QEMU", "11, TCG"), ("rustc", rustc), ("load", rustc)];
        Run {
            environment: Environment {
                name: "map instructions".to_owned(),
                facts: facts.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
                peers: BTreeMap::new(),
            },
            records: figures.iter().map(record).collect(),
            absences: Vec::new(),
        }
    }

    const OURS: &str = "map/map 4 KiB, interface iommufd/ours";

    #[test]
    fn one_of_ours_that_has_grown_is_seen_and_a_tick_in_a_turn_is_not() {
        let mut baselines = LabBaselines::default();
        let before = run("1", &[("ours", &[100.0, 100.0, 900.0]), ("raw", &[50.0])]);
        assert_eq!(baselines.save(&before).unwrap(), 1);
        let compared = |difference| Some(Outcome::Compared(1, difference));
        let same = run("1", &[("ours", &[100.0, 100.0, 100.0]), ("raw", &[90.0])]);
        assert_eq!(baselines.check(&same).unwrap(), compared(Difference::default()));
        let change = |now| {
            vec![Change {
                id: OURS.to_owned(),
                before: Some(100.0),
                now,
            }]
        };
        let worse = Difference {
            worse: change(106.0),
            better: Vec::new(),
        };
        let better = Difference {
            worse: Vec::new(),
            better: change(90.0),
        };
        for (now, expected) in [(106.0, worse), (90.0, better)] {
            let now = run("1", &[("ours", &[now])]);
            assert_eq!(baselines.check(&now).unwrap(), compared(expected));
        }
    }

    #[test]
    fn what_holds_elsewhere_is_said_and_not_compared() {
        let mut baselines = LabBaselines::default();
        let reason = |baselines: &LabBaselines, run: &Run| match baselines.check(run).unwrap() {
            Some(Outcome::Skipped(reason)) => reason,
            other => panic!("{other:?}"),
        };
        let (old, new) = (run("1", &[("ours", &[1.0])]), run("2", &[("ours", &[9.0])]));
        assert_eq!(reason(&baselines, &old), "there are no baselines of it");
        baselines.save(&old).unwrap();
        let expected = "the baselines are of QEMU: 11, TCG; rustc: 1, and this is QEMU: 11, TCG; rustc: 2";
        assert_eq!(reason(&baselines, &new), expected);
    }

    #[test]
    fn a_kernel_that_was_built_here_is_known_by_its_options_and_another_one_by_its_image() {
        let mut facts = BTreeMap::from([(IMAGE.to_owned(), "a".to_owned())]);
        let key_of = |facts: &BTreeMap<String, String>| {
            key(&Environment {
                facts: facts.clone(),
                ..Environment::default()
            })
        };
        assert_eq!(key_of(&facts), "kernel's image: a");
        facts.insert(OPTIONS.to_owned(), "b".to_owned());
        assert_eq!(key_of(&facts), "kernel's options: b");
    }

    #[test]
    fn only_software_of_ours_in_the_lab_is_checked_and_by_one_name_each() {
        let baselines = LabBaselines::default();
        let with = |change: fn(&mut Run)| {
            let mut run = run("1", &[("ours", &[1.0])]);
            change(&mut run);
            run
        };
        for run in [
            with(|run| run.environment.facts.clear()),
            with(|run| run.records.iter_mut().for_each(|record| record.clock = Clock::Wall)),
            with(|run| run.records[0].clock = Clock::Wall),
            with(|run| "guest".clone_into(&mut run.records[0].suite)),
            with(|run| "map a memfd".clone_into(&mut run.records[0].case)),
            run("1", &[("raw", &[1.0])]),
        ] {
            assert_eq!(baselines.check(&run).unwrap(), None);
        }
        let twice = run("1", &[("ours", &[1.0]), ("ours", &[2.0])]);
        assert!(baselines.check(&twice).unwrap_err().to_string().ends_with(OURS));
    }

    #[test]
    fn saved_baselines_are_read_as_they_were_and_other_runs_stay() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lab-baselines.json");
        let mut baselines = LabBaselines::read(&file).unwrap();
        assert_eq!(baselines, LabBaselines::default());
        let mut other = run("1", &[("ours", &[1.0])]);
        "nvme instructions".clone_into(&mut other.environment.name);
        baselines.save(&other).unwrap();
        baselines.save(&run("1", &[("ours", &[2.0])])).unwrap();
        baselines.save(&run("1", &[("ours", &[3.0])])).unwrap();
        baselines.write(&file).unwrap();
        let read = LabBaselines::read(&file).unwrap();
        assert_eq!(read, baselines);
        assert_eq!(read.0.len(), 2);
    }
}
