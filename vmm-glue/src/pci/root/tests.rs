//! Accesses of any kind find their functions.

use super::*;
use crate::interrupt::{Irqs, Line, MsiMessage, Route};
use crate::pci::{BusEvent, PortOptions, Windows};
use std::sync::Mutex;

#[derive(Debug)]
struct Deaf;

impl Irqs for Deaf {
    fn route(&self) -> Result<Box<dyn Route>> {
        Err(Error::new("route", ErrorKind::Unsupported("routes")))
    }

    fn set(&self, _: &[(&dyn Route, MsiMessage)]) -> Result<()> {
        Err(Error::new("route", ErrorKind::Unsupported("routes")))
    }

    fn line(&self, _: u32) -> Result<Box<dyn Line>> {
        Err(Error::new("line", ErrorKind::Unsupported("lines")))
    }

    fn signal(&self, _: MsiMessage) -> Result<()> {
        Ok(())
    }
}

/// Reads as its offsets, and notes what is written.
#[derive(Debug, Default)]
struct Ruler(Mutex<Vec<(u16, Vec<u8>)>>);

impl Function for Ruler {
    fn config_read(&self, offset: u16, to: &mut [u8]) {
        assert!(matches!(to.len(), 1 | 2 | 4) && usize::from(offset % 4) + to.len() <= 4);
        for (at, byte) in (offset..).zip(to) {
            *byte = at.to_le_bytes()[0];
        }
    }

    fn config_write(&self, offset: u16, from: &[u8]) {
        assert!(matches!(from.len(), 1 | 2 | 4) && usize::from(offset % 4) + from.len() <= 4);
        self.0.lock().unwrap().push((offset, from.to_vec()));
    }

    fn bus_event(&self, _: BusEvent) {}
}

fn port(device: u8, bus: u8) -> Arc<Port> {
    let options = PortOptions {
        device,
        slot: device.into(),
        buses: [bus; 2],
        windows: Windows::NONE,
        limits: Windows::NONE,
    };
    Port::new(options, Arc::new(Deaf))
}

fn root() -> (Arc<Root>, Arc<Ruler>) {
    let (ports, ruler) = (vec![port(31, 9), port(1, 7)], Arc::new(Ruler::default()));
    ports[1]
        .install(vec![(0, Arc::clone(&ruler) as _), (5, Arc::new(Ruler::default()))])
        .unwrap();
    (Root::new(ports).unwrap(), ruler)
}

fn ecam(bus: u64, device: u64, function: u64, register: u64) -> u64 {
    bus << 20 | device << 15 | function << 12 | register
}

fn read<const N: usize>(device: &dyn Device, offset: u64) -> [u8; N] {
    let mut bytes = [0x55; N];
    device.read(offset, &mut bytes);
    bytes
}

#[test]
fn each_function_is_at_its_place_and_elsewhere_is_none() {
    let ecam_of = Ecam::new(root().0);
    let at = |bus, device, function| u32::from_le_bytes(read(&ecam_of, ecam(bus, device, function, 0)));
    assert_eq!(at(0, 0, 0), VENDOR_BRIDGE);
    assert_eq!([at(0, 1, 0), at(0, 31, 0)], [0x000C_1B36; 2]);
    assert_eq!([at(7, 0, 0), at(7, 0, 5)], [0x0302_0100; 2]);
    for (bus, device, function) in [
        (0, 2, 0),
        (0, 1, 1),
        (0, 0, 1),
        (7, 1, 0),
        (7, 0, 1),
        (9, 0, 0),
        (8, 0, 0),
    ] {
        assert_eq!(at(bus, device, function), u32::MAX, "{bus}:{device}.{function}");
    }
    assert_eq!(read(&ecam_of, Ecam::LEN_BYTES), [0xFF; 4]);
    assert_eq!(read(&ecam_of, u64::MAX), [0xFF; 1]);
}

const VENDOR_BRIDGE: u32 = 0x0008_1B36;

#[test]
fn accesses_of_any_width_and_place_come_in_parts_that_functions_know() {
    let (root, ruler) = root();
    let ecam_of = Ecam::new(root);
    for (offset, len) in (0..20).flat_map(|offset| (0..64).map(move |len| (offset, len))) {
        let mut bytes = vec![0; len];
        ecam_of.read(ecam(7, 0, 0, offset), &mut bytes);
        let expected: Vec<u8> = (offset..).take(len).map(|at| at.to_le_bytes()[0]).collect();
        assert_eq!(bytes, expected);
        ecam_of.write(ecam(7, 0, 0, offset), &bytes);
        let written: Vec<u8> = ruler.0.lock().unwrap().drain(..).flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(written, bytes);
    }
    // What does not end within a function ends there.
    assert_eq!(read(&ecam_of, ecam(7, 0, 0, 4094)), [0xFE, 0xFF, 0xFF, 0xFF]);
    ecam_of.write(ecam(7, 0, 0, 4095), &[1, 2, 3, 4]);
    assert_eq!(*ruler.0.lock().unwrap(), [(4095, vec![1])]);
}

#[test]
fn the_old_mechanism_reaches_256_bytes() {
    let (root, ruler) = root();
    let ports = Mechanism1::new(root);
    let select = |function: u32, register: u32| {
        let address = 1 << 31 | function << 8 | register;
        ports.write(0, &address.to_le_bytes());
        assert_eq!(read(&ports, 0), address.to_le_bytes());
    };
    select(0, 0);
    assert_eq!(read(&ports, 4), VENDOR_BRIDGE.to_le_bytes());
    assert_eq!(read(&ports, 6), [0x08, 0x00]);
    select(7 << 8, 0xFF);
    assert_eq!(
        read(&ports, 4),
        [0xFC, 0xFD, 0xFE, 0xFF],
        "the lowest bits are the port's"
    );
    ports.write(5, &[1, 2]);
    assert_eq!(*ruler.0.lock().unwrap(), [(0xFD, vec![1]), (0xFE, vec![2])]);
    ports.write(4, &[9; 8]);
    assert_eq!(ruler.0.lock().unwrap().len(), 2, "data have four bytes");
    // Neither is the address, nor data.
    ports.write(0, &[0; 2]);
    ports.write(1, &[6]);
    assert_eq!(read(&ports, 1), [0xFF; 1]);
    assert_eq!(read(&ports, 2), [0xFF; 4]);
    assert_eq!(read(&ports, 0), (1_u32 << 31 | 7 << 16 | 0xFF).to_le_bytes());
    ports.write(0, &[0; 4]);
    assert_eq!(read(&ports, 4), [0xFF; 4], "it is off");
}

#[test]
fn a_port_without_a_bus_is_in_nobodys_way() {
    let (ports, ruler) = (vec![port(1, 5), port(2, 7)], Arc::new(Ruler::default()));
    ports[1].install(vec![(0, ruler)]).unwrap();
    let root = Root::new(ports).unwrap();
    let answers = |bus| {
        let mut bytes = [0; 2];
        root.read(RoutingId::new(bus, 0), 0, &mut bytes);
        bytes == [0, 1]
    };
    assert!(answers(7));
    root.write(RoutingId::new(0, 8), 0x18, &[0, 0, 0xFF]);
    assert!(answers(7));
    // One that has it is.
    root.write(RoutingId::new(0, 8), 0x18, &[0, 6, 8]);
    assert!(!answers(7));
}

#[test]
fn ports_have_device_numbers_of_their_own() {
    let says = |ports| Root::new(ports).unwrap_err().to_string();
    assert!(says(vec![port(1, 1), port(1, 2)]).ends_with("two ports have the same device number"));
    for device in [0, 32, 255] {
        assert!(says(vec![port(device, 1)]).ends_with("is not in 1 to 31"));
    }
    let root = Root::new((1..32).rev().map(|device| port(device, device)).collect()).unwrap();
    assert!(root.ports().iter().map(|port| port.device()).eq(1..32));
    assert!(Root::new(vec![]).unwrap().ports().is_empty());
}
