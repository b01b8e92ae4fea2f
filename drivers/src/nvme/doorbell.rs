//! Doorbells: how a host tells a controller how far it has come with a queue (PCIe §3.1.2), and shadow doorbells (Base §5.2.5, Annex B.5).
//!
//! A write of a register costs hundreds of nanoseconds on a bus, and an exit in a virtual machine. A controller that offers shadow doorbells
//! is told in memory, and says in memory from which value on it wants to be woken by a register.

use crate::{ErrorKind, Registers};
use iommu::Iova;
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::space::AddressSpace;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vfio_core::fence;

/// The doorbell of a queue.
#[derive(Debug)]
pub(crate) struct Doorbell {
    registers: Arc<Registers>,
    /// In the registers.
    offset: usize,
    shadow: Option<Arc<Shadow>>,
    /// The register is written whatever the controller wants.
    is_mirrored: bool,
}

/// Which of a queue pair's two doorbells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Tail of the submission queue.
    Submission,
    /// Head of the completion queue.
    Completion,
}

/// Shadow doorbells and event indices of all I/O queues: two pages, laid out as the doorbell registers are. The controller has them from the
/// command Doorbell Buffer Config until it is reset.
#[derive(Debug)]
pub(crate) struct Shadow {
    doorbells: DmaBuffer<Both>,
    events: DmaBuffer<Both>,
}

/// Where doorbells begin in BAR 0.
const FIRST: usize = 0x1000;

impl Doorbell {
    /// Of queue `id`. `registers` are BAR 0 from its start; `stride` are the bytes from one doorbell to the next: 4 << CAP.DSTRD.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) of a queue whose doorbell is not in the registers.
    pub(crate) fn new(registers: &Arc<Registers>, stride: usize, id: u16, side: Side) -> Result<Self, ErrorKind> {
        let nth = usize::from(id) * 2 + usize::from(side == Side::Completion);
        let offset = nth.checked_mul(stride).and_then(|offset| offset.checked_add(FIRST));
        let is_inside = |offset: &usize| offset.is_multiple_of(4) && *offset < registers.len().saturating_sub(3);
        let offset = offset.filter(is_inside).ok_or_else(|| {
            ErrorKind::Unsupported(format!("queue {id}: BAR 0 is too small for its doorbells").into())
        })?;
        Ok(Self {
            registers: Arc::clone(registers),
            offset,
            shadow: None,
            is_mirrored: false,
        })
    }

    /// With its place in the shadow doorbells, if it has one. For I/O queues that are made after the controller was given them.
    pub(crate) fn with_shadow(self, shadow: Option<&Arc<Shadow>>) -> Self {
        let shadow = shadow.filter(|shadow| shadow.pair(self.offset).is_some());
        if let Some((doorbell, event)) = shadow.and_then(|shadow| shadow.pair(self.offset)) {
            doorbell.store(0, Ordering::Relaxed);
            event.store(0, Ordering::Relaxed);
        }
        Self {
            shadow: shadow.cloned(),
            ..self
        }
    }

    /// Of the admin queue: from here on its value, now `value`, is stored in memory as well as written to the register (Base §5.2.5). What the
    /// controller takes from memory once it has the pages is the same.
    pub(crate) fn mirror(&mut self, shadow: &Arc<Shadow>, value: u16) {
        let Some((doorbell, _)) = shadow.pair(self.offset) else {
            return;
        };
        doorbell.store(u32::from(value).to_le(), Ordering::Relaxed);
        (self.shadow, self.is_mirrored) = (Some(Arc::clone(shadow)), true);
    }

    /// Tells the controller, which was told `old` before. All that was stored before is visible to it by then.
    #[inline]
    pub(crate) fn ring(&mut self, old: u16, value: u16) {
        let is_told = self
            .shadow
            .as_ref()
            .and_then(|shadow| shadow.tell(self.offset, old, value));
        if self.is_mirrored || is_told != Some(Told::Enough) {
            // A register is written after everything before it.
            let written = self.registers.write_u32(self.offset, u32::from(value));
            debug_assert!(written.is_some(), "checked when it was made");
        }
    }
}

/// Whether a value in memory is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Enough,
    NotYet,
}

impl Shadow {
    /// Zeroed pages of `page_bytes`, the controller's.
    ///
    /// # Errors
    ///
    /// Those of memory.
    pub(crate) fn new(space: &AddressSpace, page_bytes: usize) -> Result<Self, ErrorKind> {
        let options = BufferOptions::default();
        Ok(Self {
            doorbells: DmaBuffer::new(space, page_bytes, &options)?,
            events: DmaBuffer::new(space, page_bytes, &options)?,
        })
    }

    /// PRP 1 and PRP 2 of Doorbell Buffer Config.
    pub(crate) fn pages(&self) -> (Iova, Iova) {
        (self.doorbells.iova(), self.events.iova())
    }

    #[inline]
    fn pair(&self, register: usize) -> Option<(&AtomicU32, &AtomicU32)> {
        let offset = register.checked_sub(FIRST)?;
        Some((self.doorbells.atomic_u32(offset)?, self.events.atomic_u32(offset)?))
    }

    /// Stores the value and says whether that is enough: whether the controller's event index does not lie on the way from the old value to
    /// the new one.
    #[inline]
    fn tell(&self, register: usize, old: u16, value: u16) -> Option<Told> {
        let (doorbell, event) = self.pair(register)?;
        // The entries are visible before the value that announces them.
        fence::dma_write();
        doorbell.store(u32::from(value).to_le(), Ordering::Relaxed);
        // The controller stores its event index and then looks at the value; we the other way round. So that not both see what was before,
        // the value is visible before the index is loaded.
        fence::dma();
        let event = low(u32::from_le(event.load(Ordering::Relaxed)));
        Some(if wants_register(event, value, old) {
            Told::NotYet
        } else {
            Told::Enough
        })
    }
}

/// Whether `event` lies in `old..new`, modulo 2^16: the values wrap at the queue's size before that, which the difference of 16 bits bears
/// with as long as both sides compute it so.
#[inline]
fn wants_register(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[expect(clippy::cast_possible_truncation, reason = "a doorbell has 16 bits (PCIe §3.1.2.1)")]
fn low(word: u32) -> u16 {
    word as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeBacking;
    use crate::fake::nvme::{self, Nvme};
    use crate::nvme::{Controller, Options};
    use proptest::prelude::*;

    #[test]
    fn the_admin_queue_is_told_in_memory_too() {
        let backing = FakeBacking::new(Nvme::new(nvme::Options::default())).unwrap();
        let controller = Controller::new(backing, &Options::default()).unwrap();
        let shadow = Arc::clone(controller.admin.shadow().unwrap());
        let tail = || u32::from_le(shadow.pair(FIRST).unwrap().0.load(Ordering::Relaxed));
        for _ in 0..2 {
            let before = tail();
            assert_ne!(before, 0);
            controller.health().unwrap();
            assert_eq!(tail(), before + 1);
            controller.reset().unwrap();
        }
    }

    proptest! {
        #[test]
        fn a_register_is_written_when_the_event_index_was_passed(old: u16, steps in 1..2000_u16, event: u16) {
            let passed = (0..steps).any(|step| old.wrapping_add(step) == event);
            prop_assert_eq!(wants_register(event, old.wrapping_add(steps), old), passed);
        }
    }
}
