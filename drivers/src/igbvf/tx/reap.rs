//! Taking buffers back, and watching that the device goes on.

use super::{DONE, STEP, TxQueue};
use crate::igbvf::report::Report;
use crate::{Backing, ErrorKind, Result};
use iommu::buffer::{Both, DmaBuffer};
use std::sync::atomic::Ordering;

impl<B: Backing> TxQueue<B> {
    /// Takes back a buffer whose bytes the device has read; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// Once there is nothing to take: [`ErrorKind::Failed`] when the PF was reset, or when the device wrote what makes no sense: the queue has to
    /// be [restarted](Self::restart). [`ErrorKind::Gone`] once the function is, or is wanted back.
    #[inline]
    pub fn reap(&mut self) -> Result<Option<DmaBuffer<Both>>> {
        loop {
            while self.clean != self.done {
                let index = self.clean;
                self.clean = self.ring.next(index);
                let buffer = self.slots.get_mut(index as usize).and_then(Option::take);
                // A context has none.
                if buffer.is_some() {
                    return Ok(buffer);
                }
            }
            if !self.look()? {
                return Ok(None);
            }
        }
    }

    /// Whether the device has got further.
    pub(super) fn look(&mut self) -> Result<bool> {
        let further = match self.report {
            Report::Descriptor => self.marked(),
            Report::Head => self.written()?,
        };
        if self.has_failed || further.is_none() {
            self.idle()?;
            if self.watch.is_due() {
                self.watch()?;
            }
            return Ok(false);
        }
        self.done = further.unwrap_or(self.done);
        self.watch.calm();
        Ok(true)
    }

    /// Up to where it is done by the next descriptor in which it reports.
    #[inline]
    fn marked(&mut self) -> Option<u32> {
        let index = *self.reports.front()?;
        // Acquired: what the device did before it marked the descriptor is over, so the buffers can be written again.
        let status = self.ring.load(index, 1, Ordering::Acquire);
        if status & DONE == 0 {
            return None;
        }
        self.reports.pop_front();
        Some(self.ring.next(index))
    }

    /// Up to where it is done by the head that it wrote.
    #[inline]
    fn written(&mut self) -> Result<Option<u32>> {
        // Kept for the other way.
        self.reports.clear();
        // Acquired, as above.
        let head = self
            .ring
            .head()
            .map_or(0, |head| u32::from_le(head.load(Ordering::Acquire)));
        if head == self.done || self.has_failed {
            return Ok(None);
        }
        // It can only be at what it was told of.
        if head >= self.ring.depth() || self.ring.between(self.done, head) > self.ring.between(self.done, self.rung) {
            self.has_failed = true;
            let text = format!(
                "it says that its head is at {head}, which is not between {} and {}",
                self.done, self.rung
            );
            return Err(self.ring.function.failed(STEP, ErrorKind::Failed(text.into())));
        }
        Ok(Some(head))
    }

    #[cold]
    pub(super) fn watch(&mut self) -> Result<()> {
        let function = &self.ring.function;
        if self.done == self.rung {
            self.watch.calm();
        } else if self.watch.is_overdue(function) {
            self.has_failed = true;
            let kind = ErrorKind::Failed("it has not reported for two seconds".into());
            return Err(function.failed(STEP, kind));
        }
        Ok(())
    }

    pub(super) fn idle(&self) -> Result<()> {
        self.ring.check(STEP)?;
        if self.has_failed {
            let kind = ErrorKind::Failed("the queue has to be restarted".into());
            return Err(self.ring.function.failed(STEP, kind));
        }
        Ok(())
    }
}
