//! The lab's machine as the tests see it: read plainly, not through the code under test.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DEVICES: &str = "/sys/bus/pci/devices";

/// What a run of sriovctl came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs sriovctl.
pub(crate) fn sriovctl(arguments: &[&str]) -> Result<Run> {
    run(Command::new("sriovctl").args(arguments))
}

pub(crate) fn run(command: &mut Command) -> Result<Run> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let code = output
        .status
        .code()
        .with_context(|| format!("{command:?}: {}", output.status))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Run {
        code,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    })
}

/// Runs sriovctl, which must succeed; returns its standard output.
pub(crate) fn done(arguments: &[&str]) -> Result<String> {
    let run = sriovctl(arguments)?;
    ensure!(
        run.code == 0,
        "sriovctl {} exits {}: {}{}",
        arguments.join(" "),
        run.code,
        run.stdout,
        run.stderr
    );
    Ok(run.stdout)
}

/// Runs sriovctl with `--json`, which must succeed.
pub(crate) fn json(arguments: &[&str]) -> Result<Value> {
    let text = done(&[&["--json"], arguments].concat())?;
    serde_json::from_str(&text).with_context(|| format!("sriovctl --json {} printed {text}", arguments.join(" ")))
}

/// Runs sriovctl, which must refuse with this exit code, say all of `words` on standard error, and change nothing.
pub(crate) fn refused(arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let before = Snapshot::take()?;
    let run = sriovctl(arguments)?;
    ensure!(
        run.code == code,
        "sriovctl {} exits {} instead of {code}: {}",
        arguments.join(" "),
        run.code,
        run.stderr
    );
    for word in words {
        ensure!(
            run.stderr.contains(word),
            "sriovctl {} does not say {word:?}: {}",
            arguments.join(" "),
            run.stderr
        );
    }
    before.must_equal(&Snapshot::take()?)
}

/// The directory of a function.
pub(crate) fn dir(bdf: &str) -> PathBuf {
    Path::new(DEVICES).join(bdf)
}

/// An attribute of a function, trimmed.
pub(crate) fn attribute(bdf: &str, name: &str) -> Result<String> {
    read(dir(bdf).join(name))
}

pub(crate) fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Writes an attribute as a shell would.
#[expect(clippy::disallowed_methods, reason = "tests set the stage by plain writes")]
pub(crate) fn write(path: impl AsRef<Path>, value: &str) -> Result<()> {
    let path = path.as_ref();
    fs::write(path, value).with_context(|| format!("write {value:?} to {}", path.display()))
}

/// The base name of a link, if it is there.
pub(crate) fn link(bdf: &str, name: &str) -> Option<String> {
    let target = fs::read_link(dir(bdf).join(name)).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The PF that this driver has.
pub(crate) fn physical_function(driver: &str) -> Result<String> {
    let found = functions()?
        .into_iter()
        .find(|bdf| dir(bdf).join("sriov_totalvfs").exists() && link(bdf, "driver").as_deref() == Some(driver));
    found.with_context(|| format!("no PF on {driver}"))
}

/// The VFs of a PF by index.
pub(crate) fn vfs(pf: &str) -> Vec<String> {
    (0..).map_while(|index| link(pf, &format!("virtfn{index}"))).collect()
}

/// All functions in order of address.
pub(crate) fn functions() -> Result<Vec<String>> {
    let entries = fs::read_dir(DEVICES)?.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<String> = entries
        .iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// Everything that sriovctl may change, of every function.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<String, Vec<Option<String>>>);

impl Snapshot {
    pub(crate) fn take() -> Result<Self> {
        let state = |bdf: String| {
            let read = |name| attribute(&bdf, name).ok();
            let values = vec![
                link(&bdf, "driver"),
                read("driver_override"),
                read("sriov_numvfs"),
                read("sriov_drivers_autoprobe"),
            ];
            (bdf, values)
        };
        Ok(Self(functions()?.into_iter().map(state).collect()))
    }

    /// Says which functions differ.
    pub(crate) fn must_equal(&self, now: &Self) -> Result<()> {
        let differ = |bdf: &&String| self.0.get(*bdf) != now.0.get(*bdf);
        let all: std::collections::BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        let lines: Vec<String> = all
            .into_iter()
            .filter(differ)
            .map(|bdf| format!("{bdf}: {:?} became {:?}", self.0.get(bdf), now.0.get(bdf)))
            .collect();
        if !lines.is_empty() {
            bail!(
                "the machine is not as it was (driver, override, VFs, autoprobe):\n{}",
                lines.join("\n")
            );
        }
        Ok(())
    }
}

/// Runs a test and sees that the machine is afterwards as it was before.
pub(crate) fn leaves_no_trace(test: &dyn Fn() -> Result<lab::case::Outcome>) -> Result<lab::case::Outcome> {
    let before = Snapshot::take()?;
    let outcome = test()?;
    before.must_equal(&Snapshot::take()?)?;
    Ok(outcome)
}
