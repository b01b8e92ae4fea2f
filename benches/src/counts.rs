//! Counting instructions: each operation in a few turns under callgrind, which counts what [`metered`](crate::ops::metered) runs, and not what a model
//! of a device, or of KVM, does meanwhile.
//!
//! Compared are the sums of all turns with those of [`Baselines`], which hold for one compiler, C library and valgrind: what they have in common is
//! in their [`key`]. gungraun would do the same, with a program of its own that has to be installed in the right version.

mod difference;
pub mod lab;

use crate::aims::LOGARITHMIC;
use crate::ops::{Operation, Subject};
use crate::record::{Clock, Record};
use anyhow::{Context, Result, ensure};
pub use difference::{Change, Difference};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Turns that count. There is one before them, which also has what was counted while the operation was made ready.
pub const TURNS: usize = 3;
/// How often an operation is done in a turn, at least.
const OF_TURN: u32 = 1024;
/// How much turns may differ: what goes on is not the same otherwise.
const SPREAD: f64 = 0.15;
/// See [`tolerance`].
const TOLERANCE: f64 = 0.03;
/// Operations on more are not checked: to make them ready takes minutes under callgrind.
const MOST: u64 = 100_000;

/// Functions of the fake machine, which do not count: registers, and with them the model of a device, what maps and unmaps, and
/// what stands for calls of KVM.
const MODELS: [&str; 6] = [
    "<vfio_core::fake::vfio::mapping::Mapping as*",
    "<vfio_core::fake::iommu::calls::Handle as vfio_core::sys::iommufd::Calls>::ioas_map",
    "<vfio_core::fake::iommu::calls::Handle as vfio_core::sys::iommufd::Calls>::ioas_unmap",
    "<vfio_core::fake::vfio::container::Handle as vfio_core::sys::vfio::ContainerCalls>::map_dma",
    "<vfio_core::fake::vfio::container::Handle as vfio_core::sys::vfio::ContainerCalls>::unmap_dma",
    "<vmm_glue::fake::FakeRoute as*",
];

/// Functions of the C library that take and give back memory: what is allocated in Rust, too, ends there.
const ALLOCATOR: [&str; 7] = [
    "malloc",
    "calloc",
    "realloc",
    "free",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
];

/// Instructions for each operation that is checked, by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// What they hold for.
    pub key: String,
    /// Instructions.
    pub instructions: BTreeMap<String, f64>,
}

/// Why what is counted here cannot be compared with the baselines of a file, if so: no valgrind, no such file, or another [`key`].
///
/// # Errors
/// When the file is there and cannot be read; those of [`key`].
pub fn incomparable(file: &Path) -> Result<Option<String>> {
    if let Some(reason) = valgrind_is_missing() {
        return Ok(Some(reason));
    }
    if !file.try_exists().with_context(|| file.display().to_string())? {
        return Ok(Some(format!("there is no {}: counts --save", file.display())));
    }
    Baselines::read(file)?.differ()
}

/// Why nothing can be counted, if so.
#[must_use]
pub fn valgrind_is_missing() -> Option<String> {
    let version = output("valgrind", &["--version"]);
    version.err().map(|error| format!("{error:#}; apt install valgrind"))
}

/// Versions of all that instructions depend on but our own sources.
///
/// # Errors
/// When one of them cannot be had.
pub fn key() -> Result<String> {
    let rustc = output("rustc", &["--version"])?;
    let library = output("getconf", &["GNU_LIBC_VERSION"])?;
    let valgrind = output("valgrind", &["--version"])?;
    Ok(format!("{}, {rustc}, {library}, {valgrind}", std::env::consts::ARCH))
}

/// What a program prints first.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Whether its instructions can be counted.
#[must_use]
pub fn is_counted(operation: &Operation) -> bool {
    operation.clocks.contains(&Clock::Instructions)
}

/// Whether they are checked.
#[must_use]
pub fn is_checked(operation: &Operation) -> bool {
    is_counted(operation) && operation.at.is_none_or(|(number, _)| number <= MOST)
}

/// Does an operation in turns: what is run under callgrind.
///
/// # Errors
/// What the operation says.
pub fn run(operation: &Operation) -> Result<()> {
    let mut subject = operation.prepare()?;
    let cycles = cycles(operation);
    for _ in 0..=TURNS {
        counted_turn(&mut subject, cycles)?;
    }
    Ok(())
}

fn cycles(operation: &Operation) -> u32 {
    OF_TURN.div_ceil(operation.per_cycle)
}

/// Callgrind writes what it has counted when this returns, and knows it by its name.
#[inline(never)]
fn counted_turn(subject: &mut Subject, cycles: u32) -> Result<()> {
    (0..cycles).try_for_each(|_| subject.cycle())
}

/// Counts the instructions of operations by running `program` with these arguments and their names.
///
/// # Errors
/// When callgrind cannot be run, the program fails, the turns of an operation differ, or one allocates that should not.
pub fn count(program: &Path, arguments: &[&str], operations: &[Operation]) -> Result<Vec<Record>> {
    let directory = tempfile::tempdir()?;
    let files = directory.path().join("out");
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind", "--collect-atstart=no"])
        // Else a function has its name where it is mentioned first, and elsewhere a number.
        .arg("--compress-strings=no")
        .arg("--toggle-collect=benches::ops::metered*")
        .args(MODELS.map(|function| format!("--toggle-collect={function}")))
        .arg("--dump-after=benches::counts::counted_turn*")
        .arg(format!("--callgrind-out-file={}", files.display()))
        .arg(program)
        .args(arguments)
        .args(operations.iter().map(Operation::id))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // What libc copies with must not depend on the processor.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM",
        );
    let status = command.status().context("valgrind")?;
    ensure!(status.success(), "under valgrind: {status}");
    let mut files = (1..).map(|number| directory.path().join(format!("out.{number}")));
    operations
        .iter()
        .map(|operation| {
            let done = f64::from(cycles(operation) * operation.per_cycle);
            let turns = files.by_ref().take(TURNS + 1).skip(1);
            let turns: Vec<f64> = turns
                .map(|file| {
                    let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
                    let text = String::from_utf8_lossy(&text);
                    let called = allocator_calls(&text);
                    ensure!(
                        operation
                            .allocates
                            .is_none_or(|allocates| allocates != called.is_empty()),
                        "{operation:?} is known to {} memory, and calls of the allocator: {called:?}",
                        if called.is_empty() { "take" } else { "take no" }
                    );
                    Ok(total(&text).with_context(|| operation.id())? / done)
                })
                .collect::<Result<_>>()?;
            ensure!(
                is_steady(&turns),
                "{operation:?} is not the same each time: {turns:?} instructions"
            );
            Ok(operation.record(Clock::Instructions, turns))
        })
        .collect()
}

/// The functions of the allocator in which a file of callgrind has counted anything.
fn allocator_calls(text: &str) -> Vec<&str> {
    let functions = text.lines().filter_map(|line| line.strip_prefix("fn="));
    // Callgrind adds `'2` to a function that has called itself.
    let names = functions.map(|function| function.split('\'').next().unwrap_or(function));
    let called: BTreeSet<&str> = names.filter(|name| ALLOCATOR.contains(name)).collect();
    called.into_iter().collect()
}

/// All that is in a file of callgrind.
fn total(text: &str) -> Result<f64> {
    let total = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    let total: f64 = total.context("callgrind gives no totals")?.trim().parse()?;
    ensure!(total > 0.0, "callgrind has counted nothing");
    Ok(total)
}

fn is_steady(turns: &[f64]) -> bool {
    let least = turns.iter().copied().fold(f64::INFINITY, f64::min);
    let most = turns.iter().copied().fold(0.0, f64::max);
    most - least <= SPREAD * most
}

impl Baselines {
    /// Of these figures.
    ///
    /// # Errors
    /// Those of [`key`].
    pub fn new(records: &[(String, Record)]) -> Result<Self> {
        Ok(Self {
            key: key()?,
            instructions: records.iter().map(|(id, record)| (id.clone(), mean(record))).collect(),
        })
    }

    /// Reads them.
    ///
    /// # Errors
    /// When the file cannot be read or is none.
    pub fn read(file: &Path) -> Result<Self> {
        read(file)
    }

    /// Writes them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        write(file, self)
    }

    /// Why nothing can be compared with them here, if so.
    fn differ(&self) -> Result<Option<String>> {
        let (here, there) = (key()?, &self.key);
        Ok((here != *there).then(|| format!("the baselines are of {there}, and this is {here}: counts --save")))
    }

    /// What has become dearer by more than a part of what it was, or is not known; and what has become so much cheaper. The part may depend on how
    /// much it was.
    #[must_use]
    pub fn compare(&self, records: &[(String, Record)], tolerance: fn(f64) -> f64) -> Difference {
        let mut difference = Difference::default();
        for (id, record) in records {
            let (before, now) = (self.instructions.get(id).copied(), mean(record));
            let change = Change {
                id: id.clone(),
                before,
                now,
            };
            if before.is_none_or(|before| now > before * (1.0 + tolerance(before))) {
                difference.worse.push(change);
            } else if before.is_some_and(|before| now < before * (1.0 - tolerance(before))) {
                difference.better.push(change);
            }
        }
        difference
    }
}

/// How much more than before is too much, whatever it was.
#[must_use]
pub const fn tolerance(_before: f64) -> f64 {
    TOLERANCE
}

/// Reads a file of JSON.
fn read<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = std::fs::read(file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| file.display().to_string())
}

/// Writes one.
fn write(file: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    let mut to = std::fs::File::create(file).with_context(|| file.display().to_string())?;
    Ok(std::io::Write::write_all(&mut to, text.as_bytes())?)
}

/// For the IOVA allocator with many live ranges: cost may grow as the logarithm of their number, and not much faster. Each line is a mix for which it does.
#[must_use]
pub fn grown(records: &[(String, Record)], operations: &[Operation]) -> Vec<String> {
    let mut series: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.suite == "iova") {
        let record = records.iter().find(|(id, _)| *id == operation.id());
        if let (Some((_, record)), Some((live, _))) = (record, operation.at) {
            let live = u32::try_from(live).unwrap_or(u32::MAX);
            series
                .entry(operation.case)
                .or_default()
                .push((live.into(), mean(record)));
        }
    }
    let mut lines = Vec::new();
    for (mix, series) in series {
        let (Some((few, cheap)), Some((many, dear))) = (series.first(), series.last()) else {
            continue;
        };
        if dear / cheap > LOGARITHMIC * many.ln() / few.ln() {
            let mut line = format!("{mix}: {cheap:.0} instructions with {few} live ranges");
            // A String takes all that is written to it.
            let _written = write!(line, ", {dear:.0} with {many}: more than the logarithm");
            lines.push(line);
        }
    }
    lines
}

/// Of all turns.
#[must_use]
pub fn mean(record: &Record) -> f64 {
    let turns = u32::try_from(record.turns.len()).unwrap_or(u32::MAX);
    record.turns.iter().sum::<f64>() / f64::from(turns.max(1))
}

/// Where the baselines are.
#[must_use]
pub fn file() -> &'static Path {
    Path::new(OsStr::new(concat!(env!("CARGO_MANIFEST_DIR"), "/baselines.json")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;

    fn records(values: &[(&str, f64)]) -> Vec<(String, Record)> {
        let operation = ops::all().pop().unwrap();
        let record = |value| operation.record(Clock::Instructions, vec![value; TURNS]);
        values
            .iter()
            .map(|(id, value)| ((*id).to_owned(), record(*value)))
            .collect()
    }

    #[test]
    fn more_than_three_in_a_hundred_is_a_difference() {
        let before = Baselines {
            key: String::new(),
            instructions: [("a", 100.0), ("b", 100.0), ("c", 100.0)]
                .map(|(id, value)| (id.to_owned(), value))
                .into(),
        };
        let records = records(&[("a", 103.5), ("b", 96.0), ("c", 102.9), ("d", 1.0)]);
        let said = before.compare(&records, tolerance).to_string();
        let expected = "             before          now    change  instructions of
worse         100.0        103.5    +3.5 %  a
worse          none          1.0            d
better        100.0         96.0    -4.0 %  b
";
        assert_eq!(said, expected);
        assert_eq!(before.compare(&[], tolerance).to_string(), "");
    }

    #[test]
    fn baselines_that_are_missing_or_of_another_compiler_are_said_and_not_compared() {
        if let Some(reason) = valgrind_is_missing() {
            assert_eq!(incomparable(Path::new("/")).unwrap(), Some(reason));
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("baselines.json");
        let reason = incomparable(&file).unwrap().unwrap();
        assert!(
            reason.contains("baselines.json") && reason.ends_with("counts --save"),
            "{reason}"
        );
        let mut baselines = Baselines::new(&[]).unwrap();
        baselines.write(&file).unwrap();
        assert_eq!(incomparable(&file).unwrap(), None);
        "rustc 1.0".clone_into(&mut baselines.key);
        baselines.write(&file).unwrap();
        let reason = incomparable(&file).unwrap().unwrap();
        assert!(reason.contains("are of rustc 1.0"), "{reason}");
        serde_json::to_writer(std::fs::File::create(&file).unwrap(), "none").unwrap();
        assert!(incomparable(&file).is_err());
    }

    #[test]
    fn what_takes_memory_is_seen_by_its_name() {
        let text = "fn=free\n12 3\nfn=iommu::pool::free\n1 2\ncfn=realloc\ncalls=1 2\nfn=malloc'2\n5 6\nfn=malloc\n";
        assert_eq!(allocator_calls(text), ["free", "malloc"]);
    }

    #[test]
    fn turns_that_differ_are_no_figure() {
        assert!(is_steady(&[100.0, 95.0, 98.0]));
        assert!(!is_steady(&[100.0, 84.0, 98.0]));
    }

    #[test]
    fn what_grows_faster_than_the_logarithm_is_seen() {
        let operations = ops::all();
        let ours = |live: &str| {
            let id = |operation: &Operation| operation.id();
            let end = format!("one size, {live} live/ours");
            operations.iter().map(id).find(|id| id.ends_with(&end)).unwrap()
        };
        let (few, many) = (ours("1000"), ours("1000000"));
        for (cost, count) in [(249.0, 0), (251.0, 1)] {
            let records = records(&[(&few, 100.0), (&many, cost)]);
            assert_eq!(grown(&records, &operations).len(), count);
        }
    }
}
