//! A guest resets the bus of a slot.

use super::*;

/// Of a port: Bridge Control, with the reset of what is behind it.
const BRIDGE_CONTROL: u16 = 0x3E;
const BUS_RESET: u8 = 1 << 6;

fn on_one_bus(number: u8) -> Bdf {
    format!("0000:07:00.{number}").parse().unwrap()
}

/// Functions 0 and 1 of one bus, each in a group of its own; none has a reset of its own if there is none.
fn machine_of_one_bus(has_reset: bool) -> Machine {
    let plain = || {
        let description = Description::new(1, 2).region(Region::bar(0, 4096));
        let description = if has_reset {
            description
        } else {
            description.without_reset()
        };
        Plain::new(description)
    };
    let builder = Machine::builder().device(on_one_bus(0), GroupId(7), plain());
    builder.device(on_one_bus(1), GroupId(8), plain()).build()
}

fn opened(machine: &Machine, way: Way, number: u8) -> Opened {
    let (system, bdf) = (machine.system(), on_one_bus(number));
    let file = match way {
        Way::Iommufd => File::Device(CdevFile::open(&system, machine.cdev_path(bdf).unwrap()).unwrap()),
        Way::Type1 => File::Group(Group::open(&system, GroupId(u32::from(number) + 7)).unwrap()),
    };
    Opened { bdf, file, token: None }
}

fn count(machine: &Machine, call: &str) -> usize {
    machine.calls().iter().filter(|name| name.as_str() == call).count()
}

/// Hot resets, and resets of one function.
fn resets(machine: &Machine) -> (usize, usize) {
    let counts = ["VFIO_DEVICE_PCI_HOT_RESET", "VFIO_DEVICE_RESET"].map(|call| count(machine, call));
    machine.forget_calls();
    counts.into()
}

impl Bench {
    fn reset_bus(&self, slot: u8, machine: &Machine) {
        self.reset_bus_while(slot, machine, || ());
    }

    /// Switches a slot on, holds its bus in reset, and lets it go.
    fn reset_bus_while(&self, slot: u8, machine: &Machine, meanwhile: impl FnOnce()) {
        self.set_power(slot, true);
        self.set_config(0, slot << 3, 4, &[6, 0]);
        self.set_config(slot, 0, 4, &[6, 0]);
        machine.forget_calls();
        self.set_config(0, slot << 3, BRIDGE_CONTROL, &[BUS_RESET, 0]);
        assert_eq!(self.config(slot, 0, 0), u32::MAX, "nobody answers while it is reset");
        assert_eq!(resets(machine), (0, 0));
        meanwhile();
        self.set_config(0, slot << 3, BRIDGE_CONTROL, &[0, 0]);
        assert_eq!((self.config(slot, 0, 0), self.config(slot, 0, 4) & 6), (0x0002_0001, 0));
    }
}

#[test]
fn the_bus_is_reset_once_where_all_that_is_on_it_is_in_the_slot() {
    for (way, has_reset) in BOTH.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let machine = machine_of_one_bus(has_reset);
        let bench = Bench::new(&machine, way, &[]).unwrap();
        let both = [0, 1].map(|number| opened(&machine, way, number));
        bench.functions.add(both.into()).unwrap();
        for _ in 0..2 {
            bench.reset_bus(1, &machine);
            assert_eq!(resets(&machine), (1, 0), "{way:?}");
        }
        // Only that one goes over the bus.
        bench.set_power(1, false);
        bench.set_power(1, true);
        assert_eq!(resets(&machine).0, 0, "{way:?}");
        drop(bench);
        assert_eq!(machine.leaks(), Vec::<String>::new(), "{way:?}");
    }
}

#[test]
fn a_bus_that_others_are_on_is_not_reset_and_its_functions_are() {
    for way in BOTH {
        let machine = machine_of_one_bus(true);
        let bench = Bench::new(&machine, way, &[]).unwrap();
        bench.functions.add(vec![opened(&machine, way, 0)]).unwrap();
        bench.reset_bus(1, &machine);
        assert_eq!(resets(&machine), (0, 1), "{way:?}: the other one is the host's");
        bench.functions.add(vec![opened(&machine, way, 1)]).unwrap();
        bench.reset_bus(1, &machine);
        assert_eq!(resets(&machine), (0, 1), "{way:?}: the other one is in another slot");
    }
}

#[test]
fn a_function_that_nothing_resets_is_fresh_to_the_guest_all_the_same() {
    for way in BOTH {
        let machine = machine_of_one_bus(false);
        let bench = Bench::new(&machine, way, &[]).unwrap();
        bench.functions.add(vec![opened(&machine, way, 0)]).unwrap();
        bench.reset_bus(1, &machine);
        assert_eq!(resets(&machine), (0, 0), "{way:?}");
    }
}

#[test]
fn a_bus_that_the_kernel_does_not_reset_is_one_of_functions_that_are_reset() {
    for way in BOTH {
        let machine = machine_of_one_bus(true);
        let bench = Bench::new(&machine, way, &[]).unwrap();
        let both = [0, 1].map(|number| opened(&machine, way, number));
        bench.functions.add(both.into()).unwrap();
        bench.reset_bus_while(1, &machine, || {
            machine.fail_next("VFIO_DEVICE_PCI_HOT_RESET", Errno::AGAIN);
        });
        assert_eq!(
            resets(&machine).1,
            2,
            "{way:?}: each by itself, and not once more by the bus"
        );
        bench.reset_bus(1, &machine);
        assert_eq!(resets(&machine), (1, 0), "{way:?}: the next time it goes");
    }
}
