//! An engine that copies memory by DMA.

use super::bus::{Bus, PageRequest, PageResponse};
use super::device::{Description, Device, MigrationSupport, Region};
use crate::Iova;

/// A device that copies memory.
///
/// BAR 0 has 64 KiB; registers are little-endian:
///
/// | offset | bytes | | |
/// |---|---|---|---|
/// | 0x00 | 4 | `ID` | 0x43504d45, read only |
/// | 0x08 | 8 | `SOURCE` | IOVA to read from |
/// | 0x10 | 8 | `TARGET` | IOVA to write to |
/// | 0x18 | 8 | `LENGTH` | bytes, at most 16 MiB |
/// | 0x20 | 4 | `PASID` | bits 0-19, used if bit 31 is set |
/// | 0x24 | 4 | `VECTOR` | MSI-X vector for the end of a command, sent if bit 31 is set |
/// | 0x28 | 4 | `COMMAND` | 1 copies, 2 fills the target with the low byte of `SOURCE`, 3 sends the interrupt only |
/// | 0x2c | 4 | `STATUS` | 0 idle, 1 done, 2 failed, 3 waits for pages; read only |
/// | 0x30 | 8 | `COUNT` | commands that ended, read only |
///
/// The copy is made while `COMMAND` is written. Memory that is not mapped fails it; a `Copier` [with page requests](Self::page_requests)
/// asks for the page first, tries again when it was given, and fails if it was refused. MSI-X has 16 vectors, their table at 0x8000.
///
/// ```
/// use std::sync::Arc;
/// use vfio_core::fake::{Copier, Machine};
/// use vfio_core::iommufd::{Iommufd, Placement};
/// use vfio_core::{Access, CdevFile, Memory, MemoryOptions, RegionIndex};
///
/// let bdf = "0000:01:00.0".parse()?;
/// let machine = Machine::builder().device(bdf, pci::GroupId(7), Copier::new()).build();
/// let system = machine.system();
/// let iommufd = Iommufd::open(&system)?;
/// let path = machine.cdev_path(bdf).unwrap_or_default();
/// let device = CdevFile::open(&system, path)?.bind(&iommufd, None)?;
/// let ioas = iommufd.alloc_ioas()?;
/// let _attachment = device.attach(&ioas, None)?;
///
/// let memory = Arc::new(Memory::new(8192, MemoryOptions::default())?);
/// memory.write(0, b"to be copied").ok_or("too long")?;
/// let mapping = ioas.map(memory.clone(), 0..8192, Placement::Any, Access::READ | Access::WRITE)?;
/// let iova = mapping.iova().0;
///
/// device.config()?.write(4, &[6, 0])?; // memory and bus mastering
/// let registers = device.region(RegionIndex::BAR0)?;
/// registers.write_u64(0x08, iova)?;
/// registers.write_u64(0x10, iova + 4096)?;
/// registers.write_u64(0x18, 12)?;
/// registers.write_u32(0x28, 1)?;
/// assert_eq!(registers.read_u32(0x2c)?, 1);
/// let mut copy = [0; 12];
/// memory.read(4096, &mut copy).ok_or("too long")?;
/// assert_eq!(&copy, b"to be copied");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Copier {
    description: Description,
    requests: bool,
    registers: State,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    source: u64,
    target: u64,
    len: u64,
    pasid: u32,
    vector: u32,
    command: u32,
    status: u32,
    count: u64,
}

const ID: u32 = 0x4350_4d45;
const VALID: u32 = 1 << 31;
const LARGEST: u64 = 16 << 20;
const CHUNK: usize = 64 << 10;
/// The group of its only request at a time.
const GROUP: u16 = 5;

const IDLE: u32 = 0;
const DONE: u32 = 1;
const FAILED: u32 = 2;
const WAITS: u32 = 3;

impl Default for Copier {
    fn default() -> Self {
        Self::new()
    }
}

impl Copier {
    /// An engine with 20 bits of PASID, and without page requests.
    #[must_use]
    pub fn new() -> Self {
        let description = Description::new(0x1af4, 0x10f1)
            .region(Region::bar(0, 64 << 10))
            .msix(16, 0, 0x8000);
        let migration = MigrationSupport {
            p2p: true,
            pre_copy: true,
        };
        let description = description.pasid(20).migration(migration).dma_logging();
        Self {
            description,
            requests: false,
            registers: State::default(),
        }
    }

    /// It asks for pages that are not mapped.
    #[must_use]
    pub fn page_requests(self) -> Self {
        Self {
            description: self.description.page_requests(),
            requests: true,
            ..self
        }
    }

    fn run(&mut self, bus: &Bus<'_>) {
        let result = match self.registers.command {
            1 => self.copy(bus),
            2 => self.fill(bus),
            3 => Ok(()),
            _ => Err(None),
        };
        match result {
            Ok(()) => self.end(DONE, bus),
            Err(Some(request)) if self.requests && bus.request_page(request).is_ok() => self.registers.status = WAITS,
            Err(_) => self.end(FAILED, bus),
        }
    }

    fn end(&mut self, status: u32, bus: &Bus<'_>) {
        self.registers.status = status;
        self.registers.count += 1;
        if self.registers.vector & VALID != 0 {
            bus.msix(self.registers.vector & !VALID);
        }
    }

    fn pasid(&self) -> Option<u32> {
        (self.registers.pasid & VALID != 0).then_some(self.registers.pasid & 0xf_ffff)
    }

    /// Copies in pieces; a piece that fails is what is asked for.
    fn copy(&self, bus: &Bus<'_>) -> Result<(), Option<PageRequest>> {
        self.pieces(|at, piece| {
            let (source, target) = (
                self.address(self.registers.source, at)?,
                self.address(self.registers.target, at)?,
            );
            let read = bus.dma_read_pasid(self.pasid(), source, piece);
            read.map_err(|fault| Some(self.wish(fault.iova, false)))?;
            let written = bus.dma_write_pasid(self.pasid(), target, piece);
            written.map_err(|fault| Some(self.wish(fault.iova, true)))
        })
    }

    fn fill(&self, bus: &Bus<'_>) -> Result<(), Option<PageRequest>> {
        let [byte, ..] = self.registers.source.to_le_bytes();
        self.pieces(|at, piece| {
            piece.fill(byte);
            let target = self.address(self.registers.target, at)?;
            let written = bus.dma_write_pasid(self.pasid(), target, piece);
            written.map_err(|fault| Some(self.wish(fault.iova, true)))
        })
    }

    fn pieces(
        &self,
        mut act: impl FnMut(u64, &mut [u8]) -> Result<(), Option<PageRequest>>,
    ) -> Result<(), Option<PageRequest>> {
        if self.registers.len > LARGEST {
            return Err(None);
        }
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < self.registers.len {
            let len = usize::try_from(self.registers.len - at).map_or(CHUNK, |left| left.min(CHUNK));
            act(at, buffer.get_mut(..len).unwrap_or_default())?;
            at += len as u64;
        }
        Ok(())
    }

    fn address(&self, base: u64, at: u64) -> Result<Iova, Option<PageRequest>> {
        base.checked_add(at).map(Iova).ok_or(None)
    }

    fn wish(&self, iova: Iova, write: bool) -> PageRequest {
        PageRequest {
            pasid: self.pasid(),
            group: GROUP,
            iova,
            read: !write,
            write,
            last: true,
        }
    }

    fn register(&self, offset: u64) -> u64 {
        let registers = &self.registers;
        let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        match offset {
            0x00 => u64::from(ID),
            0x08 => registers.source,
            0x10 => registers.target,
            0x18 => registers.len,
            0x20 => join(registers.pasid, registers.vector),
            0x28 => join(registers.command, registers.status),
            0x30 => registers.count,
            _ => 0,
        }
    }
}

impl Device for Copier {
    fn description(&self) -> Description {
        self.description.clone()
    }

    fn read(&mut self, _region: u32, offset: u64, _width: u32, _bus: &Bus<'_>) -> u64 {
        self.register(offset & !7) >> (8 * (offset & 7))
    }

    fn write(&mut self, _region: u32, offset: u64, width: u32, value: u64, bus: &Bus<'_>) {
        let mut bytes = self.register(offset & !7).to_le_bytes();
        let at = usize::try_from(offset & 7).unwrap_or_default();
        let count = usize::try_from(width).unwrap_or_default();
        for (to, from) in bytes.iter_mut().skip(at).zip(value.to_le_bytes()).take(count) {
            *to = from;
        }
        let whole = u64::from_le_bytes(bytes);
        let [a, b, c, d, e, f, g, h] = bytes;
        let (low, high) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        match offset & !7 {
            0x08 => self.registers.source = whole,
            0x10 => self.registers.target = whole,
            0x18 => self.registers.len = whole,
            0x20 => (self.registers.pasid, self.registers.vector) = (low, high),
            0x28 if at < 4 && self.registers.status != WAITS => {
                self.registers.command = low;
                self.registers.status = IDLE;
                self.run(bus);
            }
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.registers = State::default();
    }

    fn page_response(&mut self, response: PageResponse, bus: &Bus<'_>) {
        if response.group != GROUP || self.registers.status != WAITS {
            return;
        }
        if response.success {
            self.run(bus);
        } else {
            self.end(FAILED, bus);
        }
    }

    fn save(&mut self) -> Vec<u8> {
        (0x08..0x38)
            .step_by(8)
            .flat_map(|offset| self.register(offset).to_le_bytes())
            .collect()
    }

    fn restore(&mut self, state: &[u8]) -> bool {
        // A stream that was begun while the device ran holds an older state first.
        let Some(bytes) = state.last_chunk::<48>().filter(|_| state.len().is_multiple_of(48)) else {
            return false;
        };
        let (words, _) = bytes.as_chunks::<8>();
        let word = |at: usize| words.get(at).copied().map(u64::from_le_bytes).unwrap_or_default();
        let half = |value: u64| {
            let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
        };
        let ((pasid, vector), (command, status)) = (half(word(3)), half(word(4)));
        self.registers = State {
            source: word(0),
            target: word(1),
            len: word(2),
            pasid,
            vector,
            command,
            status,
            count: word(5),
        };
        true
    }
}
