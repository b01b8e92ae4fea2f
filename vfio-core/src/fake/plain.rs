//! A register file with hooks.

use super::bus::{Bus, PageResponse};
use super::device::{Description, Device, Region};
use std::collections::BTreeMap;
use std::fmt;

/// What happens after a write of a register: region, offset, width in bytes and value. The registers already hold the value.
type WriteHook = Box<dyn FnMut(&mut Registers, Write, &Bus<'_>) + Send>;
/// What happens on [`Machine::poke`](super::Machine::poke).
type PokeHook = Box<dyn FnMut(&mut Registers, &Bus<'_>) + Send>;
/// What happens on a page response.
type ResponseHook = Box<dyn FnMut(&mut Registers, PageResponse, &Bus<'_>) + Send>;

/// A write of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// The region.
    pub region: u32,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many bytes: 1, 2, 4 or 8.
    pub width: u32,
    /// The value.
    pub value: u64,
}

/// Registers that hold what was written to them.
#[derive(Debug, Default, Clone)]
pub struct Registers {
    bytes: BTreeMap<(u32, u64), u8>,
}

/// A device whose registers hold what was written to them; hooks make it do more.
///
/// ```
/// use vfio_core::fake::{Description, Machine, Plain, Region};
/// let device = Plain::new(Description::new(0x1af4, 0x10ff).region(Region::bar(0, 4096)).msix(4, 0, 0x800))
///     .register(0, 0x00, 4, 0xcafe)
///     .on_write(|_, write, bus| {
///         if write.offset == 0x10 {
///             bus.msix(0);
///         }
///     });
/// let machine = Machine::builder().device("0000:01:00.0".parse()?, pci::GroupId(7), device).build();
/// # drop(machine);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Plain {
    description: Description,
    initial: Registers,
    registers: Registers,
    on_write: Option<WriteHook>,
    on_poke: Option<PokeHook>,
    on_response: Option<ResponseHook>,
}

impl Default for Plain {
    /// One BAR of 64 KiB, eight MSI-X vectors with their table at 0x8000, MSI, INTx.
    fn default() -> Self {
        let description = Description::new(0x1af4, 0x10f0).region(Region::bar(0, 64 << 10));
        Self::new(description.msix(8, 0, 0x8000).msi(4).intx())
    }
}

impl Plain {
    /// A device that is described so.
    #[must_use]
    pub fn new(description: Description) -> Self {
        let (initial, registers) = (Registers::default(), Registers::default());
        Self {
            description,
            initial,
            registers,
            on_write: None,
            on_poke: None,
            on_response: None,
        }
    }

    /// Gives a register its value after reset.
    #[must_use]
    pub fn register(mut self, region: u32, offset: u64, width: u32, value: u64) -> Self {
        self.initial.set(region, offset, width, value);
        self.registers = self.initial.clone();
        self
    }

    /// What happens after a register was written.
    #[must_use]
    pub fn on_write(mut self, hook: impl FnMut(&mut Registers, Write, &Bus<'_>) + Send + 'static) -> Self {
        self.on_write = Some(Box::new(hook));
        self
    }

    /// What happens on [`Machine::poke`](super::Machine::poke).
    #[must_use]
    pub fn on_poke(mut self, hook: impl FnMut(&mut Registers, &Bus<'_>) + Send + 'static) -> Self {
        self.on_poke = Some(Box::new(hook));
        self
    }

    /// What happens on a page response.
    #[must_use]
    pub fn on_page_response(
        mut self,
        hook: impl FnMut(&mut Registers, PageResponse, &Bus<'_>) + Send + 'static,
    ) -> Self {
        self.on_response = Some(Box::new(hook));
        self
    }
}

impl Registers {
    /// The value of a register of up to 8 bytes, little-endian; 0 where nothing was written.
    #[must_use]
    pub fn get(&self, region: u32, offset: u64, width: u32) -> u64 {
        let byte = |at: u64| {
            self.bytes
                .get(&(region, offset.wrapping_add(at)))
                .copied()
                .unwrap_or_default()
        };
        (0..u64::from(width.min(8)))
            .rev()
            .fold(0, |value, at| value << 8 | u64::from(byte(at)))
    }

    /// Sets a register of up to 8 bytes, little-endian.
    pub fn set(&mut self, region: u32, offset: u64, width: u32, value: u64) {
        for (at, byte) in (0..u64::from(width.min(8))).zip(value.to_le_bytes()) {
            self.bytes.insert((region, offset.wrapping_add(at)), byte);
        }
    }
}

impl Device for Plain {
    fn description(&self) -> Description {
        self.description.clone()
    }

    fn read(&mut self, region: u32, offset: u64, width: u32, _bus: &Bus<'_>) -> u64 {
        self.registers.get(region, offset, width)
    }

    fn write(&mut self, region: u32, offset: u64, width: u32, value: u64, bus: &Bus<'_>) {
        self.registers.set(region, offset, width, value);
        if let Some(hook) = &mut self.on_write {
            hook(
                &mut self.registers,
                Write {
                    region,
                    offset,
                    width,
                    value,
                },
                bus,
            );
        }
    }

    fn reset(&mut self) {
        self.registers = self.initial.clone();
    }

    fn poke(&mut self, bus: &Bus<'_>) {
        if let Some(hook) = &mut self.on_poke {
            hook(&mut self.registers, bus);
        }
    }

    fn page_response(&mut self, response: PageResponse, bus: &Bus<'_>) {
        if let Some(hook) = &mut self.on_response {
            hook(&mut self.registers, response, bus);
        }
    }

    fn save(&mut self) -> Vec<u8> {
        let registers = self.registers.bytes.iter();
        let record = |((region, offset), byte): (&(u32, u64), &u8)| {
            let mut bytes = region.to_le_bytes().to_vec();
            bytes.extend(offset.to_le_bytes());
            bytes.push(*byte);
            bytes
        };
        registers.flat_map(record).collect()
    }

    fn restore(&mut self, state: &[u8]) -> bool {
        let (records, rest) = state.as_chunks::<13>();
        let mut registers = Registers::default();
        for &[a, b, c, d, e, f, g, h, i, j, k, l, byte] in records {
            let region = u32::from_le_bytes([a, b, c, d]);
            let offset = u64::from_le_bytes([e, f, g, h, i, j, k, l]);
            registers.bytes.insert((region, offset), byte);
        }
        if rest.is_empty() {
            self.registers = registers;
        }
        rest.is_empty()
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain")
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}
