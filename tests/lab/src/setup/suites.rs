//! The kernel's own suites for VFIO and iommufd (`tools/testing/selftests`), from the source that the full kernel was built from.

use super::source::{self, Source};
use super::{Setup, full, packages};
use crate::cache::key;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Directories below `tools/testing/selftests` and how each is made static: the machine has no libraries of its own, and those
/// of the host may be older than what a program was built with.
const MAKE: &[(&str, &[&str])] = &[
    ("vfio", &["EXTRA_CFLAGS=-static -Wno-error"]),
    ("iommu", &["LDFLAGS=-static"]),
];

/// The programs that have to come out.
const PROGRAMS: &[&str] = &[
    "vfio_dma_mapping_test",
    "vfio_dma_mapping_mmio_test",
    "vfio_iommufd_setup_test",
    "vfio_pci_device_test",
    "vfio_pci_device_init_perf_test",
    "vfio_pci_driver_test",
    "vfio_pci_sriov_uapi_test",
    "iommufd",
    "iommufd_fail_nth",
];

#[derive(Debug, Serialize, Deserialize)]
struct Suites {
    dir: PathBuf,
    inputs: String,
    source: Source,
}

/// The directory with the programs, when they were built from what the kernel was built from.
pub(super) fn present(setup: &Setup) -> Option<PathBuf> {
    let suites = setup.record::<Suites>("suites.json")?;
    let fits = suites.inputs == inputs() && Some(&suites.source) == full::source(setup).as_ref();
    (fits && suites.dir.is_dir()).then_some(suites.dir)
}

/// Fetches the kernel's source again and builds them from it.
pub(super) fn build(setup: &Setup) -> Result<PathBuf> {
    setup.refuse_offline("the kernel's own test suites")?;
    packages::require(setup, packages::KERNEL_BUILD, "building the kernel's own test suites")?;
    let source = full::source(setup).context("there is no full kernel yet, whose source they are built from")?;
    let (apt, _) = source::newest(setup)?;
    let tree = source::fetch(setup, &apt, &source)?;
    compile(setup, &tree.dir, &source)
}

/// Builds them in an unpacked source.
pub(super) fn compile(setup: &Setup, tree: &Path, source: &Source) -> Result<PathBuf> {
    packages::require(setup, packages::SUITES, "building the kernel's own test suites")?;
    let jobs = format!("-j{}", std::thread::available_parallelism().map_or(2, usize::from));
    let entry = format!("suites-{}", key(&[&inputs(), &source.version]));
    let what = format!("build the kernel's own test suites from {}", source.name);
    let fix = "the log has the compiler's words; static libraries are needed: libc6-dev, libcap-dev, uuid-dev";
    let dir = setup.progress.step(&what, None, fix, |step| {
        step.run(source::make(tree).args(["ARCH=x86", "headers", &jobs]))?;
        let headers = format!("KHDR_INCLUDES=-isystem {}", tree.join("usr/include").display());
        let out = tree.join("suites");
        for (name, settings) in MAKE {
            fs::create_dir_all(out.join(name))?;
            let output = format!("OUTPUT={}", out.join(name).display());
            let suite = tree.join("tools/testing/selftests").join(name);
            step.run(
                source::make(&suite)
                    .args(["ARCH=x86_64", &jobs, &headers, &output])
                    .args(*settings),
            )?;
        }
        setup.cache.make(&entry, |dir| {
            for program in PROGRAMS {
                let built = MAKE
                    .iter()
                    .map(|(name, _)| out.join(name).join(program))
                    .find(|path| path.exists());
                let built = built.with_context(|| format!("the kernel's source brings no {program}"))?;
                fs::copy(built, dir.join(program))?;
            }
            Ok(())
        })
    })?;
    let suites = Suites {
        dir,
        inputs: inputs(),
        source: source.clone(),
    };
    setup.cache.set_record("suites.json", &suites)?;
    ensure!(suites.dir.is_dir(), "{} is not there", suites.dir.display());
    Ok(suites.dir)
}

fn inputs() -> String {
    let settings = MAKE
        .iter()
        .flat_map(|(name, settings)| std::iter::once(*name).chain(settings.iter().copied()))
        .collect::<Vec<_>>()
        .join(" ");
    key(&[&settings, &PROGRAMS.join(" "), &source::compiler()])
}
