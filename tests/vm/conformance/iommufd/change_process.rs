//! Fixture `change_process` and the cases with a second process: memory of one process in an iommufd that another has open.

use super::access::Random;
use super::bench::{APERTURE, BUFFER, Bench, PAGE, READ_WRITE, memory, refused};
use crate::PASSED;
use anyhow::{Context, Result, bail, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use vfio_core::iommufd::selftest::{MockAccess, MockDevice, MockFlags};
use vfio_core::iommufd::{Iommufd, Placement, RlimitMode};
use vfio_core::{Backing, Container, ContainerPath, IommuType, Memory, MemoryOptions, System};

/// How pinned memory is counted; `None` leaves it as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    mode: Option<RlimitMode>,
}

pub(super) const VARIANTS: [Variant; 3] = [
    Variant {
        name: "account_none",
        mode: None,
    },
    Variant {
        name: "account_user",
        mode: Some(RlimitMode::User),
    },
    Variant {
        name: "account_mm",
        mode: Some(RlimitMode::Process),
    },
];

pub(super) fn basic(variant: &Variant) -> Result<Outcome> {
    // Who may lock any amount is not counted.
    let mut sets = capabilities(None)?;
    sets.effective -= CapabilitySet::IPC_LOCK;
    set_capabilities(None, sets)?;

    let iommufd = Iommufd::open(&System::host())?;
    if let Some(mode) = variant.mode {
        iommufd.set_rlimit_mode(mode)?;
    }
    let ioas = iommufd.alloc_ioas()?;
    let _device = MockDevice::new(&ioas, MockFlags::empty())?;
    let memory_here = memory(PAGE)?;
    let mapping = super::bench::map(&ioas, &memory_here, 0, PAGE, Placement::Any)?;
    refused(iommufd.change_process(), Errno::INVAL)?;
    mapping.unmap()?;

    let options = MemoryOptions {
        backing: Backing::Shared,
        ..MemoryOptions::default()
    };
    let shared = Memory::new(usize::try_from(PAGE)?, options)?;
    let file = shared.file().context("shared memory has a file")?;
    let _mapping = ioas.map_file(file, 0, PAGE, Placement::Any, READ_WRITE)?;
    iommufd.change_process()?;

    let kind = if variant.mode == Some(RlimitMode::Process) {
        "locked"
    } else {
        "pinned"
    };
    second_process("change", &iommufd, kind)?.end()?;
    PASSED
}

/// Kilobytes that a process has pinned, and locked.
fn pinned_and_locked(pid: u32) -> Result<(u64, u64)> {
    let status = crate::machine::read(format!("/proc/{pid}/status"))?;
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Ok((value("VmPin:").context("VmPin")?, value("VmLck:").context("VmLck")?))
}

fn changed(iommufd: &Iommufd, is_locked: bool) -> Result<()> {
    let (parent, own) = (std::os::unix::process::parent_id(), std::process::id());
    let counted = (PAGE / 1024, if is_locked { PAGE / 1024 } else { 0 });
    ensure!(
        pinned_and_locked(parent)? == counted,
        "the first process has {:?}",
        pinned_and_locked(parent)?
    );
    ensure!(
        pinned_and_locked(own)? == (0, 0),
        "the second one has {:?}",
        pinned_and_locked(own)?
    );
    iommufd.change_process()?;
    ensure!(
        pinned_and_locked(parent)? == (0, 0),
        "the first process keeps {:?}",
        pinned_and_locked(parent)?
    );
    ensure!(
        pinned_and_locked(own)? == counted,
        "the second one gets {:?}",
        pinned_and_locked(own)?
    );
    Ok(())
}

/// Where the random content of the second process's memory begins.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Memory of a process that has ended: what is pinned stays, what is not cannot be had.
pub(super) fn fork_gone(variant: &super::bench::Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let access = MockAccess::new(&bench.ioas, false)?;
    bench.iommufd.set_vfio_ioas(&bench.ioas)?;
    second_process("map", &bench.iommufd, "")?.end()?;
    let device = MockDevice::new(&bench.ioas, MockFlags::empty());
    if variant.devices > 0 {
        drop(device?);
        has_content(&access)?;
    } else {
        refused(device, Errno::FAULT)?;
    }
    bench.iommufd.clear_vfio_ioas()?;
    PASSED
}

/// Memory of another process that lives.
pub(super) fn fork_present(variant: &super::bench::Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let access = MockAccess::new(&bench.ioas, false)?;
    bench.iommufd.set_vfio_ioas(&bench.ioas)?;
    let second = second_process("map", &bench.iommufd, "")?;
    drop(MockDevice::new(&bench.ioas, MockFlags::empty())?);
    has_content(&access)?;
    second.end()?;
    bench.iommufd.clear_vfio_ioas()?;
    PASSED
}

/// The second process's content is read through the address space.
fn has_content(access: &MockAccess) -> Result<()> {
    let mut expected = vec![0; usize::try_from(BUFFER)?];
    Random(SEED).fill(&mut expected);
    let mut found = vec![0; expected.len()];
    access.read(APERTURE, &mut found, false)?;
    ensure!(found == expected, "it is not the second process's memory");
    Ok(())
}

/// Another process with the same iommufd.
struct Second {
    child: Child,
}

/// Starts it and waits until it has done what it was started for.
fn second_process(what: &str, iommufd: &Iommufd, argument: &str) -> Result<Second> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["helper", what, argument])
        .stdin(Stdio::from(iommufd.try_clone_fd()?))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = [0; 1024];
    let len = child.stdout.as_mut().context("its output")?.read(&mut said)?;
    let said = String::from_utf8_lossy(said.get(..len).unwrap_or_default()).into_owned();
    if said != DONE {
        child.wait()?;
        bail!("the second process: {said}");
    }
    Ok(Second { child })
}

/// What the second process says when it is done.
const DONE: &str = "done";

impl Second {
    /// Lets it end, as a process that is killed ends: nothing is unmapped.
    fn end(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// What the second process does; the iommufd is its standard input.
pub(crate) fn helper(what: &str, argument: &str) -> Result<()> {
    let file = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut out = std::io::stdout().lock();
    match what {
        "change" => {
            changed(&Iommufd::from_fd(file), argument == "locked")?;
            write!(out, "{DONE}")?;
            Ok(out.flush()?)
        }
        "map" => {
            let memory = memory(BUFFER)?;
            let mut content = vec![0; memory.len()];
            Random(SEED).fill(&mut content);
            memory.write(0, &content).context("inside")?;
            let container = Container::from_fd(file, ContainerPath::Iommu);
            container.set_iommu(IommuType::Type1v2)?;
            let _mapping = container.map(memory.clone(), 0..memory.len(), APERTURE, READ_WRITE)?;
            write!(out, "{DONE}")?;
            out.flush()?;
            // Whoever started it ends it.
            loop {
                std::thread::park();
            }
        }
        _ => bail!("no such helper"),
    }
}
