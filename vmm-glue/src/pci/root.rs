//! The root complex: which function a configuration access is for. Two ways lead to it, [`Ecam`] and [`Mechanism1`].

#[cfg(test)]
mod tests;

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
