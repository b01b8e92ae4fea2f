//! A QEMU that emulates SR-IOV, ATS and a nested guest's interrupts well enough: 11.1 or newer.

use super::Setup;
use super::apt::Apt;
use crate::cache::key;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// With 10.0 a VF inside a nested guest gets no interrupts, and virtio has no SR-IOV.
const OLDEST: (u32, u32) = (11, 1);

/// A QEMU that can be started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Qemu {
    /// `qemu-system-x86_64`, or a script that starts it with its own libraries.
    pub program: PathBuf,
    /// Its version.
    pub version: String,
}

/// The machine's own QEMU when it is new enough, else the one in the cache.
pub(super) fn present(setup: &Setup) -> Option<Qemu> {
    let own = PathBuf::from("qemu-system-x86_64");
    if let Ok(version) = version_of(&own)
        && number(&version).is_some_and(|number| number >= OLDEST)
    {
        return Some(Qemu { program: own, version });
    }
    setup.record::<Qemu>("qemu.json").filter(|qemu| qemu.program.exists())
}

/// Unpacks Debian's package with all its libraries into the cache; nothing is installed.
pub(super) fn fetch(setup: &Setup) -> Result<Qemu> {
    setup.refuse_offline("QEMU")?;
    let apt = Apt::prepare(setup)?;
    let packages = apt.closure("qemu-system-x86")?;
    let versions: Vec<String> = packages
        .iter()
        .map(|(name, version)| format!("{name}={version}"))
        .collect();
    let entry = format!("qemu-{}", key(&versions.iter().map(String::as_str).collect::<Vec<_>>()));
    let dir = setup.progress.step(
        "fetch QEMU",
        None,
        "check the network; the log has apt's words",
        |step| {
            setup.cache.make(&entry, |dir| {
                apt.unpack(step, &packages, &dir.join("root"))?;
                write_launcher(&dir.join("qemu-system-x86_64"))
            })
        },
    )?;
    let program = dir.join("qemu-system-x86_64");
    let version = version_of(&program)?;
    if number(&version).is_none_or(|number| number < OLDEST) {
        bail!(
            "the newest QEMU that the mirror has is {version}; the lab needs {}.{}",
            OLDEST.0,
            OLDEST.1
        );
    }
    let qemu = Qemu { program, version };
    setup.cache.set_record("qemu.json", &qemu)?;
    Ok(qemu)
}

/// A script that starts the unpacked QEMU through the unpacked loader and libraries, wherever the directory lies.
fn write_launcher(path: &Path) -> Result<()> {
    let script = r#"#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/root
lib=$root/usr/lib/x86_64-linux-gnu
QEMU_MODULE_DIR=$lib/qemu exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$root/usr/bin/qemu-system-x86_64" \
  -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu" "$@"
"#;
    let mut file = File::create(path)?;
    file.write_all(script.as_bytes())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn version_of(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    Ok(version
        .with_context(|| format!("{} --version printed {text:?}", program.display()))?
        .to_owned())
}

fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(number("9.2.0") < Some(OLDEST));
        assert!(number("10.0.2") < Some(OLDEST));
        assert!(number("11.1.3") >= Some(OLDEST));
        assert_eq!(number("unknown"), None);
    }
}
