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
pub struct Run {
    /// Its exit status.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs sriovctl.
///
/// # Errors
/// When it cannot be started, or a signal ends it.
pub fn sriovctl(arguments: &[&str]) -> Result<Run> {
    run(Command::new("sriovctl").args(arguments))
}

/// Runs a program.
///
/// # Errors
/// When it cannot be started, or a signal ends it.
pub fn run(command: &mut Command) -> Result<Run> {
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
///
/// # Errors
/// When it fails, with what it said.
pub fn done(arguments: &[&str]) -> Result<String> {
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
///
/// # Errors
/// When it fails, with what it said, or that is no JSON.
pub fn json(arguments: &[&str]) -> Result<Value> {
    let text = done(&[&["--json"], arguments].concat())?;
    serde_json::from_str(&text).with_context(|| format!("sriovctl --json {} printed {text}", arguments.join(" ")))
}

/// Runs sriovctl, which must refuse with this exit code, say all of `words` on standard error, and change nothing.
///
/// # Errors
/// When it does anything else.
pub fn refused(arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
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
#[must_use]
pub fn dir(bdf: &str) -> PathBuf {
    Path::new(DEVICES).join(bdf)
}

/// An attribute of a function, trimmed.
///
/// # Errors
/// When it cannot be read.
pub fn attribute(bdf: &str, name: &str) -> Result<String> {
    read(dir(bdf).join(name))
}

/// A file, trimmed.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Writes an attribute as a shell would.
///
/// # Errors
/// When it cannot be written.
#[expect(clippy::disallowed_methods, reason = "tests set the stage by plain writes")]
pub fn write(path: impl AsRef<Path>, value: &str) -> Result<()> {
    let path = path.as_ref();
    fs::write(path, value).with_context(|| format!("write {value:?} to {}", path.display()))
}

/// The base name of a link, if it is there.
#[must_use]
pub fn link(bdf: &str, name: &str) -> Option<String> {
    let target = fs::read_link(dir(bdf).join(name)).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The PF that this driver has.
///
/// # Errors
/// When there is none.
pub fn physical_function(driver: &str) -> Result<String> {
    let found = functions()?
        .into_iter()
        .find(|bdf| dir(bdf).join("sriov_totalvfs").exists() && link(bdf, "driver").as_deref() == Some(driver));
    found.with_context(|| format!("no PF on {driver}"))
}

/// The VFs of a PF by index.
#[must_use]
pub fn vfs(pf: &str) -> Vec<String> {
    (0..).map_while(|index| link(pf, &format!("virtfn{index}"))).collect()
}

/// All functions in order of address.
///
/// # Errors
/// When they cannot be listed.
pub fn functions() -> Result<Vec<String>> {
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
pub struct Snapshot(BTreeMap<String, Vec<Option<String>>>);

impl Snapshot {
    /// Of now.
    ///
    /// # Errors
    /// When the functions cannot be listed.
    pub fn take() -> Result<Self> {
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
    ///
    /// # Errors
    /// When any does.
    pub fn must_equal(&self, now: &Self) -> Result<()> {
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
///
/// # Errors
/// That of the test, or what differs.
pub fn leaves_no_trace(test: &dyn Fn() -> Result<lab::case::Outcome>) -> Result<lab::case::Outcome> {
    let (before, up) = (Snapshot::take()?, links_up()?);
    let outcome = test();
    // The kernel makes an interface anew for each binding, down; elsewhere whoever configures the network sets it up.
    let again = up.iter().try_for_each(|bdf| set_links_up(bdf));
    let outcome = outcome?;
    again?;
    before.must_equal(&Snapshot::take()?)?;
    Ok(outcome)
}

/// The functions of which a network interface is up.
fn links_up() -> Result<Vec<String>> {
    const IFF_UP: u32 = 1;
    let is_up = |bdf: &String| {
        let mut flags = links(bdf).into_iter().filter_map(|link| {
            let flags = read(link.join("flags")).ok()?;
            u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()
        });
        flags.any(|flags| flags & IFF_UP != 0)
    };
    Ok(functions()?.into_iter().filter(is_up).collect())
}

fn set_links_up(bdf: &str) -> Result<()> {
    for link in links(bdf) {
        let index = read(link.join("ifindex"))?.parse()?;
        lab_init::link::set_up(index).with_context(|| format!("set {} up", link.display()))?;
    }
    Ok(())
}

/// The network interfaces of a function.
fn links(bdf: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir(bdf).join("net"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}
