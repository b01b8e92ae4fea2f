//! Where a controller memory buffer is: for the host in a BAR, for the controller where the host says (CMBLOC, CMBSZ, CMBMSC).

use super::super::function::Function;
use super::super::regs::{self, MemoryBufferControl, MemoryBufferLocation, MemoryBufferSize};
use super::Buffer;
use crate::{Backing, ErrorKind, Result};
use iommu::Iova;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use vfio_core::IovaRange;

/// How long its registers may take to say what was asked: no time on a bus.
const SOON: Duration = Duration::from_millis(10);
const STEP: &str = "controller memory buffer";
/// Where a buffer is told to be, if nothing can be mapped there: IOMMUs have 39 to 57 bits of addresses, and a space that grows when another function
/// leaves it does not reach it.
const FAR: u64 = 1 << 63;

impl<B: Backing> Function<B> {
    /// Its memory buffer, which the controller is told the address of when it is asked for first. Nobody resets it meanwhile.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) of a controller without one whose place the host can choose (NVMe 1.4 and later);
    /// [`Failed`](ErrorKind::Failed) of one that is not where the controller says, that does not take its address, or where memory can be mapped by
    /// now; those of mapping it.
    pub(crate) fn memory_buffer(&self) -> Result<Arc<Buffer>> {
        if let Some(buffer) = self.buffer.get() {
            self.check_beyond(buffer.range)?;
            return Ok(Arc::clone(buffer));
        }
        let found = self.find().inspect_err(|_| {
            if self.capabilities().memory_buffer() {
                self.window().write(regs::CMBMSC, MemoryBufferControl::new());
            }
        })?;
        Ok(Arc::clone(self.buffer.get_or_init(|| Arc::new(found))))
    }

    /// For a controller that is about to be enabled: it finds its buffer where it did before, which a reset of the function has it forget. One whose
    /// buffer nobody has asked for takes no addresses of memory for it that somebody else has told it.
    ///
    /// # Errors
    ///
    /// [`Failed`](ErrorKind::Failed) when the buffer is not as it was, or memory can be mapped where it is.
    pub(crate) fn restore_memory_buffer(&self) -> Result<()> {
        let Some(buffer) = self.buffer.get() else {
            if self.capabilities().memory_buffer() && self.window().read(regs::CMBMSC).enable() {
                self.window().write(regs::CMBMSC, MemoryBufferControl::new());
            }
            return Ok(());
        };
        self.check_beyond(buffer.range)?;
        self.tell(buffer.range.start())?;
        let now = (self.window().read(regs::CMBLOC), self.window().read(regs::CMBSZ));
        if now != (buffer.location, buffer.size) {
            return Err(self.failed(STEP, ErrorKind::Failed("it is another one since the reset".into())));
        }
        Ok(())
    }

    fn find(&self) -> Result<Buffer> {
        let unsupported = |what: &'static str| self.failed(STEP, ErrorKind::Unsupported(what.into()));
        if !self.capabilities().memory_buffer() {
            return Err(unsupported("a memory buffer whose place the host chooses (CAP.CMBS)"));
        }
        // Size and place are told only from here on.
        let window = self.window();
        window.write(regs::CMBMSC, MemoryBufferControl::new().with_capabilities(true));
        let told = self.wait(SOON, || {
            let size = window.read(regs::CMBSZ);
            Ok((size.size() != 0).then_some(size))
        })?;
        let size = told.ok_or_else(|| unsupported("a memory buffer (CMBSZ)"))?;
        if self.status()?.is_none() {
            let why = "its registers read as ones";
            return Err(self.failed(STEP, ErrorKind::Failed(why.into())));
        }
        let location = window.read(regs::CMBLOC);
        let bar = location.bar();
        let nowhere = || {
            let what = format!("it is not where CMBLOC and CMBSZ say ({location:?}, {size:?})");
            self.failed(STEP, ErrorKind::Failed(what.into()))
        };
        if !matches!(bar, 0 | 2..=5) {
            return Err(nowhere());
        }
        let part = part(location, size, self.backing.bar_len(bar)?).ok_or_else(nowhere)?;
        if bar == 0 && part.start < self.registers().len() as u64 {
            return Err(nowhere());
        }
        let registers = self.backing.map_bar(bar, part)?;
        let range = self.beyond(registers.len() as u64);
        let range = range.ok_or_else(|| unsupported("an address beyond the IOMMU's"))?;
        self.tell(range.start())?;
        let buffer = Buffer::new(registers, range, self.page_bytes(), (location, size));
        buffer.map_err(|kind| self.failed(STEP, kind))
    }

    /// Tells the controller the address of its buffer, and sees whether it takes it.
    fn tell(&self, start: Iova) -> Result<()> {
        let control = MemoryBufferControl::new()
            .with_capabilities(true)
            .with_enable(true)
            .with_base(start.0 >> 12);
        let window = self.window();
        window.write(regs::CMBMSC, control);
        let taken = self.wait(SOON, || {
            let is_taken = window.read(regs::CMBMSC) == control && window.read(regs::CMBSTS) & 1 == 0;
            Ok(is_taken.then_some(()))
        })?;
        let why = "it does not take its address (CMBMSC, CMBSTS)";
        taken.ok_or_else(|| self.failed(STEP, ErrorKind::Failed(why.into())))
    }

    /// Addresses that nothing is mapped at, from a multiple of 4 GiB on.
    fn beyond(&self, len: u64) -> Option<IovaRange> {
        beyond(&self.backing.space().allowed(), len)
    }

    /// Memory that is mapped where the controller has its buffer is none for the controller: it would read and write the buffer.
    fn check_beyond(&self, range: IovaRange) -> Result<()> {
        if self
            .backing
            .space()
            .allowed()
            .iter()
            .any(|allowed| allowed.overlaps(&range))
        {
            let why = "memory can be mapped where it is, since the address space has grown";
            return Err(self.failed(STEP, ErrorKind::Failed(why.into())));
        }
        Ok(())
    }
}

/// Addresses outside of all these, and of what they may become as far as that can be.
fn beyond(allowed: &[IovaRange], len: u64) -> Option<IovaRange> {
    let last = allowed.iter().map(|range| range.last().0).max()?;
    let start = last.checked_add(1)?.checked_next_multiple_of(1 << 32)?;
    IovaRange::new(Iova(start.max(FAR)), len)
}

/// Its part of a BAR of so many bytes; what is told beyond that is not there. `None` if nothing of it is.
fn part(location: MemoryBufferLocation, size: MemoryBufferSize, there: u64) -> Option<Range<u64>> {
    let unit = size.unit_bytes()?;
    let start = u64::from(location.offset()).checked_mul(unit)?;
    let end = u64::from(size.size()).checked_mul(unit)?.checked_add(start)?.min(there);
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_buffer_is_where_a_space_that_grows_does_not_come() {
        let up_to = |last| [IovaRange::from_bounds(Iova(0), Iova(last)).unwrap()];
        // 39 bits now, and 57 when a function with less has left.
        let found = beyond(&up_to((1 << 39) - 1), 1 << 20).unwrap();
        assert!(!found.overlaps(&up_to((1 << 57) - 1)[0]), "{found}");
        let above = beyond(&up_to(FAR), 1 << 20).unwrap();
        assert_eq!(above.start(), Iova(FAR + (1 << 32)));
        assert!(beyond(&up_to(u64::MAX), 1).is_none() && beyond(&[], 1).is_none());
    }

    proptest! {
        #[test]
        fn a_part_lies_inside_its_bar_and_where_it_is_said(location: u32, size: u32, there: u64) {
            let (location, size) = (MemoryBufferLocation::from_bits(location), MemoryBufferSize::from_bits(size));
            let Some(part) = part(location, size, there) else {
                let start = size.unit_bytes().map(|unit| u64::from(location.offset()) * unit);
                prop_assert!(size.size() == 0 || start.is_none_or(|start| start >= there));
                return Ok(());
            };
            let unit = size.unit_bytes().unwrap();
            prop_assert_eq!(part.start, u64::from(location.offset()) * unit);
            prop_assert_eq!(part.end, there.min(part.start + u64::from(size.size()) * unit));
            prop_assert!(!part.is_empty());
        }
    }
}
