//! Kernels of the lab: which there are, and the modules that one needs to come up.

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a kernel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Flavour {
    /// Debian's kernel package: type1 only, nothing to compile
    Stock,
    /// Built from Debian's kernel source: iommufd, VFIO character devices, the kernel's own test doubles
    Full,
    /// The kernel that runs on this machine
    Host,
}

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Where it comes from.
    pub flavour: Flavour,
    /// The image, as QEMU's `-kernel` takes it.
    pub image: PathBuf,
    /// Its modules (`…/kernel`); `None` when everything is built in.
    pub modules: Option<PathBuf>,
}

impl std::fmt::Display for Flavour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stock => "stock",
            Self::Full => "full",
            Self::Host => "host",
        })
    }
}

/// A module as it goes into an initramfs.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    /// The uncompressed object.
    pub(crate) object: Vec<u8>,
}

impl Kernel {
    /// The named modules and all that they depend on, in loading order. A name without a file is built in.
    pub(crate) fn load_order(&self, names: &[&str]) -> Result<Vec<Module>> {
        let Some(dir) = &self.modules else {
            return Ok(Vec::new());
        };
        let mut files = BTreeMap::new();
        index(dir, &mut files)?;
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        for name in names {
            visit(name, &files, &mut seen, &mut order)?;
        }
        Ok(order)
    }
}

/// Module files below a directory by name; dashes and underscores are the same to the kernel.
fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((stem, _)) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split_once(".ko"))
        {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn visit(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut HashSet<String>,
    order: &mut Vec<Module>,
) -> Result<()> {
    let name = name.replace('-', "_");
    let Some(path) = files.get(&name) else { return Ok(()) };
    if !seen.insert(name.clone()) {
        return Ok(());
    }
    let object = read_object(path)?;
    for dependency in dependencies(&object).with_context(|| format!("read {}", path.display()))? {
        visit(&dependency, files, seen, order)?;
    }
    order.push(Module { name, object });
    Ok(())
}

fn read_object(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(path).with_context(|| format!("read {}", path.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        other => bail!(
            "{}: compressed as {other:?}, which the lab does not know",
            path.display()
        ),
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(path)
        .output()
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} -dc {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// `depends=` of the module's `.modinfo` section, which holds NUL-separated `key=value` strings.
fn dependencies(object: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(object)?;
    let section = file.section_by_name(".modinfo").context("no .modinfo section")?;
    let info = section.data()?;
    let depends = info
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    Ok(depends
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}
