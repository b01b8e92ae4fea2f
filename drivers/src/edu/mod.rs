//! The driver of QEMU's edu, and how to write one.
//!
#![doc = include_str!("tutorial.md")]

mod regs;

use crate::backing::poll_until;
use crate::{Backing, Error, ErrorKind, Presence, Registers, Result, Vectors, Woken};
use iommu::buffer::{BufferOptions, DmaBuffer, FromDevice, ToDevice};
use regs::{
    ACKNOWLEDGE, COMPUTING, DMA_COMMAND, DMA_DONE, DMA_LEN, DMA_SOURCE, DMA_TARGET, FACTORIAL, FACTORIAL_DONE,
    FROM_DEVICE, ID, INSIDE, INTERRUPT, INTERRUPT_AFTER_DMA, INTERRUPT_WHEN_DONE, LEN, LIVENESS, RAISE, START, STATUS,
};
use std::time::Duration;
use vfio_core::PageSize;
use vfio_core::mmio::Window;

/// QEMU's tutorial device, owned by this process.
#[derive(Debug)]
pub struct Edu<B: Backing> {
    // What drops first stands first: interrupts, then memory, then registers, then the function itself.
    vectors: Vectors,
    outgoing: DmaBuffer<ToDevice>,
    incoming: DmaBuffer<FromDevice>,
    registers: Window<Registers, LEN>,
    backing: B,
}

/// How long the device may take. Its DMA begins 100 ms after it was asked for.
const LIMIT: Duration = Duration::from_secs(10);
/// It has 28 address bits, unless QEMU was told otherwise (`dma_mask`).
const WIDTH: u32 = 28;
/// Bytes of memory inside the device.
pub const MEMORY_LEN: usize = 4096;

impl<B: Backing> Edu<B> {
    /// Finds out whether it is one, and makes it ready.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for another device; those of the [`Backing`].
    pub fn new(backing: B) -> Result<Self> {
        backing.start()?;
        let registers = backing.map_bar(0, 0..LEN as u64)?;
        let refused = |kind| Error::new(backing.bdf(), "identify the device", kind);
        let too_small = || refused(ErrorKind::Unsupported("BAR 0 is smaller than that of an edu".into()));
        let registers = Window::new(registers, 0).ok_or_else(too_small)?;
        let id = registers.read(ID);
        if id & 0xff_ffff != 0x00_00ed {
            return Err(refused(ErrorKind::Unsupported(
                format!("no edu: identification {id:#010x}").into(),
            )));
        }
        let options = BufferOptions {
            pages: PageSize::Base,
            width: WIDTH,
            ..BufferOptions::default()
        };
        let memory = |error: iommu::Error| Error::new(backing.bdf(), "allocate memory for DMA", error.into());
        let edu = Self {
            vectors: backing.vectors(1)?,
            outgoing: DmaBuffer::new(backing.space(), MEMORY_LEN, &options).map_err(memory)?,
            incoming: DmaBuffer::new(backing.space(), MEMORY_LEN, &options).map_err(memory)?,
            registers,
            backing,
        };
        edu.registers.write(STATUS, INTERRUPT_WHEN_DONE);
        Ok(edu)
    }

    /// Its version: major and minor.
    #[must_use]
    pub fn version(&self) -> (u8, u8) {
        let [.., minor, major] = self.registers.read(ID).to_le_bytes();
        (major, minor)
    }

    /// Writes a number and compares what comes back: whether there is a device behind the registers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Gone`]; [`ErrorKind::Failed`] if something else comes back.
    pub fn check(&self) -> Result<()> {
        let number = 0x1234_5678;
        self.registers.write(LIVENESS, number);
        match self.registers.read(LIVENESS) {
            complement if complement == !number => Ok(()),
            other => Err(self.strange("liveness", other)),
        }
    }

    /// The factorial of a number, modulo 2³²; waits for the device's interrupt.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`]; [`ErrorKind::Gone`].
    pub fn factorial(&self, number: u32) -> Result<u32> {
        self.registers.write(FACTORIAL, number);
        self.wait_for(FACTORIAL_DONE, "factorial")?;
        if self.registers.read(STATUS) & COMPUTING != 0 {
            return Err(self.strange("factorial", self.registers.read(STATUS)));
        }
        Ok(self.registers.read(FACTORIAL))
    }

    /// Copies bytes into the device's memory, at `offset`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] outside its [`MEMORY_LEN`] bytes; [`ErrorKind::Timeout`]; [`ErrorKind::Gone`].
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let inside = self.inside(offset, bytes.len())?;
        self.outgoing.write(0, bytes).ok_or_else(|| self.outside())?;
        self.transfer(self.outgoing.iova().0, inside, bytes.len(), 0)
    }

    /// Copies bytes out of the device's memory, from `offset`.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn read(&mut self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let inside = self.inside(offset, bytes.len())?;
        self.transfer(inside, self.incoming.iova().0, bytes.len(), FROM_DEVICE)?;
        self.incoming.read(0, bytes).ok_or_else(|| self.outside())
    }

    /// Lets the device interrupt for `reasons`, bits of the caller's choice, and waits for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`]; [`ErrorKind::Gone`].
    pub fn interrupt(&self, reasons: u32) -> Result<()> {
        self.registers.write(RAISE, reasons);
        self.wait_for(reasons, "interrupt")
    }

    /// Gives the function back, stopped.
    #[must_use]
    pub fn into_backing(self) -> B {
        self.backing.clone()
    }

    fn transfer(&self, source: u64, target: u64, len: usize, direction: u64) -> Result<()> {
        self.registers.write(DMA_SOURCE, source);
        self.registers.write(DMA_TARGET, target);
        self.registers.write(DMA_LEN, len as u64);
        // The last one. What was written to memory before is there when the device reads it: a register write waits for that.
        self.registers
            .write(DMA_COMMAND, START | direction | INTERRUPT_AFTER_DMA);
        self.wait_for(DMA_DONE, "DMA")?;
        // The interrupt says that it is done; START says that it really is.
        let ended = || Ok((self.registers.read(DMA_COMMAND) & START == 0).then_some(()));
        let ended = poll_until(&self.backing, LIMIT, ended)?;
        ended.ok_or_else(|| self.failed("DMA", ErrorKind::Timeout(LIMIT)))
    }

    /// Waits until the device interrupts for one of `reasons`, and acknowledges that.
    fn wait_for(&self, reasons: u32, step: &'static str) -> Result<()> {
        let no_vector = || self.failed(step, ErrorKind::Unsupported("no interrupt".into()));
        let event = self.vectors.event(0).ok_or_else(no_vector)?;
        let end = self.backing.now() + LIMIT;
        loop {
            let found = self.registers.read(INTERRUPT);
            if found == u32::MAX {
                return Err(self.strange(step, found));
            }
            self.registers.write(ACKNOWLEDGE, found);
            // After the device was told, so that a pin is low when the kernel unmasks it.
            self.vectors.acknowledge(0)?;
            if found & reasons != 0 {
                return Ok(());
            }
            let left = end.saturating_sub(self.backing.now());
            match self.backing.wait(event, Some(left))? {
                Woken::Signalled => {}
                Woken::TimedOut => return Err(self.failed(step, ErrorKind::Timeout(LIMIT))),
                Woken::Removal if self.backing.presence() == Presence::Gone => {
                    return Err(self.failed(step, ErrorKind::Gone));
                }
                // Asked back: the device works until it is closed, so what it was asked for is still worth waiting for.
                Woken::Removal => self.backing.idle(),
            }
        }
    }

    /// Where DMA finds this part of the device's memory.
    fn inside(&self, offset: usize, len: usize) -> Result<u64> {
        let end = offset.checked_add(len);
        let is_inside = len != 0 && end.is_some_and(|end| end <= MEMORY_LEN);
        is_inside
            .then_some(INSIDE + offset as u64)
            .ok_or_else(|| self.outside())
    }

    fn outside(&self) -> Error {
        self.failed(
            "DMA",
            ErrorKind::Invalid("no bytes, or outside the device's 4096".into()),
        )
    }

    /// For a register that holds what it cannot.
    fn strange(&self, step: &'static str, found: u32) -> Error {
        let kind = match self.backing.presence() {
            Presence::Gone => ErrorKind::Gone,
            _ => ErrorKind::Failed(format!("a register reads {found:#010x}").into()),
        };
        self.failed(step, kind)
    }

    fn failed(&self, step: &'static str, kind: ErrorKind) -> Error {
        Error::new(self.backing.bdf(), step, kind)
    }
}

#[cfg(test)]
mod tests;
