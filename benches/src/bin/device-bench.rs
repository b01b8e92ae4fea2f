//! Figures of a device: memory mapped for it, its interrupts, its DMA, and opening it, against bare calls to the kernel and other crates.
//!
//! In the lab it makes functions ready itself; elsewhere it takes those that are bound to vfio-pci, and changes nothing about the machine.
#![forbid(unsafe_code)]

use anyhow::{Result, bail};
use benches::device::{self, Session, dma, interrupt, lab, map, open, pool};
use benches::record::Clock;
use clap::Parser;
use pci::Bdf;

/// Measure the path to a device, in lines of JSON that `cargo lab bench` reads
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure [default: all; with --device all but dma]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Function that is bound to vfio-pci; a second one is for a peer that needs its own [default: the lab's]
    #[arg(long = "device", value_name = "BDF")]
    devices: Vec<Bdf>,
    /// The machine's clock counts instructions
    #[arg(long)]
    instructions: bool,
    /// Fewer sizes, one interface, fewer turns
    #[arg(long)]
    quick: bool,
    /// Only cases that have this in their names
    #[arg(long)]
    filter: Option<String>,
    /// A process that this program starts itself: may make no system calls
    #[arg(long, hide = true, requires = "devices")]
    silence: Option<pool::Silence>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Mapping and unmapping memory
    Map,
    /// Buffers of a pool, and mapped for each
    Pool,
    /// From an interrupt to the thread that waits for it; on a VF of an 82576
    Interrupt,
    /// Opening functions: all that are given
    Open,
    /// Reads of an NVMe controller; frames between two VFs of an 82576 whose PF is up
    Dma,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if cfg!(debug_assertions) {
        bail!("built without optimisation, it would measure that: cargo build --release");
    }
    if let (Some(silence), Some(function)) = (arguments.silence, arguments.devices.first()) {
        return pool::be_silent(silence, *function);
    }
    let wants = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let clock = match arguments.instructions {
        true => Clock::Instructions,
        false => Clock::Wall,
    };
    let given = |of_lab: fn() -> Result<Vec<Bdf>>| -> Result<Vec<Bdf>> {
        let functions = match arguments.devices.as_slice() {
            [] if lab::is_here() => of_lab()?,
            [] => bail!("which function? --device BDF, bound to vfio-pci"),
            devices => devices.to_vec(),
        };
        device::ready(&functions)?;
        Ok(functions)
    };
    let mut session = Session::new(clock, arguments.quick, arguments.filter.clone())?;
    if [Part::Map, Part::Pool, Part::Interrupt, Part::Open]
        .into_iter()
        .any(wants)
    {
        let functions = given(|| lab::virtual_functions("igb").or_else(|_no_such_nic| lab::virtual_functions("nvme")))?;
        if wants(Part::Map) {
            map::run(&mut session, &functions)?;
        }
        if wants(Part::Pool) {
            pool::run(&mut session, &functions)?;
        }
        if wants(Part::Interrupt) {
            interrupt::run(&mut session, &functions)?;
        }
        if wants(Part::Open) {
            open::run(&mut session, &functions)?;
        }
    }
    // What was named is no device for this part unless its user asks for it.
    if arguments.parts.contains(&Part::Dma) || (wants(Part::Dma) && arguments.devices.is_empty()) {
        if arguments.devices.is_empty() && !lab::is_here() {
            bail!("which functions? --device BDF, bound to vfio-pci");
        }
        dma::run(&mut session, &arguments.devices)?;
    }
    session.end()
}
