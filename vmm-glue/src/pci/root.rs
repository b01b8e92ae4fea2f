//! The root complex: which function a configuration access is for. Two ways lead to it, [`Ecam`] and [`Mechanism1`].

use super::host_bridge;
use super::registers::Registers;
use super::{Function, Port};
use crate::bus::Device;
use crate::{Error, ErrorKind, Result};
use pci::RoutingId;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The host bridge, and the ports on bus 0.
#[derive(Debug)]
pub struct Root {
    bridge: Registers,
    /// In the order of their device numbers.
    ports: Vec<Arc<Port>>,
}

impl Root {
    /// A root complex with these ports.
    ///
    /// # Errors
    ///
    /// Two ports with the same device number, or one that is not in 1 to 31.
    pub fn new(mut ports: Vec<Arc<Port>>) -> Result<Arc<Self>> {
        let failed = |why| Err(Error::new("build the root complex", ErrorKind::Invalid(why)));
        ports.sort_by_key(|port| port.device());
        if !ports.is_sorted_by(|a, b| a.device() < b.device()) {
            return failed("two ports have the same device number");
        }
        if ports.iter().any(|port| !(1..32).contains(&port.device())) {
            return failed("the device number of a port is not in 1 to 31");
        }
        let bridge = host_bridge::registers();
        Ok(Arc::new(Self { bridge, ports }))
    }

    /// The ports, in the order of their device numbers.
    #[must_use]
    pub fn ports(&self) -> &[Arc<Port>] {
        &self.ports
    }

    /// Reads from configuration space; all ones where no function is. Any offset and length below 4096.
    pub fn read(&self, function: RoutingId, offset: u16, to: &mut [u8]) {
        to.fill(0xFF);
        for (offset, part) in parts_mut(offset, to) {
            match self.find(function) {
                Target::Bridge => self.bridge.read(offset, part),
                Target::Port(port) => port.config_read(offset, part),
                Target::Below(function) => function.config_read(offset, part),
                Target::None => {}
            }
        }
    }

    /// Writes to configuration space; lost where no function is.
    pub fn write(&self, function: RoutingId, offset: u16, from: &[u8]) {
        for (offset, part) in parts(offset, from) {
            match self.find(function) {
                Target::Port(port) => port.config_write(offset, part),
                Target::Below(function) => function.config_write(offset, part),
                // The host bridge has nothing to be written.
                Target::Bridge | Target::None => {}
            }
        }
    }

    fn find(&self, function: RoutingId) -> Target<'_> {
        if function.bus() != 0 {
            // Where a guest has given a bus to two ports, the first one has it.
            let port = self.ports.iter().find(|port| port.leads_to(function.bus()));
            return match port.and_then(|port| port.function(function)) {
                Some(function) => Target::Below(function),
                None => Target::None,
            };
        }
        match function.devfn() {
            0 => Target::Bridge,
            devfn if devfn & 7 != 0 => Target::None,
            devfn => match self.ports.binary_search_by_key(&(devfn >> 3), |port| port.device()) {
                Ok(index) => self.ports.get(index).map_or(Target::None, |port| Target::Port(port)),
                Err(_) => Target::None,
            },
        }
    }
}

enum Target<'a> {
    Bridge,
    Port(&'a Port),
    Below(Arc<dyn Function>),
    None,
}

/// Lengths of the parts of an access, each of 1, 2 or 4 bytes, aligned, and below 4096.
fn part_len(offset: u16, left: usize) -> usize {
    match (offset % 4, left) {
        (_, 0) => 0,
        (0, 4..) => 4,
        (0 | 2, 2..) => 2,
        _ => 1,
    }
}

fn parts(mut offset: u16, mut from: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = part_len(offset, from.len());
        let (part, rest) = from.split_at_checked(len)?;
        from = rest;
        next(&mut offset, len).map(|at| (at, part))
    })
}

fn parts_mut(mut offset: u16, mut to: &mut [u8]) -> impl Iterator<Item = (u16, &mut [u8])> {
    std::iter::from_fn(move || {
        let len = part_len(offset, to.len());
        let (part, rest) = std::mem::take(&mut to).split_at_mut_checked(len)?;
        to = rest;
        next(&mut offset, len).map(|at| (at, part))
    })
}

/// Moves on; nothing when that was all, or the space has ended.
fn next(offset: &mut u16, len: usize) -> Option<u16> {
    let at = *offset;
    *offset = at.saturating_add(u16::try_from(len).ok()?);
    (len > 0 && at < 4096).then_some(at)
}

/// The enhanced configuration access mechanism: 256 buses in 256 MiB of memory (PCIe 6.0 §7.2.2).
pub struct Ecam(Arc<Root>);

impl Ecam {
    /// Its length in bytes, which is also what its beginning is aligned to.
    pub const LEN_BYTES: u64 = 256 << 20;

    /// Over these functions.
    #[must_use]
    pub const fn new(root: Arc<Root>) -> Self {
        Self(root)
    }

    /// The function and offset of a byte, and how many of `len` bytes are that function's.
    fn place(offset: u64, len: usize) -> Option<(RoutingId, u16, usize)> {
        let function = u16::try_from(offset >> 12).ok()?;
        let register = u16::try_from(offset & 0xFFF).ok()?;
        Some((RoutingId(function), register, len.min(usize::from(4096 - register))))
    }
}

impl fmt::Debug for Ecam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ecam")
    }
}

impl Device for Ecam {
    fn read(&self, offset: u64, to: &mut [u8]) {
        let Some((function, register, len)) = Self::place(offset, to.len()) else {
            return to.fill(0xFF);
        };
        let (first, rest) = to.split_at_mut(len);
        self.0.read(function, register, first);
        rest.fill(0xFF);
    }

    fn write(&self, offset: u64, from: &[u8]) {
        if let Some((function, register, len)) = Self::place(offset, from.len()) {
            self.0.write(function, register, from.get(..len).unwrap_or_default());
        }
    }
}

/// Configuration access mechanism 1: ports 0xCF8 (address) to 0xCFF (data), for 256 bytes of each function (PCI Local Bus 3.0 §3.2.2.3.2).
///
/// Only 32-bit accesses at 0xCF8 are the address's. Others below 0xCFC are lost: a register there, such as that of reset at 0xCF9, has to be
/// answered for by whoever calls.
pub struct Mechanism1 {
    root: Arc<Root>,
    address: AtomicU32,
}

impl Mechanism1 {
    /// How many ports it has.
    pub const LEN_BYTES: u64 = 8;

    const ENABLE: u32 = 1 << 31;

    /// Over these functions.
    #[must_use]
    pub const fn new(root: Arc<Root>) -> Self {
        let address = AtomicU32::new(0);
        Self { root, address }
    }

    /// The function and register that data at a port is for. Data does not reach beyond 0xCFF, and so not beyond a register.
    fn place(&self, offset: u64) -> Option<(RoutingId, u16)> {
        let address = self.address.load(Ordering::Relaxed);
        let [register, devfn, bus, _] = address.to_le_bytes();
        let byte = u8::try_from(offset.checked_sub(4)?).ok().filter(|byte| *byte < 4)?;
        (address & Self::ENABLE != 0).then(|| (RoutingId::new(bus, devfn), u16::from(register & 0xFC | byte)))
    }
}

impl fmt::Debug for Mechanism1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mechanism1 {:#x}", self.address.load(Ordering::Relaxed))
    }
}

impl Device for Mechanism1 {
    fn read(&self, offset: u64, to: &mut [u8]) {
        if let (0, Ok(address)) = (offset, <&mut [u8; 4]>::try_from(&mut *to)) {
            *address = self.address.load(Ordering::Relaxed).to_le_bytes();
            return;
        }
        match self.place(offset) {
            Some((function, register)) if to.len() <= 4 => self.root.read(function, register, to),
            _ => to.fill(0xFF),
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        if let (0, Ok(address)) = (offset, from.try_into()) {
            self.address.store(u32::from_le_bytes(address), Ordering::Relaxed);
        } else if let Some((function, register)) = self.place(offset).filter(|_| from.len() <= 4) {
            self.root.write(function, register, from);
        }
    }
}

#[cfg(test)]
mod tests {
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
}
