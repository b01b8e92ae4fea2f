//! Functions of the fake machine are given to a guest that does not run, on iommufd and on type1.

mod bars;
mod failures;
mod hostile;
mod interrupts;
mod life;

use super::{Assigned, Notice, Options, Wiring};
use crate::bus::Bus;
use crate::fake::Guest;
use crate::interrupt::MsiMessage;
use crate::pci::{BusEvent, Function, Windows};
use crate::{Error, Result};
use ::pci::{Bdf, GroupId};
use iommu::group::GroupSpace;
use iommu::space::{AddressSpace, Attached};
use std::sync::Arc;
use vfio_core::fake::{Copier, Description, Device, Machine, Plain, Region};
use vfio_core::iommufd::Iommufd;
use vfio_core::{BoundDevice, CdevFile, ContainerPath};

const COMMAND: u16 = 0x04;
const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;
const NO_INTX: u16 = 1 << 10;
const BAR0: u16 = 0x10;
/// Where the fake machine's functions have their capabilities.
const POWER: u16 = 0x40;
const MSI: u16 = 0x48;
const MSIX: u16 = 0x60;
const EXPRESS: u16 = 0x70;

/// Where BAR 0 is put first.
const HERE: u64 = 0xC000_0000;
const GSI: u32 = 17;

/// The registers of a test function: what is written there happens.
const RAISE_MSIX: u64 = 0x10;
const RAISE_MSI: u64 = 0x14;
const RAISE_INTX: u64 = 0x18;
/// One that only holds a value.
const HELD: u64 = 0x20;

/// Which interface of the kernel.
#[derive(Debug, Clone, Copy)]
enum Way {
    Iommufd,
    Type1,
}

const WAYS: [Way; 2] = [Way::Iommufd, Way::Type1];

fn bdf(number: u8) -> Bdf {
    format!("0000:{number:02x}:00.0").parse().unwrap()
}

/// A function with 64 KiB of BAR 0, in which MSI-X has its table from 0x8000 on.
fn description() -> Description {
    let bar = Region::bar(0, 64 << 10);
    Description::new(0x1af4, 0x10f0)
        .region(bar)
        .msix(8, 0, 0x8000)
        .msi(4)
        .intx()
}

fn raiser(description: Description) -> Plain {
    Plain::new(description).on_write(|_, write, bus| {
        let vector = u32::try_from(write.value).unwrap();
        match write.offset {
            RAISE_MSIX => bus.msix(vector),
            RAISE_MSI => bus.msi(vector),
            RAISE_INTX => bus.intx(vector != 0),
            _ => {}
        }
    })
}

fn machine_of(device: impl Device + 'static) -> Machine {
    let builder = Machine::builder().device(bdf(1), GroupId(1), device);
    builder.device(bdf(2), GroupId(2), Copier::new()).build()
}

fn windows() -> BusEvent {
    BusEvent::Windows(Windows::new(0xC000_0000..0xD000_0000, 0x10_0000_0000..0x20_0000_0000))
}

/// A function that a guest has, and everything around it.
struct Bench {
    // Fields drop in this order, which is that of a machine's end.
    function: Arc<Assigned>,
    attached: Attached,
    groups: Option<GroupSpace>,
    space: AddressSpace,
    bus: Arc<Bus>,
    guest: Guest,
    machine: Machine,
}

impl Bench {
    fn new(way: Way, device: impl Device + 'static) -> Self {
        Self::on(&machine_of(device), Guest::default(), way).unwrap()
    }

    fn on(machine: &Machine, guest: Guest, way: Way) -> Result<Self> {
        let (groups, space, device) = open(machine, way)?;
        let attached = space.attach(&device)?;
        let bus = Arc::new(Bus::default());
        let wiring = wiring(&guest, &bus, None);
        let function = Arc::new(Assigned::new(&device, &wiring, &options())?);
        function.bus_event(windows());
        Ok(Self {
            function,
            attached,
            groups,
            space,
            bus,
            guest,
            machine: machine.clone(),
        })
    }

    /// With BAR 0 [`HERE`], and all that a driver switches on.
    fn running(way: Way, device: impl Device + 'static) -> Self {
        let bench = Self::new(way, device);
        bench.start();
        bench
    }

    fn start(&self) {
        self.write(BAR0, 4, HERE);
        self.write(COMMAND, 2, (MEMORY | MASTER).into());
    }

    fn write(&self, offset: u16, width: usize, value: u64) {
        self.function.config_write(offset, &value.to_le_bytes()[..width]);
    }

    fn read(&self, offset: u16, width: usize) -> u64 {
        let mut bytes = [0; 8];
        self.function.config_read(offset, &mut bytes[..width]);
        u64::from_le_bytes(bytes)
    }

    /// Of what leaves the guest.
    fn store(&self, address: u64, value: u32) {
        self.bus.write(address, &value.to_le_bytes());
    }

    fn load(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.bus.read(address, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes an entry of the MSI-X table.
    fn set_vector(&self, number: u64, message: MsiMessage, is_masked: bool) {
        let entry = HERE + 0x8000 + 16 * number;
        self.bus.write(entry, &message.address.to_le_bytes());
        self.store(entry + 8, message.data);
        self.store(entry + 12, is_masked.into());
    }

    fn enable_msix(&self) {
        self.write(MSIX + 2, 2, 1 << 15);
    }

    /// What the guest has, as long as it has the function: slots, routes, lines.
    fn guest_has(&self) -> (usize, usize, usize) {
        (self.guest.slots().len(), self.guest.routes(), self.guest.lines())
    }

    fn count(&self, call: &str) -> usize {
        self.machine.calls().iter().filter(|name| name.as_str() == call).count()
    }
}

fn open(machine: &Machine, way: Way) -> Result<(Option<GroupSpace>, AddressSpace, BoundDevice)> {
    match way {
        Way::Iommufd => {
            let iommufd = Iommufd::open(&machine.system())?;
            let path = machine.cdev_path(bdf(1)).unwrap();
            let device = CdevFile::open(&machine.system(), path)?.bind(&iommufd, None)?;
            Ok((None, AddressSpace::iommufd(&iommufd)?, device))
        }
        Way::Type1 => {
            let ids = [GroupId(1), GroupId(2)];
            let groups = GroupSpace::open(&machine.system(), ContainerPath::Vfio, &ids).map_err(Error::from)?;
            let device = groups.device(bdf(1), None)?;
            Ok((Some(groups.clone()), groups.space().clone(), device))
        }
    }
}

fn wiring(guest: &Guest, bus: &Arc<Bus>, peers: Option<AddressSpace>) -> Wiring {
    Wiring {
        irqs: Arc::new(guest.clone()),
        slots: Arc::new(guest.clone()),
        memory: Arc::clone(bus),
        peers,
    }
}

fn options() -> Options {
    Options {
        gsi: Some(GSI),
        ..Options::default()
    }
}

fn message(data: u32) -> MsiMessage {
    MsiMessage {
        address: 0xFEE0_1000,
        data,
    }
}
