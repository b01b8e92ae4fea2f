//! Drives QEMU's edu in a machine without an IOMMU: `no_iommu 0000:01:00.0`. It is on vfio-pci, bound after somebody has set
//! `/sys/module/vfio/parameters/enable_unsafe_noiommu_mode`, which taints the kernel. `no_iommu BDF 1000` says how long so many interrupts took, too,
//! and does that alone where BDF is a VF of an 82576.
//!
//! `no_iommu EDU OTHER` lets edu read and write registers of an NVMe controller that nobody drives, too: one function of this machine reaches another one's BAR.
//!
//! For machines that have nothing to lose: a function without an IOMMU reaches all memory, and this needs `unsafe` to say so. Edu computes and interrupts, by MSI
//! and by INTx; it is asked for no DMA to memory.
#![expect(clippy::print_stdout, reason = "an example's output")]
#![expect(unsafe_code, reason = "nothing but this program guards memory")]

use pci::{Bdf, GroupId, Sysfs};
use std::error::Error;
use std::time::{Duration, Instant};
use vfio_core::{BoundDevice, Container, ContainerPath, EventFd, Group, IrqIndex, Region, RegionIndex, System};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Registers of edu, in BAR 0 (QEMU, `docs/specs/edu.rst`).
const ID: u64 = 0x00;
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPT: u64 = 0x24;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
/// Vendor and device of a VF of an 82576, which interrupts by MSI-X when one of its registers is told to.
const VF: u32 = 0x10ca_8086;
/// In [`STATUS`].
const INTERRUPT_WHEN_DONE: u32 = 0x80;
/// In [`INTERRUPT`].
const DONE: u32 = 1;

const LIMIT: Duration = Duration::from_secs(20);

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let bdf: Bdf = arguments.next().ok_or("usage: no_iommu BDF [COUNT]")?.parse()?;
    let second = arguments.next();
    let other: Option<Bdf> = second.as_deref().and_then(|text| text.parse().ok());
    let count: usize = second
        .filter(|_| other.is_none())
        .map_or(Ok(0), |count| count.parse())?;
    let device = open(bdf)?;
    let config = device.config()?;
    config.set_memory_decode(true)?;
    let registers = device.region(RegionIndex(0))?;
    let is_vf = config.read_u32(0)? == VF;
    let found = registers.read_u32(ID)?;
    if !is_vf && found & 0xFF != 0xED {
        return Err(format!("{bdf} is no edu: {found:#010x}").into());
    }
    // MSI is a write to memory.
    config.set_bus_master(true)?;
    if is_vf {
        return wakes(&device, &registers, &OF_VF, count);
    }
    if let Some(other) = other {
        return reach(&registers, other);
    }
    for kind in [IrqIndex::Msi, IrqIndex::Intx] {
        let (interrupts, factorial) = compute(&device, &registers, kind)?;
        println!("edu: {kind}: {interrupts} interrupts, 10! = {factorial}");
    }
    if count > 0 {
        wakes(&device, &registers, &OF_EDU, count)?;
    }
    Ok(())
}

fn open(bdf: Bdf) -> Outcome<BoundDevice> {
    let (system, sysfs) = (System::host(), Sysfs::host());
    let link = sysfs.link_name(format!("sys/bus/pci/devices/{bdf}/iommu_group"))?;
    // SAFETY: edu accesses memory only for DMA, and when it interrupts by MSI, where the kernel has told it to. Its registers for DMA are written in `reach` only,
    // where the addresses are those of another function's BAR. That one, an NVMe controller that is not enabled, accesses none; nor does a VF of an 82576 that has no queue,
    // and none is made here, but to interrupt.
    let group = unsafe { Group::open_no_iommu(&system, GroupId(link.parse()?)) }?;
    let container = Container::open(&system, ContainerPath::Vfio)?;
    let attached = container.add(&group)?;
    // SAFETY: as above.
    unsafe { container.set_no_iommu() }?;
    Ok(attached.device(bdf, None)?)
}

/// Edu reads the capabilities of an NVMe controller (NVMe 2.0 §3.1.3) and writes them where the address of its admin queue would be, where a processor finds them.
fn reach(edu: &Region, other: Bdf) -> Outcome<()> {
    /// Edu's registers and memory for DMA.
    const SOURCE: u64 = 0x80;
    const TARGET: u64 = 0x88;
    const COUNT: u64 = 0x90;
    const COMMAND: u64 = 0x98;
    const BUFFER: u64 = 0x4_0000;
    const CAPABILITIES: u64 = 0x00;
    const CONFIGURATION: u64 = 0x14;
    const ADMIN_QUEUE: u64 = 0x28;
    let nvme = open(other)?;
    nvme.config()?.set_memory_decode(true)?;
    let registers = nvme.region(RegionIndex(0))?;
    if registers.read_u32(CONFIGURATION)? & 1 != 0 {
        return Err(format!("{other} is enabled").into());
    }
    let text = Sysfs::host().read(format!("sys/bus/pci/devices/{other}/resource"))?;
    let first = text.split_whitespace().next().unwrap_or_default();
    let bar = u64::from_str_radix(first.trim_start_matches("0x"), 16)?;
    registers.write_u64(ADMIN_QUEUE, 0)?;
    for (source, target, command) in [(bar + CAPABILITIES, BUFFER, 1), (BUFFER, bar + ADMIN_QUEUE, 1 | 2)] {
        for (register, value) in [(SOURCE, source), (TARGET, target), (COUNT, 8), (COMMAND, command)] {
            edu.write_u64(register, value)?;
        }
        let deadline = Instant::now() + LIMIT;
        while edu.read_u64(COMMAND)? & 1 != 0 {
            if Instant::now() > deadline {
                return Err("edu does not end its DMA".into());
            }
        }
    }
    // The lowest bits are not the address's.
    let [wanted, found] = [CAPABILITIES, ADMIN_QUEUE].map(|at| registers.read_u64(at).map(|value| value & !0xFFF));
    let (wanted, found) = (wanted?, found?);
    println!("edu: peer {other}: wrote {found:#x} of {wanted:#x} at {bar:#x}");
    Ok(())
}

/// How a device is made to interrupt: stores into registers.
struct Source {
    name: &'static str,
    kind: IrqIndex,
    /// Before the first.
    prepare: &'static [(u64, u32)],
    raise: (u64, u32),
    /// After each.
    settle: Option<(u64, u32)>,
}

const OF_EDU: Source = Source {
    name: "edu",
    kind: IrqIndex::Msi,
    prepare: &[],
    raise: (RAISE, 2),
    settle: Some((ACKNOWLEDGE, 2)),
};

/// Vector 0, whose cause is cleared by its message (82576 datasheet §8.26: VTEIAC, VTEIMS, VTEICS).
const OF_VF: Source = Source {
    name: "82576 VF",
    kind: IrqIndex::Msix,
    prepare: &[(0x152c, 1), (0x1524, 1)],
    raise: (0x1520, 1),
    settle: None,
};

/// From each store that raises an interrupt until this thread, which waits for it, has it: says all of them. The first are for caches to fill.
fn wakes(device: &BoundDevice, registers: &Region, source: &Source, count: usize) -> Outcome<()> {
    const FILLING: usize = 10;
    let Source { name, kind, .. } = source;
    let event = EventFd::new()?;
    let interrupts = device.interrupts(*kind)?;
    interrupts.enable(0, &[Some(&event)])?;
    let write = |(register, value)| registers.write_u32(register, value);
    source.prepare.iter().copied().try_for_each(write)?;
    let mut line = format!("{name}: {kind}: wakes in ns:");
    for number in 0..count + FILLING {
        let begin = Instant::now();
        write(source.raise)?;
        let came = event.wait_timeout(LIMIT)?;
        let time = begin.elapsed();
        came.ok_or_else(|| format!("{kind} does not come"))?;
        source.settle.map_or(Ok(()), write)?;
        if number >= FILLING {
            line.push_str(&format!(" {}", time.as_nanos()));
        }
    }
    println!("{line}");
    Ok(())
}

/// How many interrupts came, and what edu has computed.
fn compute(device: &BoundDevice, registers: &Region, kind: IrqIndex) -> Outcome<(u32, u32)> {
    let event = EventFd::new()?;
    let interrupts = device.interrupts(kind)?;
    interrupts.enable(0, &[Some(&event)])?;
    let mut count = 0;
    let mut wait = |reason: u32| -> Outcome<()> {
        event
            .wait_timeout(LIMIT)?
            .ok_or_else(|| format!("{kind} does not come"))?;
        let reasons = registers.read_u32(INTERRUPT)?;
        if reasons != reason {
            return Err(format!("{kind} for {reasons:#x}, not {reason:#x}").into());
        }
        registers.write_u32(ACKNOWLEDGE, reasons)?;
        if kind == IrqIndex::Intx {
            interrupts.unmask(0)?;
        }
        count += 1;
        Ok(())
    };
    for reason in [2, 4, 8] {
        registers.write_u32(RAISE, reason)?;
        wait(reason)?;
    }
    registers.write_u32(STATUS, INTERRUPT_WHEN_DONE)?;
    registers.write_u32(FACTORIAL, 10)?;
    wait(DONE)?;
    let factorial = registers.read_u32(FACTORIAL)?;
    if event.try_read()?.is_some() {
        return Err(format!("{kind} comes for nothing").into());
    }
    Ok((count, factorial))
}
