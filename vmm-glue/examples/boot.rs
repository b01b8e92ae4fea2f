//! Boots a Linux guest on a serial console: `boot --kernel FILE [--initrd FILE] [--append WORDS] [--memory MIB] [--cpus N] [--nodes N] [--pages 4K|2M|1G]
//! [--ports N] [--reboot]`. Ends when the guest powers off, and says how long that took.
#![expect(clippy::print_stderr, reason = "an example's output")]

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{IsTerminal, stdin, stdout};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use vfio_core::PageSize;
use vmm_glue::kvm::Kvm;
use vmm_glue::machine::{Console, Files, Machine, Plugged, Reboot, Spec};
use vmm_glue::memory::Node;
use vmm_glue::pci::layout::{self, Room};
use vmm_glue::pci::{Port, PortOptions, Root};

#[derive(Debug)]
struct Arguments {
    kernel: String,
    initrd: Option<String>,
    append: String,
    memory_mib: u64,
    cpus: u32,
    nodes: u32,
    pages: PageSize,
    ports: u8,
    reboot: Reboot,
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments {
        kernel: String::new(),
        initrd: None,
        append: "console=ttyS0 quiet panic=-1 lab.role=guest".to_owned(),
        memory_mib: 512,
        cpus: 1,
        nodes: 1,
        pages: PageSize::Transparent,
        ports: 0,
        reboot: Reboot::End,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--reboot" {
            arguments.reboot = Reboot::InPlace;
            continue;
        }
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--kernel" => arguments.kernel = value,
            "--initrd" => arguments.initrd = Some(value),
            "--append" => arguments.append = value,
            "--memory" => arguments.memory_mib = value.parse()?,
            "--cpus" => arguments.cpus = value.parse()?,
            "--ports" => arguments.ports = value.parse()?,
            "--nodes" => arguments.nodes = value.parse()?,
            "--pages" => {
                arguments.pages = match value.as_str() {
                    "4K" => PageSize::Base,
                    "2M" => PageSize::Huge2M,
                    "1G" => PageSize::Huge1G,
                    other => bail!("pages of {other}"),
                }
            }
            other => bail!("what is {other}?"),
        }
    }
    Ok(arguments)
}

/// Ports with nothing in their slots.
fn empty_ports(machine: &Machine, count: u8) -> Result<Vec<Arc<Port>>> {
    let slots = vec![Vec::new(); usize::from(count)];
    let plans = layout::plan(machine.windows(), Room::default(), &slots)?;
    let irqs = machine.vm().irqs();
    let port = |(number, plan): (u8, layout::SlotPlan)| {
        let options = PortOptions {
            device: number,
            slot: number.into(),
            buses: plan.buses,
            windows: plan.windows,
            limits: machine.windows(),
        };
        Port::new(options, Arc::new(irqs.clone()))
    };
    Ok((1..).zip(plans).map(port).collect())
}

/// No function of the host.
#[derive(Debug)]
struct Nothing;

impl Plugged for Nothing {
    fn reset(&self) -> vmm_glue::Result<()> {
        Ok(())
    }

    fn drop_silent_slots(&self) -> bool {
        false
    }

    fn stop(&self) -> vmm_glue::Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let began = Instant::now();
    let arguments = arguments()?;
    let open = |path: &str| File::open(path).with_context(|| format!("open {path}"));
    let nodes = u64::from(arguments.nodes);
    let node = Node {
        len_bytes: (arguments.memory_mib << 20) / nodes,
        vcpus: arguments.cpus / arguments.nodes,
        host: None,
    };
    let spec = Spec {
        nodes: (0..nodes).map(|_| node).collect(),
        pci_node: None,
        pages: arguments.pages,
        command_line: arguments.append,
        reboot: arguments.reboot,
        has_exit_port: false,
    };
    // A terminal would have to be put into raw mode, and back: this is for scripts.
    let input = (!stdin().is_terminal())
        .then(|| stdin().as_fd().try_clone_to_owned())
        .transpose()?;
    let files = Files {
        kvm: Kvm::open(Path::new("/dev/kvm"))?,
        kernel: open(&arguments.kernel)?,
        initrd: arguments.initrd.as_deref().map(open).transpose()?,
        console: Console {
            input,
            output: stdout().as_fd().try_clone_to_owned()?,
        },
    };
    let mut machine = Machine::new(spec, files)?;
    let ports = empty_ports(&machine, arguments.ports)?;
    machine.connect(&Root::new(ports)?, Arc::new(Nothing))?;
    let made = began.elapsed();
    let end = machine.run()?;
    eprintln!(
        "boot: {end:?} after {:?}, the machine was made in {made:?}",
        began.elapsed()
    );
    Ok(())
}
