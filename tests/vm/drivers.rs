//! The userspace drivers on the lab's devices, through both of the kernel's interfaces: their examples, which check what they do, and the
//! kernel's view of the same devices.

#[path = "../../drivers/examples/nvme-check/pattern.rs"]
mod pattern;

use crate::background::{Background, LONG};
use crate::dma::{example, has_iommufd, on_edu};
use crate::guest::passed;
use crate::machine::{dir, done, link, physical_function, read, vfs, write};
use anyhow::{Context, Result, bail, ensure};
use lab::case::{Case, Outcome};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// An interface of the kernel, as programs are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    Type1,
    Iommufd,
}

impl Interface {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Type1 => "type1",
            Self::Iommufd => "iommufd",
        }
    }

    /// Does something through it, if this kernel has it.
    pub(crate) fn test(self, what: impl FnOnce(&str) -> Result<()>) -> Result<Outcome> {
        if self == Self::Iommufd && !has_iommufd() {
            return Ok(Outcome::Skipped("this kernel has no iommufd".to_owned()));
        }
        what(self.name())?;
        passed()
    }
}

/// A test for each interface; closures without captures are functions, which is what a case wants.
macro_rules! on_both {
    ($($name:literal, $limit_s:literal, $test:path;)*) => {
        vec![$(
            Case {
                limit_s: $limit_s,
                ..Case::new(concat!($name, "_by_type1"), || Interface::Type1.test($test))
            },
            Case {
                limit_s: $limit_s,
                ..Case::new(concat!($name, "_by_iommufd"), || Interface::Iommufd.test($test))
            },
        )*]
    };
}
pub(crate) use on_both;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = on_both![
        "the_first_driver_drives_an_edu", 60, first_driver;
        "an_nvme_says_what_it_is", 60, identify;
        "an_nvme_is_managed", 180, manage;
        "nvme_data_survives_resets", 300, resets;
        "nvme_data_is_copied", 240, copy;
        "an_nvme_vf_is_driven", 180, nvme_vf;
    ];
    let data = on_both!["nvme_data_is_what_was_written", 420, data;];
    cases.extend(data.into_iter().map(|case| Case {
        limit_s: case.limit_s * u64::try_from(crate::times()).unwrap_or(1),
        ..case
    }));
    cases
}

fn first_driver(interface: &str) -> Result<()> {
    on_edu(|edu| {
        let said = example("first-driver", &[edu, "--interface", interface])?.stdout;
        ensure!(said.contains("12! = 479001600") && said.contains("by DMA"), "{said}");
        Ok(())
    })
}

/// Does something with the NVMe controller while it is on vfio-pci.
pub(crate) fn on_nvme(what: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let nvme = physical_function("nvme")?;
    on_vfio(&nvme, || what(&nvme))
}

/// Does something while a function is on vfio-pci.
pub(crate) fn on_vfio(function: &str, what: impl FnOnce() -> Result<()>) -> Result<()> {
    done(&["bind", function, "--driver", "vfio-pci"])?;
    let outcome = what();
    let released = done(&["release", function]);
    outcome?;
    released?;
    Ok(())
}

fn identify(interface: &str) -> Result<()> {
    let size = device_bytes(&physical_function("nvme")?)?;
    on_nvme(|nvme| {
        let text = example("nvme-identify", &[nvme, "--interface", interface])?.stdout;
        ensure!(text.contains("QEMU NVMe Ctrl"), "{text}");
        let text = example("nvme-identify", &[nvme, "--interface", interface, "--json"])?.stdout;
        let report: Value = serde_json::from_str(&text)?;
        let at = |pointer| report.pointer(pointer).cloned().unwrap_or_default();
        ensure!(at("/controller/model") == "QEMU NVMe Ctrl", "{text}");
        ensure!(
            at("/namespaces/0/id") == 1 && at("/namespaces/0/bytes") == size,
            "{text}"
        );
        let secondary = at("/secondary_controllers");
        ensure!(secondary.as_array().map(Vec::len) == Some(8), "{text}");
        Ok(())
    })
}

fn manage(interface: &str) -> Result<()> {
    on_nvme(|nvme| {
        let said = example("nvme-manage", &[nvme, "--interface", interface, "self-test"])?.stdout;
        ensure!(said.contains("self-test: passed"), "{said}");
        Ok(())
    })
}

/// Bytes of the namespace that are used: so many that each of 4 queues has three times the longest operation, and divisible by 1 to 4.
const RANGE: usize = 48 << 20;

/// What a namespace holds: the seed, and the versions of its blocks.
pub(crate) struct Held {
    nvme: String,
    file: PathBuf,
    /// Bytes of a block.
    pub(crate) lba: usize,
}

impl Held {
    /// The kernel writes all blocks: what it leaves is what the driver must find.
    pub(crate) fn written_by_kernel(nvme: &str) -> Result<Self> {
        let device = block_device(nvme)?;
        let held = Self {
            nvme: nvme.to_owned(),
            file: PathBuf::from("/tmp/versions"),
            lba: lba_bytes(&device)?,
        };
        let (seed, versions) = (7_u64, vec![1_u32; RANGE / held.lba]);
        let mut device = File::options().write(true).open(device)?;
        let mut blocks = vec![0; 1 << 20];
        for start in (0..RANGE).step_by(blocks.len()) {
            for (number, block) in (start / held.lba..).zip(blocks.chunks_mut(held.lba)) {
                pattern::fill(block, number as u64, seed, 1);
            }
            device.write_all(&blocks)?;
        }
        device.sync_all()?;
        let mut file = File::create(&held.file)?;
        file.write_all(&seed.to_le_bytes())?;
        let versions: Vec<u8> = versions.iter().flat_map(|version| version.to_le_bytes()).collect();
        file.write_all(&versions)?;
        Ok(held)
    }

    /// The kernel reads all blocks: they must be what the driver says.
    fn read_by_kernel(&self) -> Result<()> {
        let state = fs::read(&self.file)?;
        let (seed, versions) = state.split_first_chunk().context("no seed")?;
        let seed = u64::from_le_bytes(*seed);
        let (versions, _) = versions.as_chunks();
        ensure!(
            versions.len() == RANGE / self.lba,
            "versions of {} blocks",
            versions.len()
        );
        let mut device = File::open(block_device(&self.nvme)?)?;
        let (mut blocks, mut scratch) = (vec![0; 1 << 20], vec![0; self.lba]);
        let mut numbers = (0_u64..).zip(versions);
        for _ in (0..RANGE).step_by(blocks.len()) {
            device.read_exact(&mut blocks)?;
            for (block, (number, version)) in blocks.chunks(self.lba).zip(numbers.by_ref()) {
                let version = u32::from_le_bytes(*version);
                if let Some(wrong) = pattern::mismatch(block, &mut scratch, number, seed, version) {
                    bail!("the kernel reads something else: {wrong}");
                }
            }
        }
        Ok(())
    }

    /// Random operations by the driver, then the kernel's view.
    pub(crate) fn check(&self, interface: &str, arguments: &str) -> Result<()> {
        on_vfio(&self.nvme, || {
            let (file, range) = (self.file.to_string_lossy(), RANGE.to_string());
            let usual = [
                self.nvme.as_str(),
                "--destroy-data",
                "--versions",
                &file,
                "--range",
                &range,
                "--interface",
                interface,
            ];
            let arguments: Vec<&str> = usual.into_iter().chain(arguments.split(' ')).collect();
            let said = example("nvme-check", &arguments)?.stdout;
            ensure!(said.contains("every block was as it should be"), "{said}");
            Ok(())
        })?;
        self.read_by_kernel()
    }
}

/// Operations of each run of `data`: with `LAB_TIMES=25`, a million in the two cases.
const OPERATIONS: usize = 4000;

fn data(interface: &str) -> Result<()> {
    let count = OPERATIONS * crate::times();
    let held = Held::written_by_kernel(&physical_function("nvme")?)?;
    for arguments in [
        "--queues 1 --wait poll --seed 11",
        "--queues 4 --wait poll --form prp --seed 12",
        "--queues 2 --wait interrupt --form sgl --seed 13",
        "--queues 3 --wait adaptive --depth 8 --seed 14",
        "--queues 4 --wait interrupt --seed 15",
    ] {
        let arguments = format!("--count {count} {arguments}");
        held.check(interface, &arguments).context(arguments)?;
    }
    Ok(())
}

fn resets(interface: &str) -> Result<()> {
    let held = Held::written_by_kernel(&physical_function("nvme")?)?;
    for arguments in [
        "--count 4000 --queues 2 --wait poll --reset-every 1000 --seed 21",
        "--count 4000 --queues 3 --wait interrupt --reset-every 1500 --seed 22",
    ] {
        held.check(interface, arguments).context(arguments)?;
    }
    Ok(())
}

fn copy(interface: &str) -> Result<()> {
    let nvme = physical_function("nvme")?;
    let held = Held::written_by_kernel(&nvme)?;
    let image = "/tmp/image";
    on_nvme(|nvme| {
        let namespace = format!("{nvme}:1");
        let bytes = RANGE.to_string();
        let usual = ["--interface", interface, "--bytes", &bytes];
        example("nvme-copy", &[&[namespace.as_str(), image], usual.as_slice()].concat())?;
        Ok(())
    })?;
    // The file is what the kernel reads, and the kernel reads what comes back from the file.
    let mut blocks = fs::read(image)?;
    let mut device = File::options().read(true).write(true).open(block_device(&nvme)?)?;
    let mut view = vec![0; RANGE];
    device.read_exact(&mut view)?;
    ensure!(blocks == view, "the copy is not what the kernel reads");
    blocks.fill(0);
    rustix::fs::seek(&device, rustix::fs::SeekFrom::Start(0))?;
    device.write_all(&blocks)?;
    device.sync_all()?;
    drop(device);
    on_nvme(|nvme| {
        let namespace = format!("{nvme}:1");
        let usual = ["--interface", interface, "--destroy-data"];
        example("nvme-copy", &[&[image, namespace.as_str()], usual.as_slice()].concat())?;
        Ok(())
    })?;
    fs::remove_file(image)?;
    held.read_by_kernel()
}

/// The PF is driven from user space, too: it is what takes a virtual function's controller online.
fn nvme_vf(interface: &str) -> Result<()> {
    let allowed = "/sys/module/vfio_pci/parameters/enable_sriov";
    if !Path::new(allowed).exists() {
        bail!("vfio-pci has no parameter enable_sriov");
    }
    write(allowed, "1")?;
    let token = "7e0d6a3c-7a51-4d2c-9d3f-0f7b6a1c2e55";
    let outcome = on_nvme(|pf| {
        let mut keeper = Background::start(Command::new(crate::dma::program("nvme-manage")?).args([
            pf,
            "--interface",
            interface,
            "--vf-token",
            token,
            "virtual-function",
            "1",
        ]))?;
        keeper.wait_for("make its virtual functions", LONG)?;
        // By hand: the PF is held, which sriovctl takes for a reason to leave it alone.
        write(dir(pf).join("sriov_drivers_autoprobe"), "0")?;
        write(dir(pf).join("sriov_numvfs"), "1")?;
        let outcome = (|| {
            keeper.say("\n")?;
            keeper.wait_for("is online", LONG)?;
            let vf = vfs(pf).pop().context("no VF")?;
            done(&["bind", &vf, "--driver", "vfio-pci"])?;
            let usual = [vf.as_str(), "--interface", interface, "--vf-token", token];
            let identity = example("nvme-identify", &usual)?.stdout;
            ensure!(identity.contains("QEMU NVMe Ctrl"), "{identity}");
            let check = ["--destroy-data", "--count", "2000", "--range", "16777216"];
            let said = example("nvme-check", &[&usual[..], &check].concat())?.stdout;
            ensure!(said.contains("every block was as it should be"), "{said}");
            Ok(())
        })();
        write(dir(pf).join("sriov_numvfs"), "0")?;
        write(dir(pf).join("sriov_drivers_autoprobe"), "1")?;
        keeper.close_input();
        let ended = keeper.end(LONG);
        outcome?;
        let said = ended?;
        ensure!(said.code == Some(0), "{said:?}");
        Ok(())
    });
    write(allowed, "0")?;
    outcome
}

/// Bytes of a block, as the kernel has them.
fn lba_bytes(device: &Path) -> Result<usize> {
    let name = device.file_name().context("a device without a name")?;
    let file = Path::new("/sys/block").join(name).join("queue/logical_block_size");
    Ok(read(file)?.parse()?)
}

/// The block device of a controller's first namespace, once the kernel has it.
pub(crate) fn block_device(nvme: &str) -> Result<PathBuf> {
    let deadline = Instant::now() + LONG;
    loop {
        let names = fs::read_dir(dir(nvme).join("nvme")).into_iter().flatten().flatten();
        let names = names.flat_map(|controller| fs::read_dir(controller.path()).into_iter().flatten().flatten());
        let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        if let Some(name) = names.find(|name| name.starts_with("nvme") && name.contains('n') && name.ends_with("n1")) {
            // With several paths to a namespace, `nvme0c1n1` is one of them and `nvme0n1` the device.
            let parts: Vec<&str> = name.split(['c', 'n']).collect();
            let device = match parts[..] {
                [_, subsystem, .., namespace] => format!("n{subsystem}n{namespace}"),
                _ => name.clone(),
            };
            let path = Path::new("/dev").join(device);
            if path.exists() {
                return Ok(path);
            }
        }
        ensure!(
            Instant::now() < deadline,
            "{nvme} on {:?} has no block device",
            link(nvme, "driver")
        );
        std::thread::yield_now();
    }
}

fn device_bytes(nvme: &str) -> Result<u64> {
    let mut device = File::open(block_device(nvme)?)?;
    Ok(std::io::Seek::seek(&mut device, std::io::SeekFrom::End(0))?)
}
