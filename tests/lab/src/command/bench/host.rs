//! What this machine says of itself, for who reads the figures.

use anyhow::{Context, Result};
use lab::{Kernel, Machine, Qemu, cargo};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// Processor, compiler and commit.
pub(super) fn facts() -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            facts.insert(name.to_owned(), value);
        }
    };
    let cpus = std::thread::available_parallelism().map(|count| count.to_string());
    let model = read("/proc/cpuinfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(": ")?.1.to_owned())
    });
    add(
        "host's processor",
        model.map(|model| format!("{} × {model}", cpus.as_deref().unwrap_or("?"))),
    );
    let kernel = rustix::system::uname();
    add("host's kernel", Some(kernel.release().to_string_lossy().into_owned()));
    let mut rustc = Command::new("rustc");
    add("rustc", said(rustc.arg("--version")));
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        if let Some(root) = cargo().get_current_dir() {
            git.current_dir(root);
        }
        said(git.args(arguments))
    };
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    add(
        "commit",
        commit.map(|commit| {
            if is_changed {
                format!("{commit}, changed")
            } else {
                commit
            }
        }),
    );
    facts
}

/// The machine of the lab.
pub(super) fn machine(machine: &Machine, kernel: &Kernel, qemu: &Qemu) -> Result<BTreeMap<String, String>> {
    let clock = if machine.icount {
        "instructions, 1 ns each"
    } else {
        "time"
    };
    let mut facts = BTreeMap::from([
        ("QEMU", format!("{}, TCG", qemu.version)),
        ("kernel's flavour", kernel.flavour.to_string()),
        ("kernel's image", format!("SHA-256 {}", digest(&kernel.image)?)),
        ("IOMMU", format!("{:?}", machine.iommu)),
        ("memory", format!("{} MiB", machine.memory_mib)),
        ("clock", clock.to_owned()),
    ]);
    // Where it was built here, its options lie beside it; of a package's, the image says it all.
    let options = kernel.image.with_file_name("config");
    if options.exists() {
        facts.insert("kernel's options", format!("SHA-256 {}", digest(&options)?));
    }
    Ok(facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

/// The load averages.
pub(super) fn load() -> String {
    let text = read("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(2).collect::<Vec<_>>().join(", ")
}

/// The beginning of a file's digest, by which kernels are told apart.
fn digest(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    file.with_context(|| format!("read {}", path.display()))?;
    Ok(Sha256::digest(&bytes)
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    Some(text)
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}
