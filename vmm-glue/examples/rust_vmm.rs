//! Opens a function with `vfio-core` and drives it with `vfio-ioctls`, as a VMM on rust-vmm does: `rust_vmm 0000:01:10.0`. The function is on vfio-pci; Linux
//! has iommufd.
//!
//! Its configuration space and its regions are read, and an interrupt is delivered; a VF of an 82576 and QEMU's edu raise it themselves, and edu also copies
//! memory: what `vfio-core` has mapped, and then what `vfio-ioctls` has.
#![expect(clippy::print_stdout, reason = "an example's output")]

use anyhow::{Context, Result, ensure};
use pci::{Bdf, Sysfs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_core::iommufd::{Iommufd, Placement};
use vfio_core::{Access, Backing, CdevFile, Iova, Memory, MemoryOptions, System};
use vfio_ioctls::VfioDevice;
use vmm_glue::rust_vmm::{Mapper, SharedIommufd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Indices of VFIO.
const CONFIG: u32 = 7;
const INTX: u32 = 0;
const MSI: u32 = 1;
const MSIX: u32 = 2;
/// Within the 28 address bits of edu.
const IOVA: Iova = Iova(1 << 20);
const LEN: usize = 1 << 16;
/// How long a device may take.
const LIMIT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let bdf: Bdf = std::env::args().nth(1).context("usage: rust_vmm BDF")?.parse()?;
    drive(bdf, Mapper::VfioCore)?;
    drive(bdf, Mapper::VfioIoctls)
}

fn drive(bdf: Bdf, mapper: Mapper) -> Result<()> {
    // Ours: the way to the device, the memory, and what is said when something fails.
    let system = System::host();
    let iommufd = Iommufd::open(&system)?;
    let bound = CdevFile::open_bdf(&system, &Sysfs::host(), bdf)?.bind(&iommufd, None)?;
    let options = MemoryOptions {
        backing: Backing::Shared,
        ..MemoryOptions::default()
    };
    let memory = Arc::new(Memory::new(LEN, options)?);
    let shared = SharedIommufd::new(&iommufd)?;
    let _mapped = match mapper {
        Mapper::VfioCore => {
            let ioas = iommufd.alloc_ioas()?;
            let access = Access::READ | Access::WRITE;
            let mapping = ioas.map(memory.clone(), 0..LEN, Placement::Fixed(IOVA), access)?;
            Some((bound.attach(&ioas, None)?, mapping))
        }
        Mapper::VfioIoctls => {
            let file = memory.file().context("no memfd")?;
            shared.map_file(file, 0..LEN as u64, IOVA, true)?;
            None
        }
    };

    // Theirs: the device.
    let device = shared.hand_over(&bound, mapper, None)?;
    drop(bound);
    let id = read(&device, CONFIG, 0);
    println!("{bdf}: {:04x}:{:04x}", id & 0xFFFF, id >> 16);
    for index in 0..=CONFIG {
        let size = device.get_region_size(index);
        if size > 0 {
            println!(
                "region {index}: {size:#x} bytes, flags {:#x}",
                device.get_region_flags(index)
            );
        }
    }
    // Memory decoding and bus mastering.
    device.region_write(CONFIG, &[6, 0], 4);
    let (index, name) = interrupts(&device)?;
    let event = EventFd::new(EFD_NONBLOCK)?;
    device.enable_irq(index, vec![&event])?;
    device.trigger_irq(index, 0)?;
    arrives(&event)?;
    println!("{name}: signalled by the kernel");
    match id {
        0x10ca_8086 => {
            // VTEIMS and VTEICS: the first vector, raised by software in the device. VTEICR: what is raised already is not raised again.
            write(&device, 0x1580, 1);
            write(&device, 0x1524, 1);
            write(&device, 0x1520, 1);
            arrives(&event)?;
            write(&device, 0x1580, 1);
            println!("{name}: raised by the device");
        }
        0x11e8_1234 => {
            write(&device, 0x60, 1);
            arrives(&event)?;
            write(&device, 0x64, 1);
            println!("{name}: raised by the device");
            copy(&device, &memory)?;
            println!("bytes by DMA, in memory that {mapper:?} has mapped");
        }
        _ => {}
    }
    device.disable_irq(index)?;
    Ok(())
}

/// The kind of interrupts that it has.
fn interrupts(device: &VfioDevice) -> Result<(u32, &'static str)> {
    let kinds = [(MSIX, "MSI-X"), (MSI, "MSI"), (INTX, "INTx")];
    let has = |index| device.get_irq_info(index).is_some_and(|info| info.count > 0);
    let found = kinds.into_iter().find(|(index, _)| has(*index));
    found.context("it has no interrupts")
}

fn arrives(event: &EventFd) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while event.read().is_err() {
        ensure!(Instant::now() < deadline, "no interrupt");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}

/// Into the 4096 bytes inside of edu, and out to another place (QEMU, `docs/specs/edu.rst`).
fn copy(device: &VfioDevice, memory: &Memory) -> Result<()> {
    const INSIDE: u64 = 0x4_0000;
    let text = b"through a device of vfio-ioctls";
    let there = LEN / 2;
    memory.write(0, text).context("no room")?;
    let transfer = |source: u64, target: u64, from_device: u64| -> Result<()> {
        for (register, value) in [
            (0x80, source),
            (0x88, target),
            (0x90, text.len() as u64),
            (0x98, 1 | from_device),
        ] {
            device.region_write(0, &value.to_le_bytes(), register);
        }
        let deadline = Instant::now() + LIMIT;
        while read(device, 0, 0x98) & 1 != 0 {
            ensure!(Instant::now() < deadline, "DMA does not end");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    };
    transfer(IOVA.0, INSIDE, 0)?;
    transfer(INSIDE, IOVA.0 + there as u64, 2)?;
    let mut copied = vec![0; text.len()];
    memory.read(there, &mut copied).context("no room")?;
    ensure!(copied == text, "what came back is not what went in");
    Ok(())
}

fn read(device: &VfioDevice, region: u32, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    device.region_read(region, &mut bytes, offset);
    u32::from_le_bytes(bytes)
}

fn write(device: &VfioDevice, register: u64, value: u32) {
    device.region_write(0, &value.to_le_bytes(), register);
}
