//! A device (QEMU's edu) reads another function's registers, and what becomes of that when the other function stops to decode memory.
//!
//! `peer EDU OTHER iommufd|type1|best [provoke]`; both functions are on vfio-pci, and the first 8 bytes of OTHER's BAR 0 do not change. With
//! `provoke` it also reads where nothing is mapped, of which the kernel complains.

#![expect(clippy::print_stdout, reason = "this is a program")]

use iommu::space::MapOptions;
use iommu::{Error, Iova, OpenOptions, Result};
use pci::Bdf;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use vfio_core::{Access, Backend, Memory, MemoryOptions, RegionIndex, RegionMap};

const WIDTH: u32 = 28;
/// In the device.
const BUFFER: u64 = 0x4_0000;
const SHORT: Error = Error::Invalid("a BAR or memory that is too small");
/// What is read where nobody answers.
const NOTHING: u64 = 0x5a5a_5a5a_5a5a_5a5a;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let bdf = |at: usize| arguments.get(at).and_then(|text| text.parse::<Bdf>().ok());
    let (edu, other) = bdf(0).zip(bdf(1)).ok_or(Error::Invalid("which functions?"))?;
    let provokes = arguments.get(3).is_some_and(|word| word == "provoke");
    let options = match arguments.get(2).map(String::as_str) {
        Some("iommufd") => OpenOptions::default().only(Backend::Iommufd),
        Some("type1") => OpenOptions::default().only(Backend::Type1v2),
        _ => OpenOptions::default(),
    };
    let attached = options.open(edu)?;
    let (device, space) = (attached.device(), attached.space());
    let peer = options.open_in(space, other)?;
    let config = peer.device().config()?;
    device.config()?.set_memory_decode(true)?;
    device.config()?.set_bus_master(true)?;
    config.set_memory_decode(true)?;
    let bar = device.region(RegionIndex::BAR0)?;
    let edu = Edu(bar.map(0..bar.size())?);

    let memory = Arc::new(Memory::new(8 << 20, MemoryOptions::default())?);
    let both = MapOptions::new(Access::READ | Access::WRITE).within(WIDTH);
    let mut told = 0;
    let mut count = |_| {
        told += 1;
        ControlFlow::Continue(())
    };
    let whole = both.prefault(NonZeroUsize::MIN).progress(&mut count);
    let mapping = space.map(&memory, 0..memory.len(), whole)?;
    println!("8 MiB at {}, in {told} steps", mapping.range());

    let wanted = peer.device().region(RegionIndex::BAR0)?.read_u64(0)?;
    let mut registers = space.map_bar(peer.device(), RegionIndex::BAR0, 0..4096, both)?;
    // Through the device, which is given something else before.
    let read = |from: Iova| {
        memory.write_value(0, &NOTHING).ok_or(SHORT)?;
        edu.transfer(mapping.iova().0, BUFFER, 1)?;
        edu.transfer(from.0, BUFFER, 1)?;
        edu.transfer(BUFFER, mapping.iova().0, 1 | 2)?;
        memory.read_value::<u64>(0).ok_or(SHORT)
    };
    let iova = registers.iova();
    expect(read(iova)? == wanted, "the registers are read")?;

    config.set_memory_decode(false)?;
    expect(
        !registers.is_mapped() && !registers.refresh()?,
        "it is unmapped while nobody answers",
    )?;
    if provokes {
        expect(read(iova)? != wanted, "nobody answers")?;
    }
    config.set_memory_decode(true)?;
    expect(registers.refresh()? && registers.iova() == iova, "it is mapped again")?;
    expect(read(iova)? == wanted, "the registers are read again")?;

    // What the kernel does when nobody refreshes it.
    config.set_memory_decode(false)?;
    config.set_memory_decode(true)?;
    if space.container().is_some() {
        expect(read(iova)? == wanted, "type1 has kept it")?;
    } else if provokes {
        expect(read(iova)? != wanted, "iommufd has not")?;
    }
    expect(registers.refresh()? && read(iova)? == wanted, "mapped anew it is read")?;

    match peer.device().reset() {
        Ok(()) => expect(
            registers.refresh()? && read(iova)? == wanted,
            "mapped anew after a reset it is read",
        )?,
        Err(error) => println!("not reset: {error}"),
    }
    drop(registers);
    println!("{} bytes were left at the end", space.unmap_all()?);
    peer.detach()?;
    attached.detach()
}

fn expect(is_so: bool, what: &'static str) -> Result<()> {
    println!("{what}: {is_so}");
    if is_so { Ok(()) } else { Err(Error::Invalid(what)) }
}

/// The registers of `docs/specs/edu.rst` in QEMU.
struct Edu(RegionMap);

impl Edu {
    /// Moves 8 bytes.
    fn transfer(&self, source: u64, target: u64, command: u64) -> Result<()> {
        for (offset, value) in [(0x80, source), (0x88, target), (0x90, 8), (0x98, command)] {
            self.0.write_u64(offset, value).ok_or(SHORT)?;
        }
        while self.0.read_u64(0x98).ok_or(SHORT)? & 1 != 0 {
            std::thread::yield_now();
        }
        Ok(())
    }
}
