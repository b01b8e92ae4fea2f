//! A guest's accesses to a function that it was given: configuration space, and vectors of MSI-X that are masked and unmasked.

use super::{OURS, Operation, Subject, config, metered};
use crate::record::Clock;
use anyhow::{Context, Result, ensure};
use iommu::space::AddressSpace;
use pci::{Bdf, GroupId, RoutingId, Segment};
use std::hint::black_box;
use std::sync::Arc;
use vfio_core::CdevFile;
use vfio_core::fake::{Description, Machine, Plain, Region};
use vfio_core::iommufd::Iommufd;
use vmm_glue::assigned::{Assigned, Options, Wiring};
use vmm_glue::bus::Bus;
use vmm_glue::fake::Guest;
use vmm_glue::pci::{BusEvent, Function, Windows};
use vmm_glue::view::{ConfigView, Device, Presentation};

const ACCESSES: u32 = 64;
const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const MEMORY_AND_MASTER: [u8; 2] = [0b110, 0];
/// Where the function that is made here has its capability MSI-X.
const MSIX: u16 = 0x60;
/// Where its BAR 0 is put, in which MSI-X has its table.
const HERE: u64 = 0xC000_0000;
const TABLE: u32 = 0x8000;

pub(super) fn operations() -> Vec<Operation> {
    let vectors = "mask and unmask a vector of MSI-X";
    vec![
        Operation::new("view", "read an identity", OURS, ACCESSES, read_identity),
        Operation::new("view", "write the command register", OURS, ACCESSES, write_command),
        Operation::new("view", vectors, OURS, ACCESSES, mask_and_unmask).by(&[
            Clock::Wall,
            Clock::Instructions,
            Clock::Count,
        ]),
    ]
}

fn view() -> Result<ConfigView> {
    let device = Device {
        config: config::space()?,
        bar_sizes: [128 << 10, 4 << 20, 0, 16 << 10, 0, 0],
        rom_size: 0,
    };
    let mut view = ConfigView::new(&device, &Presentation::default())?;
    ensure!(view.bus_event(windows()).is_empty(), "it decodes nothing yet");
    Ok(view)
}

fn windows() -> BusEvent {
    BusEvent::Windows(Windows::new(HERE..HERE + (256 << 20), 0x10_0000_0000..0x20_0000_0000))
}

fn read_identity() -> Result<Subject> {
    let view = view()?;
    Ok(Subject::new(move || {
        metered(|| {
            for _ in 0..ACCESSES {
                let mut to = [0; 4];
                black_box(&view).read(0, &mut to, |own| own.fill(0));
                black_box(to);
            }
        });
        Ok(())
    }))
}

fn write_command() -> Result<Subject> {
    let mut view = view()?;
    Ok(Subject::new(move || {
        let mut changes = 0;
        metered(|| {
            for number in 0..ACCESSES {
                // Bus mastering goes on and off.
                let value = if number % 2 == 0 { MEMORY_AND_MASTER } else { [0b010, 0] };
                changes += u32::from(!view.write(COMMAND, black_box(&value)).is_empty());
            }
        });
        ensure!(changes == ACCESSES, "{changes} accesses did something");
        Ok(())
    }))
}

/// From the access that leaves the guest to the route of the vector that is cut and made again.
fn mask_and_unmask() -> Result<Subject> {
    let bdf = Bdf::new(Segment(0), RoutingId(0x100));
    let description = Description::new(0x1af4, 0x10f0)
        .region(Region::bar(0, 64 << 10))
        .msix(8, 0, TABLE);
    let machine = Machine::builder()
        .device(bdf, GroupId(1), Plain::new(description))
        .build();
    let system = machine.system();
    let iommufd = Iommufd::open(&system)?;
    let path = machine.cdev_path(bdf).context("no such device")?;
    let device = CdevFile::open(&system, path)?.bind(&iommufd, None)?;
    let attached = AddressSpace::iommufd(&iommufd)?.attach(&device)?;
    let (guest, bus) = (Guest::default(), Arc::new(Bus::default()));
    let wiring = Wiring {
        irqs: Arc::new(guest.clone()),
        slots: Arc::new(guest.clone()),
        memory: Arc::clone(&bus),
        peers: None,
    };
    let function = Assigned::new(&device, &wiring, &Options::default())?;
    function.bus_event(windows());
    function.config_write(BAR0, &u32::try_from(HERE)?.to_le_bytes());
    function.config_write(COMMAND, &MEMORY_AND_MASTER);
    function.config_write(MSIX + 2, &(1_u16 << 15).to_le_bytes());
    let entry = HERE + u64::from(TABLE);
    bus.write(entry, &0xFEE0_1000_u64.to_le_bytes());
    bus.write(entry + 8, &50_u32.to_le_bytes());
    bus.write(entry + 12, &[0; 4]);
    ensure!(guest.routes() == 1, "{} vectors are routed", guest.routes());
    let cycle = move || {
        metered(|| {
            for _ in 0..ACCESSES {
                for mask in [1_u32, 0] {
                    bus.write(entry + 12, &mask.to_le_bytes());
                }
            }
        });
        Ok(())
    };
    let ground = (function, attached, guest);
    Ok(Subject::new(cycle).with_calls_of(machine).on(ground))
}
