//! Functions of the fake machine come and go, in a guest whose processors are these tests.

use super::{Backend, DmaOptions, File, Functions, Opened, Options, Parts};
use crate::assigned::{self, Notice};
use crate::bus::Bus;
use crate::dma::Pin;
use crate::fake::Guest;
use crate::machine::{Events, Plugged};
use crate::memory::{GuestMemory, Node};
use crate::pci::Windows;
use crate::{ErrorKind, Result};
use ::pci::{Bdf, GroupId, RoutingId};
use std::{num::NonZeroUsize, sync::Arc, time::Duration};
use vfio_core::fake::{Copier, Description, Machine, Plain, Region};
use vfio_core::iommufd::Iommufd;
use vfio_core::{CdevFile, Container, ContainerPath, Errno, Group, KvmVfio, PageSize};

mod removal;
mod reset;

const RAM: u64 = 2 << 20;
/// Of a port: Slot Control, whose power controller is off with this bit.
const SLOT_CONTROL: u16 = 0x58;
const POWER_OFF: u16 = 1 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Iommufd,
    Type1,
}

fn bdf(number: u8) -> Bdf {
    format!("0000:{number:02x}:00.0").parse().unwrap()
}

/// Copiers 1 and 2, and a register file 3.
fn machine() -> Machine {
    let plain = Plain::new(
        Description::new(1, 2)
            .region(Region::bar(0, 8192))
            .msix(2, 0, 4096)
            .intx(),
    );
    let builder = Machine::builder().device(bdf(1), GroupId(1), Copier::new());
    let builder = builder.device(bdf(2), GroupId(2), Copier::new());
    builder.device(bdf(3), GroupId(3), plain).build()
}

fn opened(machine: &Machine, way: Way, number: u8) -> Result<Opened> {
    let system = machine.system();
    let file = match way {
        Way::Iommufd => File::Device(CdevFile::open(&system, machine.cdev_path(bdf(number)).unwrap())?),
        Way::Type1 => File::Group(Group::open(&system, GroupId(number.into()))?),
    };
    let bdf = bdf(number);
    Ok(Opened { bdf, file, token: None })
}

struct Bench {
    functions: Functions,
    bus: Arc<Bus>,
    guest: Guest,
}

impl Bench {
    fn new(machine: &Machine, way: Way, slots: &[&[u8]]) -> Result<Self> {
        Self::with(machine, way, slots, Pin::All)
    }

    fn with(machine: &Machine, way: Way, slots: &[&[u8]], pin: Pin) -> Result<Self> {
        Self::of(machine, way, slots, pin, None)
    }

    fn of(machine: &Machine, way: Way, slots: &[&[u8]], pin: Pin, kvm: Option<KvmVfio>) -> Result<Self> {
        let (guest, bus) = (Guest::default(), Arc::new(Bus::default()));
        let node = Node {
            len_bytes: RAM,
            vcpus: 1,
            host: None,
        };
        let parts = Parts {
            irqs: Arc::new(guest.clone()),
            slots: Arc::new(guest.clone()),
            bus: Arc::clone(&bus),
            memory: GuestMemory::new(&[node], PageSize::Base)?,
            windows: Windows::new(0xC000_0000..0xE000_0000, 0x10_0000_0000..0x20_0000_0000),
            kvm,
        };
        let backend = match way {
            Way::Iommufd => Backend::Iommufd(Iommufd::open(&machine.system())?),
            Way::Type1 => Backend::Type1(Container::open(&machine.system(), ContainerPath::Vfio)?),
        };
        let options = Options {
            dma: DmaOptions {
                pin,
                threads: NonZeroUsize::MIN,
            },
            free_slots: 2,
            shown: assigned::Options::default(),
            are_peers: true,
        };
        let open = |slot: &&[u8]| {
            slot.iter()
                .map(|number| opened(machine, way, *number))
                .collect::<Result<Vec<_>>>()
        };
        let slots = slots.iter().map(open).collect::<Result<Vec<_>>>()?;
        let functions = Functions::new(parts, options, backend, slots, &mut |_, _| ())?;
        Ok(Self { functions, bus, guest })
    }

    fn config(&self, bus: u8, function: u8, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        let id = RoutingId(u16::from(bus) << 8 | u16::from(function));
        self.functions.root().read(id, offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn set_config(&self, bus: u8, function: u8, offset: u16, from: &[u8]) {
        let id = RoutingId(u16::from(bus) << 8 | u16::from(function));
        self.functions.root().write(id, offset, from);
    }

    /// Of the port of a slot, which counts from 1.
    fn set_power(&self, slot: u8, is_on: bool) {
        let control = if is_on { 0 } else { POWER_OFF };
        self.set_config(0, slot << 3, SLOT_CONTROL, &control.to_le_bytes());
    }

    /// Switches on what a driver does, and lets the copier of a slot copy; whether it did.
    fn copies(&self, slot: u8) -> bool {
        self.set_config(0, slot << 3, 4, &[6, 0]);
        self.set_config(slot, 0, 4, &[6, 0]);
        let base = u64::from(self.config(slot, 0, 0x10) & !0xF);
        let registers = |offset: u64, value: u64| self.bus.write(base + offset, &value.to_le_bytes());
        registers(0x08, 0x1000);
        registers(0x10, 0x2000);
        registers(0x18, 4);
        self.bus.write(base + 0x28, &1_u32.to_le_bytes());
        let mut status = [0; 4];
        self.bus.read(base + 0x2C, &mut status);
        u32::from_le_bytes(status) == 1
    }
}

const BOTH: [Way; 2] = [Way::Iommufd, Way::Type1];

#[test]
fn functions_are_there_when_the_guest_starts_and_reach_its_memory() {
    for way in BOTH {
        let machine = machine();
        let bench = Bench::new(&machine, way, &[&[1], &[2, 3]]).unwrap();
        let guest: Vec<String> = bench
            .functions
            .list()
            .iter()
            .map(|listed| listed.guest.to_string())
            .collect();
        assert_eq!(guest, ["0000:01:00.0", "0000:02:00.0", "0000:02:00.1"], "{way:?}");
        assert!(bench.copies(1) && bench.copies(2));
        assert_eq!(bench.config(2, 1, 0), 0x0002_0001);
        assert_eq!(bench.config(2, 0, 0x0C) >> 16 & 0x80, 0x80, "several functions");
        assert_eq!(bench.config(1, 0, 0x0C) >> 16 & 0x80, 0);
        assert_eq!(bench.config(1, 0, 0x10) & 0xF000_0000, 0xC000_0000, "placed");
        assert!(bench.functions.refuses_balloon().is_some());
        let guest = bench.guest.clone();
        assert!(!guest.slots().is_empty());
        bench.functions.reset().unwrap();
        assert!(guest.slots().is_empty() && bench.copies(1), "placed anew");
        bench.functions.stop().unwrap();
        assert!(guest.slots().is_empty() && bench.functions.list().is_empty());
        drop(bench);
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}

#[test]
fn a_slot_before_one_that_is_filled_is_free_for_what_comes_later() {
    for way in BOTH {
        let machine = machine();
        let bench = Bench::new(&machine, way, &[&[], &[2]]).unwrap();
        assert_eq!(bench.functions.root().ports().len(), 4);
        assert_eq!(bench.functions.list()[0].guest.to_string(), "0000:02:00.0");
        assert!(bench.copies(2));
        let listed = bench.functions.add(vec![opened(&machine, way, 1).unwrap()]).unwrap();
        assert_eq!(listed[0].guest.to_string(), "0000:01:00.0");
    }
}

#[test]
fn a_function_comes_and_goes_many_times() {
    for way in BOTH {
        let machine = machine();
        let bench = Bench::new(&machine, way, &[]).unwrap();
        let before = machine.leaks().len();
        for _ in 0..5 {
            let listed = bench.functions.add(vec![opened(&machine, way, 1).unwrap()]).unwrap();
            assert_eq!(
                (listed[0].host, listed[0].guest.to_string().as_str()),
                (bdf(1), "0000:01:00.0")
            );
            assert_eq!(bench.config(1, 0, 0), u32::MAX, "no power yet");
            bench.set_power(1, true);
            bench.set_config(1, 0, 0x10, &0xC000_0000_u32.to_le_bytes());
            assert!(bench.copies(1), "{way:?}");
            let removal = bench.functions.begin_removal(bdf(1)).unwrap();
            assert_eq!(removal.emptied().try_read().unwrap(), None, "the guest still has it");
            assert!(bench.copies(1));
            bench.set_power(1, false);
            assert_eq!(removal.emptied().try_read().unwrap(), Some(1));
            assert_eq!(bench.config(1, 0, 0), u32::MAX);
            bench.functions.finish_removal(&removal).unwrap();
            assert!(bench.functions.list().is_empty());
            // On iommufd the space and the guest's memory in it stay.
            let left = machine.leaks();
            assert!(
                left.iter()
                    .all(|leak| !leak.contains("vfio1") && !leak.contains("is bound")),
                "{left:?}"
            );
            assert!(way == Way::Iommufd || left.len() == before, "{left:?}");
        }
        drop(bench);
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}

#[test]
fn a_guest_that_keeps_a_function_keeps_it() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Iommufd, &[&[1]]).unwrap();
    let error = bench.functions.remove(bdf(1), Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::TimedOut), "{error}");
    assert!(bench.copies(1));
    bench.set_power(1, false);
    bench.set_power(1, true);
    assert_eq!(bench.functions.list().len(), 1, "nobody asks for it any more");
    assert!(
        bench.functions.remove(bdf(2), Duration::ZERO).is_err(),
        "it does not have that one"
    );
}

#[test]
fn a_function_that_the_guest_has_is_not_added_again() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Type1, &[&[1]]).unwrap();
    let again = Opened {
        bdf: bdf(1),
        file: File::SameGroup,
        token: None,
    };
    let error = bench.functions.add(vec![again]).unwrap_err();
    assert!(error.to_string().contains("has it already"), "{error}");
    assert!(bench.copies(1));
}

#[test]
fn only_what_the_guest_has_let_go_of_is_taken_and_only_once() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Iommufd, &[&[1]]).unwrap();
    let removal = bench.functions.begin_removal(bdf(1)).unwrap();
    let error = bench.functions.finish_removal(&removal).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Invalid(_)), "{error}");
    assert!(bench.copies(1));
    bench.set_power(1, false);
    // The slot is empty and nobody has finished yet.
    bench.functions.remove(bdf(1), Duration::ZERO).unwrap();
    bench.functions.finish_removal(&removal).unwrap();
    let again = opened(&machine, Way::Iommufd, 1).unwrap();
    bench.functions.add(vec![again]).unwrap();
    bench.functions.finish_removal(&removal).unwrap();
    assert_eq!(bench.functions.list().len(), 1, "that is another one");
}

#[test]
fn what_the_kernel_tells_of_a_function_is_told_of_that_one() {
    let machine = machine();
    let bench = Bench::new(&machine, Way::Iommufd, &[&[1], &[2]]).unwrap();
    assert!(!bench.functions.notice_events(bdf(1)).unwrap().is_empty());
    machine.request_release(bdf(2));
    assert_eq!(bench.functions.take_notices().unwrap(), [(bdf(2), Notice::Wanted)]);
    machine.report_error(bdf(1));
    assert_eq!(bench.functions.take_notices().unwrap(), [(bdf(1), Notice::Failed)]);
    assert_eq!(bench.config(1, 0, 0), u32::MAX);
    assert!(bench.copies(2));
}

#[test]
fn a_function_that_the_kernel_wants_back_leaves_the_guest() {
    let machine = machine();
    let Bench { functions, bus, guest } = Bench::new(&machine, Way::Iommufd, &[&[1], &[2]]).unwrap();
    let functions = Arc::new(functions);
    let events = Arc::new(Events::new().unwrap());
    functions.listen(Arc::clone(&events)).unwrap();
    let dispatch = || events.dispatch(Some(Duration::ZERO)).unwrap();
    dispatch();
    machine.request_release(bdf(2));
    dispatch();
    let control = RoutingId(2 << 3);
    let mut status = [0; 2];
    functions.root().read(control, SLOT_CONTROL + 2, &mut status);
    assert_eq!(status[0] & 1, 1, "the button was pressed");
    assert_eq!(functions.list().len(), 2);
    functions.root().write(control, SLOT_CONTROL, &POWER_OFF.to_le_bytes());
    assert_eq!(functions.list().len(), 2, "not on the processor's thread");
    dispatch();
    assert_eq!(functions.list().len(), 1);
    assert!(
        machine.leaks().iter().all(|leak| !leak.contains("vfio1")),
        "{:?}",
        machine.leaks()
    );
    let added = functions.add(vec![opened(&machine, Way::Iommufd, 2).unwrap()]).unwrap();
    machine.report_error(bdf(2));
    dispatch();
    let mut id = [0; 4];
    functions.root().write(control, SLOT_CONTROL, &[0, 0]);
    functions.root().read(RoutingId(2 << 8), 0, &mut id);
    assert_eq!((added.len(), id), (1, [0xFF; 4]), "it has failed, and was taken away");
    assert_eq!(functions.list().len(), 1, "and is closed");
    functions.reset().unwrap();
    drop((functions, events, bus, guest));
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn memory_is_mapped_on_demand_where_a_device_asks_for_it_and_else_the_refusal_says_what_is_missing() {
    let machine = machine();
    let error = Bench::with(&machine, Way::Iommufd, &[&[1]], Pin::WorkingSet)
        .err()
        .unwrap();
    assert!(error.to_string().contains("PRI"), "{error}");
    let error = Bench::with(&machine, Way::Type1, &[&[1]], Pin::None).err().unwrap();
    assert!(error.to_string().contains("iommufd"), "{error}");
    assert_eq!(machine.leaks(), Vec::<String>::new());
    let description = Description::new(1, 2).region(Region::bar(0, 4096)).page_requests();
    let builder = Machine::builder().device(bdf(1), GroupId(1), Plain::new(description));
    let machine = builder.build();
    match Bench::with(&machine, Way::Iommufd, &[&[1]], Pin::None) {
        Ok(bench) => {
            assert!(machine.pinned() < RAM && bench.functions.refuses_balloon().is_none());
            bench.functions.stop().unwrap();
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn kvm_is_told_of_a_function_before_it_is_opened() {
    for way in BOTH {
        let machine = machine();
        // No function of a fake machine is a file that KVM could be told of.
        let kvm = KvmVfio::from_fd(tempfile::tempfile().unwrap().into());
        let error = Bench::of(&machine, way, &[&[1]], Pin::All, Some(kvm)).err().unwrap();
        assert!(error.to_string().contains("KVM_DEV_VFIO_FILE_ADD"), "{error}");
        for call in ["VFIO_DEVICE_BIND_IOMMUFD", "VFIO_GROUP_GET_DEVICE_FD"] {
            assert!(machine.calls().iter().all(|made| made.as_str() != call), "{way:?}");
        }
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}

#[test]
fn each_call_that_fails_leaves_nothing_behind() {
    for way in BOTH {
        let mut ended = false;
        for nth in 0..900 {
            let machine = machine();
            machine.fail_nth(nth, Errno::NOMEM);
            let lived = live(&machine, way);
            let failed = machine.failed();
            assert_eq!(
                machine.leaks(),
                Vec::<String>::new(),
                "{way:?}, call {nth}, {failed:?}, {lived:?}"
            );
            if failed.is_none() {
                lived.unwrap();
                ended = true;
                break;
            }
        }
        assert!(ended);
    }
}

fn live(machine: &Machine, way: Way) -> Result<()> {
    let bench = Bench::new(machine, way, &[&[1]])?;
    bench.copies(1);
    bench
        .functions
        .add(vec![opened(machine, way, 2)?, opened(machine, way, 3)?])?;
    bench.set_power(2, true);
    let removal = bench.functions.begin_removal(bdf(1))?;
    bench.set_power(1, false);
    bench.functions.finish_removal(&removal)?;
    bench.functions.add(vec![opened(machine, way, 1)?])?;
    bench.functions.stop()
}
