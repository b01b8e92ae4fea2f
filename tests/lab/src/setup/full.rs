//! A kernel of our own: Debian's newest kernel source with the lab's fragment, everything built in.

use super::source::{self, Source};
use super::{Setup, packages, suites};
use crate::cache::key;
use crate::progress::say;
use crate::{Flavour, Kernel};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What is merged over `make allnoconfig`.
const FRAGMENT: &str = include_str!("../../kernel.config");

/// How many lines `make` prints for a whole build, for the progress bar.
const MAKE_LINES: u64 = 1700;

#[derive(Debug, Serialize, Deserialize)]
struct Full {
    image: PathBuf,
    /// The key of what it was built from, apart from the source.
    inputs: String,
    source: Source,
}

/// The kernel in the cache, when it was built from what is asked for today.
pub(super) fn present(setup: &Setup) -> Option<Kernel> {
    let full = setup.record::<Full>("full.json")?;
    let fits = full.inputs == inputs() && full.image.exists();
    fits.then_some(Kernel {
        flavour: Flavour::Full,
        image: full.image,
        modules: None,
    })
}

/// The source that the kernel in the cache was built from.
pub(super) fn source(setup: &Setup) -> Option<Source> {
    Some(setup.cache.record::<Full>("full.json")?.source)
}

/// Fetches the source and builds it, or finds that the newest source was built before.
pub(super) fn build(setup: &Setup) -> Result<Kernel> {
    setup.refuse_offline("the full kernel")?;
    packages::require(setup, packages::KERNEL_BUILD, "building the full kernel")?;
    let (apt, source) = source::newest(setup)?;
    let entry = format!("kernel-full-{}", key(&[&inputs(), &source.version]));
    let mut tree = None;
    if !setup.cache.path(&entry).exists() {
        let unpacked = source::fetch(setup, &apt, &source)?;
        compile(setup, &unpacked.dir, &source.name, &entry)?;
        tree = Some(unpacked);
    }
    let full = Full {
        image: setup.cache.path(&entry).join("bzImage"),
        inputs: inputs(),
        source,
    };
    setup.cache.set_record("full.json", &full)?;
    // The source is at hand now. The kernel serves without its suites; who needs them builds them, or gets the error.
    if let Some(tree) = tree
        && let Err(error) = suites::compile(setup, &tree.dir, &full.source)
    {
        say(&format!("lab: the kernel's own test suites were not built: {error:#}"));
    }
    present(setup).context("the kernel just built is not in the cache")
}

fn compile(setup: &Setup, source: &Path, name: &str, entry: &str) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let what = format!("build the full kernel from {name} with {jobs} jobs, once per machine");
    setup.progress.step(
        &what,
        Some(MAKE_LINES),
        "the log has the compiler's words; free disk space of 2 GiB is needed",
        |step| {
            let fragment = source.join("lab.config");
            fs::File::create(&fragment)?.write_all(FRAGMENT.as_bytes())?;
            let make = || {
                let mut make = source::make(source);
                make.env("KBUILD_BUILD_TIMESTAMP", "@0");
                make
            };
            step.run(
                make()
                    .arg(format!("KCONFIG_ALLCONFIG={}", fragment.display()))
                    .arg("allnoconfig"),
            )?;
            check_config(&source.join(".config"))?;
            step.run(make().arg(format!("-j{jobs}")).arg("bzImage"))?;
            setup.cache.make(entry, |dir| {
                fs::copy(source.join("arch/x86/boot/bzImage"), dir.join("bzImage"))?;
                fs::copy(source.join(".config"), dir.join("config"))?;
                Ok(())
            })?;
            Ok(())
        },
    )
}

/// Every symbol of the fragment must have survived: Kconfig drops one whose dependencies are not met, silently.
fn check_config(config: &Path) -> Result<()> {
    let bytes = fs::read(config)?;
    let config = String::from_utf8_lossy(&bytes);
    let set: std::collections::HashSet<&str> = config.lines().collect();
    let lost: Vec<&str> = FRAGMENT
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && !set.contains(line))
        .collect();
    if !lost.is_empty() {
        bail!(
            "this kernel's configuration dropped {}: a dependency is missing in tests/lab/kernel.config",
            lost.join(", ")
        );
    }
    Ok(())
}

fn inputs() -> String {
    key(&[FRAGMENT, &source::compiler()])
}
