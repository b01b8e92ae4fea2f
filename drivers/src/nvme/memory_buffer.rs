//! The controller memory buffer: memory on the controller's side that commands can name (Base §8.2.2).
//!
//! The controller decodes its addresses itself, so they are none that memory is mapped at: they lie above all that the IOMMU allows.
//! Queues are not put there: a store over the bus for each word costs more than a controller's fetch of entries from memory.

use super::controller::Controller;
use super::payload::Payload;
use super::regs::{self, MemoryBufferControl, MemoryBufferSize};
use crate::{Backing, ErrorKind, Registers, Result};
use iommu::Iova;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::Access;

/// Memory of a controller, or a part of it, as data of its commands. Cheap to clone: clones are the same memory.
///
/// It works until the function is reset, which a controller that does not stop by itself leads to: it is asked for again then.
#[derive(Debug, Clone)]
pub struct MemoryBuffer {
    registers: Arc<Registers>,
    /// In the registers.
    start: usize,
    len: usize,
    /// Of the registers' first byte.
    iova: Iova,
    access: Access,
}

/// How long its registers may take to say what was asked: no time on a bus.
const SOON: Duration = Duration::from_millis(10);

impl<B: Backing> Controller<B> {
    /// Its memory buffer, enabled; `None` if it has none, or only one whose place the host cannot choose (before NVMe 1.4).
    ///
    /// # Errors
    ///
    /// [`Failed`](ErrorKind::Failed) when the controller does not take its place; those of mapping it.
    pub fn memory_buffer(&self) -> Result<Option<MemoryBuffer>> {
        let step = "controller memory buffer";
        let window = self.admin.function().window();
        if !self.capabilities().memory_buffer() {
            return Ok(None);
        }
        let control = window.read(regs::CMBMSC);
        // Size and place are told only from here on.
        window.write(regs::CMBMSC, control.with_capabilities(true));
        let told = self.admin.function().wait(SOON, || {
            let size = window.read(regs::CMBSZ);
            Ok((size.size() != 0).then_some(size))
        })?;
        let Some(size) = told else {
            return Ok(None);
        };
        let location = window.read(regs::CMBLOC);
        let limits = size.unit_bytes().and_then(|unit| {
            let start = u64::from(location.offset()).checked_mul(unit)?;
            let len = u64::from(size.size()).checked_mul(unit).filter(|len| *len != 0)?;
            Some((start, start.checked_add(len)?))
        });
        let Some((start, end)) = limits else {
            return Ok(None);
        };
        // What is told beyond the BAR is not there.
        let there = self.shared.backing.bar_len(location.bar())?;
        let registers = self.shared.backing.map_bar(location.bar(), start..end.min(there))?;
        let iova = self.beyond(registers.len() as u64);
        let iova =
            iova.ok_or_else(|| self.failed(step, ErrorKind::Unsupported("an address beyond the IOMMU's".into())))?;
        let enabled = MemoryBufferControl::new()
            .with_capabilities(true)
            .with_enable(true)
            .with_base(iova.0 >> 12);
        window.write(regs::CMBMSC, enabled);
        let taken = self.admin.function().wait(SOON, || {
            let is_taken = window.read(regs::CMBMSC) == enabled && window.read(regs::CMBSTS) & 1 == 0;
            Ok(is_taken.then_some(()))
        })?;
        if taken.is_none() {
            let why = "it does not take its address (CMBMSC, CMBSTS)";
            return Err(self.failed(step, ErrorKind::Failed(why.into())));
        }
        Ok(Some(MemoryBuffer {
            start: 0,
            len: registers.len(),
            registers: Arc::new(registers),
            iova,
            access: access(size),
        }))
    }

    /// An address that nothing is ever mapped at, at a multiple of 4 GiB.
    fn beyond(&self, len: u64) -> Option<Iova> {
        let allowed = self.shared.backing.space().allowed();
        let last = allowed.iter().map(|range| range.last().0).max()?;
        let start = last.checked_add(1)?.checked_next_multiple_of(1 << 32)?;
        start.checked_add(len).map(|_| Iova(start))
    }
}

fn access(size: MemoryBufferSize) -> Access {
    let mut access = Access::empty();
    access.set(Access::READ, size.write_data());
    access.set(Access::WRITE, size.read_data());
    access
}

impl MemoryBuffer {
    /// A part of it, at a multiple of 8 bytes; `None` outside of it.
    #[must_use]
    pub fn part(&self, part: Range<usize>) -> Option<Self> {
        let len = part.end.checked_sub(part.start)?;
        let is_inside = part.end <= self.len && part.start.is_multiple_of(8);
        is_inside.then(|| Self {
            start: self.start + part.start,
            len,
            ..self.clone()
        })
    }

    /// Copies bytes in from its start, 8 at a time; `None` if they are more than it has. Each access goes over the bus.
    #[must_use = "nothing is copied outside the buffer"]
    pub fn write(&self, from: &[u8]) -> Option<()> {
        if from.len() > self.len {
            return None;
        }
        let mut offset = self.start;
        let mut words = from.chunks_exact(8);
        for word in &mut words {
            self.registers
                .write_u64(offset, u64::from_le_bytes(word.try_into().ok()?))?;
            offset += 8;
        }
        for byte in words.remainder() {
            self.registers.write_u8(offset, *byte)?;
            offset += 1;
        }
        Some(())
    }

    /// Copies bytes out from its start, as [`write`](Self::write) copies them in.
    #[must_use = "nothing is copied outside the buffer"]
    pub fn read(&self, to: &mut [u8]) -> Option<()> {
        if to.len() > self.len {
            return None;
        }
        let mut offset = self.start;
        let mut words = to.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.registers.read_u64(offset)?.to_le_bytes());
            offset += 8;
        }
        for byte in words.into_remainder() {
            *byte = self.registers.read_u8(offset)?;
            offset += 1;
        }
        Some(())
    }
}

impl Payload for MemoryBuffer {
    fn len(&self) -> u64 {
        self.len as u64
    }

    fn access(&self) -> Access {
        self.access
    }

    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        let start = self.iova.checked_add(self.start as u64)?;
        (index == 0).then_some((start, self.len as u64))
    }
}
