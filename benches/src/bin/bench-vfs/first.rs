//! What is done first with VFs that have been brought up: where the lab has a driver of ours for them, real I/O.

use super::command;
use anyhow::{Context, Result, ensure};
use benches::device::open::{self, Held};
use drivers::igbvf::{Port, PortOptions};
use drivers::nvme::{Command, Controller, Options, QueueOptions, Registered};
use drivers::{Backing, VfioBacking};
use pci::Bdf;
use raw_calls::{Manage, Resource};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use system_tests::machine::{dir, read, vfs, write};
use vfio_core::{Access, Memory, MemoryOptions};

/// What a VF has done when it counts as up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// Answered a read of a register. A peer's VFs are opened by `vfio-ioctls`.
    Register,
    /// Read a block of a namespace, which its PF's kernel driver was told to let it: NVMe. All VFs are opened by our driver.
    Block,
    /// Been given its address by its PF's driver, through the mailbox: an 82576. As above.
    Mailbox,
}

const THREADS: usize = 16;

/// Who opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opener {
    /// One VF after another.
    OneByOne,
    /// Sixteen threads: more would only wait for one another.
    AtOnce,
    /// One VF after another, by another crate where that can do it.
    Theirs,
}

impl First {
    /// Behind "VFs created, bound".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Register => "opened and a register read of each",
            Self::Block => "opened and a block read by each",
            Self::Mailbox => "opened and an address from its PF's driver for each",
        }
    }

    /// Makes the PF ready for it, once.
    pub(crate) fn prepare(self, pf: &str) -> Result<()> {
        match self {
            Self::Register => Ok(()),
            Self::Block => give_up_resources(pf),
            // Its driver hears its mailbox only then.
            Self::Mailbox => set_up(pf),
        }
    }

    /// Opens the VFs of a PF, all on vfio-pci, and has each do it.
    pub(crate) fn of_each(self, pf: &str, opener: Opener) -> Result<Held> {
        let functions: Vec<Bdf> = vfs(pf).iter().map(|vf| vf.parse()).collect::<Result<_, _>>()?;
        let one = match self {
            Self::Register => {
                return match opener {
                    Opener::OneByOne => open::one_by_one(&functions),
                    Opener::AtOnce => open::by_threads(&functions, THREADS, open::registers),
                    Opener::Theirs => open::theirs(&functions),
                };
            }
            Self::Block => {
                take_online(pf, functions.len())?;
                block
            }
            Self::Mailbox => mailbox,
        };
        match opener {
            Opener::AtOnce => open::by_threads(&functions, THREADS, one),
            Opener::OneByOne | Opener::Theirs => functions.iter().map(|function| one(*function)).collect(),
        }
    }
}

/// Brings a controller up with a queue pair, and reads its namespace's first block.
fn block(function: Bdf) -> Result<Box<dyn Send>> {
    let backing = VfioBacking::open(function)?;
    let options = Options {
        queues: 1,
        vectors: 0,
        ..Options::default()
    };
    let controller = Controller::new(backing.clone(), &options)?;
    let namespace = controller.namespace(1)?;
    let bytes = usize::try_from(namespace.lba_bytes)?;
    let memory = Arc::new(Memory::new(bytes.max(4096), MemoryOptions::default())?);
    let registered = Registered::new(backing.space(), memory, Access::READ | Access::WRITE)?;
    let mut queue = controller.queue_pair(QueueOptions::default())?;
    let part = registered.part(0..bytes).context("memory of a block")?;
    queue.submit(&Command::read(&namespace, 0, 1), Some(part))?;
    queue.ring();
    let completion = queue.wait(None)?.context("a wait without an end has ended")?;
    ensure!(completion.status.is_success(), "a read failed: {}", completion.status);
    Ok(Box::new((queue, controller)))
}

/// Resets a VF by its PF, which answers with its address.
fn mailbox(function: Bdf) -> Result<Box<dyn Send>> {
    let backing = VfioBacking::open(function)?;
    Ok(Box::new(Port::open(&backing, PortOptions::default())?))
}

/// The controller of a PF as the kernel has it, as `nvme0`.
fn kernels(pf: &str) -> Result<String> {
    let entry = std::fs::read_dir(dir(pf).join("nvme"))?.flatten().next();
    let name = entry.context("the kernel has no controller of it")?.file_name();
    Ok(name.to_string_lossy().into_owned())
}

fn controller(pf: &str) -> Result<File> {
    let file = PathBuf::from("/dev").join(kernels(pf)?);
    File::open(&file).with_context(|| file.display().to_string())
}

/// QEMU gives all queues and interrupts to the PF at first, which has some of its own besides; and takes them back as it is reset.
fn give_up_resources(pf: &str) -> Result<()> {
    let file = controller(pf)?;
    for resource in [Resource::Queues, Resource::Interrupts] {
        Manage::Keep(resource, 0).ask(&file).context("keep no resources")?;
    }
    let class = PathBuf::from("/sys/class/nvme").join(kernels(pf)?);
    write(class.join("reset_controller"), "1")?;
    let state = read(class.join("state"))?;
    ensure!(state == "live", "{pf} is {state} after a reset");
    Ok(())
}

/// Gives the controllers of all VFs a queue besides that for their administration, and an interrupt. The lab's count from 1, as its VFs do.
fn take_online(pf: &str, count: usize) -> Result<()> {
    let file = controller(pf)?;
    for number in 1..=u16::try_from(count)? {
        let asked = [
            Manage::Assign(number, Resource::Queues, 2),
            Manage::Assign(number, Resource::Interrupts, 1),
            Manage::Online(number),
        ];
        for what in asked {
            what.ask(&file)
                .with_context(|| format!("the controller of VF {number}"))?;
        }
    }
    Ok(())
}

/// Sets the interface of a PF up, and waits for its link: the driver resets the device until then.
fn set_up(pf: &str) -> Result<()> {
    let entry = std::fs::read_dir(dir(pf).join("net"))?.flatten().next();
    let path = entry.context("the PF has no interface")?.path();
    let name = path.file_name().context("an interface without a name")?;
    command(
        std::process::Command::new("ip")
            .args(["link", "set"])
            .arg(name)
            .arg("up"),
    )?;
    let begin = Instant::now();
    while !read(path.join("carrier")).is_ok_and(|carrier| carrier == "1") {
        ensure!(begin.elapsed() < Duration::from_secs(30), "{pf} has no link");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    Ok(())
}
