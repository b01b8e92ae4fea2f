//! Debian's kernel source, unpacked for as long as something is built from it.

use super::Setup;
use super::apt::Apt;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A package with a kernel's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// `linux-source-7.3`
    pub(super) name: String,
    pub(super) version: String,
}

/// An unpacked source; removed when dropped.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) dir: PathBuf,
    _scratch: tempfile::TempDir,
}

/// The newest source that Debian has, and the apt that found it.
pub(super) fn newest(setup: &Setup) -> Result<(Apt, Source)> {
    let apt = Apt::prepare(setup)?;
    let found = apt
        .closure("linux-source")?
        .into_iter()
        .find(|(name, _)| name.starts_with("linux-source-"));
    let (name, version) = found.context("Debian's linux-source package leads to no source")?;
    Ok((apt, Source { name, version }))
}

/// Downloads and unpacks a source.
pub(super) fn fetch(setup: &Setup, apt: &Apt, source: &Source) -> Result<Tree> {
    let Source { name, version } = source;
    let scratch = setup.cache.scratch()?;
    let what = format!("fetch {name} {version}");
    let fix = "check the network; the log has apt's words; free disk space of 2 GiB is needed";
    setup.progress.step(&what, None, fix, |step| {
        apt.unpack(step, &[(name.clone(), version.clone())], scratch.path())?;
        let archive = scratch.path().join("usr/src").join(format!("{name}.tar.xz"));
        step.run(
            Command::new("tar")
                .arg("-xf")
                .arg(&archive)
                .arg("-C")
                .arg(scratch.path()),
        )?;
        Ok(fs::remove_file(&archive)?)
    })?;
    Ok(Tree {
        dir: scratch.path().join(name),
        _scratch: scratch,
    })
}

/// `make` in a kernel's source. What surrounds us (a jobserver, say) is not for the kernel's build.
pub(super) fn make(dir: &Path) -> Command {
    let mut make = Command::new("make");
    make.current_dir(dir).env_remove("MAKEFLAGS").env("LC_ALL", "C");
    make
}

/// What the compiler says that it is; part of the key of whatever it built.
pub(super) fn compiler() -> String {
    let output = Command::new("gcc").arg("--version").output();
    String::from_utf8_lossy(&output.map(|output| output.stdout).unwrap_or_default()).into_owned()
}
