//! The initial file system of the lab's machine and of the guests inside it: one static program and a few modules.

use crate::Kernel;
use crate::progress::say;
use anyhow::{Context, Result, bail};
use cpio::newc::{Builder, ModeFileType, trailer};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whose initial file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The lab's machine.
    Machine,
    /// A guest inside the lab.
    Guest,
}

impl Role {
    /// Modules that a kernel with modules has to load for this role; drivers of the devices and what a distribution's own
    /// initramfs would have brought.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Machine => &[
                "overlay",
                "9p",
                "9pnet_virtio",
                "virtio_pci",
                "virtio_console",
                "virtio_iommu",
                "virtio_net",
                "igb",
                "igbvf",
                "nvme",
                "ext4",
                "vfio_iommu_type1",
                "vfio_pci",
                "kvm_amd",
            ],
            Self::Guest => &["igbvf", "nvme"],
        }
    }
}

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Writes the archive for `role` to `path`.
pub(crate) fn write(path: &Path, kernel: &Kernel, role: Role, init: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(path).with_context(|| format!("create {}", path.display()))?);
    for dir in ["dev", "proc", "sys", "modules"] {
        Builder::new(dir)
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Directory)
            .write(&mut out, 0)
            .finish()?;
    }
    let init = std::fs::read(init).with_context(|| format!("read {}", init.display()))?;
    add(&mut out, "init", 0o755, &init)?;
    for (position, module) in kernel.load_order(role.modules())?.iter().enumerate() {
        add(
            &mut out,
            &format!("modules/{position:03}-{}.ko", module.name),
            0o644,
            &module.object,
        )?;
    }
    trailer(&mut out)?;
    out.flush()?;
    Ok(())
}

fn add(out: &mut impl Write, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let len = u32::try_from(content.len()).context("a file of 4 GiB in an initramfs")?;
    let mut file = Builder::new(name)
        .mode(mode)
        .set_mode_file_type(ModeFileType::Regular)
        .write(&mut *out, len);
    file.write_all(content)?;
    file.finish()?;
    Ok(())
}

/// Writes to `to` the initial file system `initrd` with one more program in it, by its name.
///
/// # Errors
///
/// Those of the files.
pub fn add_program(initrd: &Path, program: &Path, name: &str, to: &Path) -> Result<()> {
    /// The next archive begins at a multiple of so many bytes, after zeros.
    const BLOCK: usize = 512;
    let mut archives = std::fs::read(initrd).with_context(|| format!("read {}", initrd.display()))?;
    archives.resize(archives.len().next_multiple_of(BLOCK), 0);
    let content = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    add(&mut archives, name, 0o755, &content)?;
    trailer(&mut archives)?;
    let mut out = File::create(to).with_context(|| format!("create {}", to.display()))?;
    out.write_all(&archives)?;
    Ok(())
}

/// Builds the first process, which runs before there is any library.
pub(crate) fn build_init() -> Result<PathBuf> {
    build_static(
        &["--package", "lab-init", "--bin", "lab-init"],
        "lab-init",
        "the lab's first process",
    )
}

/// Builds a static program; returns where it is.
fn build_static(which: &[&str], path: &str, what: &str) -> Result<PathBuf> {
    let target = target_dir()?.join("lab-init");
    let program = target.join(TRIPLE).join("lab").join(path);
    let mut cargo = cargo();
    cargo
        .args(["build", "--profile", "lab", "--target", TRIPLE])
        .args(which);
    cargo.arg("--target-dir").arg(&target);
    cargo
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    build(&mut cargo, what, program.exists())?;
    Ok(program)
}

/// Builds the programs that go into the lab; returns the directory that they lie in.
///
/// # Errors
/// When they do not build.
pub fn build_programs() -> Result<PathBuf> {
    let target = target_dir()?;
    let programs = target.join("lab");
    let mut cargo = cargo();
    cargo.args([
        "build",
        "--profile",
        "lab",
        "--package",
        "sriovctl",
        "--package",
        "system-tests",
        "--bins",
    ]);
    cargo.arg("--target-dir").arg(&target);
    build(
        &mut cargo,
        "sriovctl and the tests for the lab",
        programs.join("vm-tests").exists(),
    )?;
    Ok(programs)
}

/// Builds the libraries' examples for the lab, which tests run there. They land in `examples` beside the programs.
///
/// # Errors
///
/// cargo's.
pub fn build_examples() -> Result<()> {
    let target = target_dir()?;
    let mut cargo = cargo();
    cargo.args([
        "build",
        "--profile",
        "lab",
        "--examples",
        "--package",
        "vfio-core",
        "--package",
        "iommu",
        "--package",
        "drivers",
        "--package",
        "vmm-glue",
    ]);
    cargo.arg("--target-dir").arg(&target);
    let was_built = target.join("lab/examples/first-driver").exists();
    build(&mut cargo, "the examples for the lab", was_built)
}

/// Builds the test programs of libraries that need the lab to say anything, which tests run there, and what runs in guests inside it. They land in `examples`, too,
/// by their names.
///
/// # Errors
///
/// cargo's.
pub fn build_guest_tests() -> Result<()> {
    let target = target_dir()?;
    let named = target.join("lab/examples/vmm-glue-machine");
    let mut cargo = cargo();
    cargo.args([
        "test",
        "--no-run",
        "--profile",
        "lab",
        "--package",
        "vmm-glue",
        "--test",
        "machine",
    ]);
    cargo.args(["--message-format", "json-render-diagnostics", "--quiet"]);
    cargo.arg("--target-dir").arg(&target);
    let output = cargo.stdin(Stdio::null()).output().context("start cargo")?;
    if !output.status.success() {
        bail!(
            "build the guests' tests: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let program = String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(executable)
        .context("cargo names no program of the guests' tests")?;
    std::fs::copy(&program, &named).with_context(|| format!("copy {program} to {}", named.display()))?;
    let program = build_guest_driver()?;
    let named = target.join("lab/examples/no_iommu-static");
    std::fs::copy(&program, &named).with_context(|| format!("copy {}", program.display()))?;
    Ok(())
}

/// Builds the driver of edu that runs in guests, which have no library; returns where it is.
///
/// # Errors
///
/// cargo's.
pub fn build_guest_driver() -> Result<PathBuf> {
    build_static(
        &["--package", "vfio-core", "--example", "no_iommu"],
        "examples/no_iommu",
        "a driver for guests",
    )
}

/// The program that a message of cargo's tells of.
fn executable(message: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    Some(message.get("executable")?.as_str()?.to_owned())
}

/// Builds an example of a library as its users do, to be measured; returns where it is.
///
/// # Errors
///
/// cargo's.
pub fn build_release_example(package: &str, example: &str) -> Result<PathBuf> {
    let target = target_dir()?;
    let program = target.join("release/examples").join(example);
    let mut cargo = cargo();
    cargo.args(["build", "--release", "--package", package, "--example", example]);
    cargo.arg("--target-dir").arg(&target);
    build(&mut cargo, example, program.exists())?;
    Ok(program)
}

/// Builds `sriovctl` and the programs that measure as users have them, and returns their directory.
///
/// # Errors
/// When cargo fails.
pub fn build_release_programs() -> Result<PathBuf> {
    let target = target_dir()?;
    let programs = target.join("release");
    // One after the other: together, each would have the features that the other one wants of a library.
    for (package, features, last) in [("sriovctl", "", "sriovctl"), ("benches", "device", "report")] {
        let mut cargo = cargo();
        cargo.args([
            "build",
            "--release",
            "--bins",
            "--package",
            package,
            "--features",
            features,
        ]);
        cargo.arg("--target-dir").arg(&target);
        build(&mut cargo, package, programs.join(last).exists())?;
    }
    Ok(programs)
}

/// The first build takes minutes and shows what it does; later ones are short and silent.
fn build(cargo: &mut Command, what: &str, was_built: bool) -> Result<()> {
    if was_built {
        let output = cargo.arg("--quiet").output().context("start cargo")?;
        if !output.status.success() {
            bail!(
                "build {what}: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        return Ok(());
    }
    say(&format!("lab: building {what}; the first time takes a minute or more"));
    let status = cargo.stdin(Stdio::null()).status().context("start cargo")?;
    if !status.success() {
        bail!("build {what}: {status}");
    }
    Ok(())
}

/// The cargo that started us, else the one on the path, at the root of the workspace.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// The root of the workspace that this program was built from.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Where cargo builds: the directory above the profile's, which this program lies in.
///
/// # Errors
/// When this program was not built by cargo.
pub fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let profile = program
        .ancestors()
        .find(|dir| dir.join(".fingerprint").is_dir())
        .context("this program was not built by cargo")?;
    Ok(profile.parent().context("no target directory")?.to_path_buf())
}
