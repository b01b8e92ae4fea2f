//! Receiving: buffers go in empty and come out with frames.

use super::function::Function;
use super::regs::{self, queue};
use super::ring::{Place, Ring, slots};
use super::spec::{RxInfo, RxStatus};
use crate::wait::Signals;
use crate::{Backing, ErrorKind, Result, Woken};
use iommu::buffer::{Both, DmaBuffer};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vfio_core::EventFd;

/// A receive queue. It belongs to one thread at a time.
///
/// Polling, [`pop`](Self::pop) and [`post`](Self::post) make no system call, allocate nothing and take no lock;
/// [`ring`](Self::ring) is one write of a register for any number of buffers.
#[derive(Debug)]
pub struct RxQueue<B: Backing> {
    ring: Ring<B>,
    /// The buffer of each descriptor that the device has.
    slots: Box<[Option<DmaBuffer<Both>>]>,
    options: RxOptions,
    vector: Option<usize>,
    /// The oldest descriptor that the device has.
    clean: u32,
    /// The next one to be filled.
    tail: u32,
    /// Of which the device was told last.
    rung: u32,
    /// What the device wrote makes no sense, or a restart has not succeeded.
    has_failed: bool,
}

/// How to make a receive queue.
#[derive(Debug, Clone, Copy)]
pub struct RxOptions {
    /// Descriptors: a power of two from 32 to 4096. One of them stays free.
    pub depth: u16,
    /// What the device writes into a buffer at most: 1 KiB to 16 KiB, in whole KiB. A longer frame takes several buffers.
    pub buffer_len: u16,
    /// Interrupts for [`RxQueue::wait`]; the port must have been opened with interrupts.
    pub interrupt: bool,
}

impl Default for RxOptions {
    fn default() -> Self {
        Self {
            depth: 256,
            buffer_len: 2048,
            interrupt: false,
        }
    }
}

/// A frame, or a part of it.
#[derive(Debug)]
pub struct Received {
    /// It is in here, from the start.
    pub buffer: DmaBuffer<Both>,
    /// How long it is, whether it ends here, and what the device found out.
    pub status: RxStatus,
    /// What the device took it for.
    pub info: RxInfo,
}

/// RXDCTL: prefetch below 16 descriptors, in eights, and write each back at once: a VF of the 82576 may never write back fewer.
const CONTROL: u32 = 16 | 8 << 8 | 1 << 16;
const KIB: u16 = 1024;
const STEP: &str = "receive";

impl<B: Backing> RxQueue<B> {
    pub(super) fn new(function: &Arc<Function<B>>, index: u8, options: RxOptions) -> Result<Self> {
        if !options.buffer_len.is_multiple_of(KIB) || !(KIB..=16 * KIB).contains(&options.buffer_len) {
            let kind = ErrorKind::Invalid("buffers have 1 to 16 KiB, in whole KiB".into());
            return Err(function.failed("make a queue", kind));
        }
        let place = Place {
            registers: regs::RX,
            index,
            entry: 2 * u32::from(index),
        };
        let ring = Ring::new(function, place, options.depth)?;
        let vector = options
            .interrupt
            // Queue 0 receives with vector 1 as Linux's driver does, for QEMU never forgets an entry of VTIVAR.
            .then(|| function.claim_vector(place.entry, 1 - usize::from(index.min(1))))
            .transpose()?;
        let mut queue = Self {
            slots: slots(ring.depth()),
            ring,
            options,
            vector,
            clean: 0,
            tail: 0,
            rung: 0,
            has_failed: false,
        };
        queue.switch_on()?;
        Ok(queue)
    }

    fn switch_on(&mut self) -> Result<()> {
        // Nothing is done in what the device could take for a finished descriptor.
        for index in 0..self.ring.depth() {
            self.ring.store(index, 1, 0);
        }
        let size = u32::from(self.options.buffer_len / KIB);
        self.ring.write(queue::SRRCTL, size | regs::ONE_BUFFER | regs::DROP);
        self.ring.switch_on(CONTROL)
    }

    /// How many buffers it has room for.
    #[must_use]
    #[inline]
    pub fn room(&self) -> u32 {
        self.ring.depth() - 1 - self.ring.between(self.clean, self.tail)
    }

    /// Puts an empty buffer in; the device does not know of it before the next [`ring`](Self::ring).
    ///
    /// # Errors
    ///
    /// The buffer, when there is no room, it is shorter than [`RxOptions::buffer_len`] or at an odd IOVA, or the queue has to be restarted.
    #[inline]
    pub fn post(&mut self, buffer: DmaBuffer<Both>) -> Result<(), DmaBuffer<Both>> {
        let is_fit = buffer.len() >= usize::from(self.options.buffer_len) && buffer.iova().0 & 1 == 0;
        if self.room() == 0 || self.has_failed || !is_fit {
            return Err(buffer);
        }
        let Some(slot) = self.slots.get_mut(self.tail as usize) else {
            return Err(buffer);
        };
        // The second word is where the device will say that it is done.
        self.ring.fill(self.tail, buffer.iova().0, 0);
        *slot = Some(buffer);
        self.tail = self.ring.next(self.tail);
        Ok(())
    }

    /// Tells the device of all buffers that were put in since: one register write, or none.
    #[inline]
    pub fn ring(&mut self) {
        if self.rung != self.tail {
            self.ring.write(queue::TAIL, self.tail);
            self.rung = self.tail;
        }
    }

    /// Takes a buffer that the device has filled; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// Once there is nothing to take: [`ErrorKind::Failed`] when the PF was reset, or when the device wrote what makes no sense: the queue has to
    /// be [restarted](Self::restart). [`ErrorKind::Gone`] once the function is, or is wanted back.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Received>> {
        let Some(status) = self.finished() else {
            self.idle()?;
            return Ok(None);
        };
        if status.length() > self.options.buffer_len {
            return Err(self.nonsense(status));
        }
        let info = RxInfo::from_bits(self.ring.load(self.clean, 0, Ordering::Relaxed));
        let Some(buffer) = self.slots.get_mut(self.clean as usize).and_then(Option::take) else {
            return Err(self.nonsense(status));
        };
        self.clean = self.ring.next(self.clean);
        Ok(Some(Received { buffer, status, info }))
    }

    /// The status of the oldest descriptor, if the device is done with it.
    #[inline]
    fn finished(&self) -> Option<RxStatus> {
        if self.clean == self.rung || self.has_failed {
            return None;
        }
        // Acquired before all else that the device wrote: the frame and the other word were written before DD was.
        let status = RxStatus::from_bits(self.ring.load(self.clean, 1, Ordering::Acquire));
        status.is_done().then_some(status)
    }

    fn idle(&self) -> Result<()> {
        self.ring.check(STEP)?;
        if self.has_failed {
            let kind = ErrorKind::Failed("the queue has to be restarted".into());
            return Err(self.ring.function.failed(STEP, kind));
        }
        Ok(())
    }

    #[cold]
    fn nonsense(&mut self, status: RxStatus) -> crate::Error {
        // The buffer stays where it is until the queue is off.
        self.has_failed = true;
        let text = format!(
            "a receive descriptor says that {} bytes are in a buffer of {}",
            status.length(),
            self.options.buffer_len
        );
        self.ring.function.failed(STEP, ErrorKind::Failed(text.into()))
    }

    /// Blocks until there is something to [`pop`](Self::pop), or the time is over, or the function is wanted back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without interrupts; those of [`pop`](Self::pop).
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Woken> {
        if !self.arm()? {
            return Ok(Woken::Signalled);
        }
        let event = self.event().ok_or_else(|| self.no_interrupt())?;
        self.ring.function.backing.wait(event, timeout)
    }

    /// Waits until there is something to [`pop`](Self::pop). `signals` are those of [`event`](Self::event).
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait). A removal wakes it only by way of [`Port::check`](super::Port::check), which is to be called when
    /// [`Removal::event`](crate::Removal::event) is signalled.
    pub async fn ready(&mut self, signals: &mut Signals) -> Result<()> {
        while self.arm()? {
            signals.next().await;
        }
        Ok(())
    }

    /// Lets the next frame interrupt; `false` if there is one already.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn arm(&mut self) -> Result<bool> {
        if self.finished().is_some() {
            return Ok(false);
        }
        self.idle()?;
        let vector = self.vector.ok_or_else(|| self.no_interrupt())?;
        self.ring.function.arm(vector);
        // A frame that came before the vector was armed has its cause set, and interrupts at once; this only saves the way through the kernel.
        Ok(self.finished().is_none())
    }

    /// Signalled when a frame has come after [`arm`](Self::arm).
    #[must_use]
    pub fn event(&self) -> Option<&EventFd> {
        self.ring.function.event(self.vector?)
    }

    fn no_interrupt(&self) -> crate::Error {
        let kind = ErrorKind::Unsupported("a queue without an interrupt can only be polled".into());
        self.ring.function.failed(STEP, kind)
    }

    /// Makes the queue work again after the port has recovered, with the buffers that it had. Frames in them are lost.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Failed`] if the port has not recovered; [`ErrorKind::Timeout`] if the device does not let go of the queue.
    pub fn restart(&mut self) -> Result<()> {
        // Until it works again nothing goes in.
        self.has_failed = true;
        self.ring.switch_off()?;
        (self.clean, self.tail, self.rung) = (0, 0, 0);
        self.switch_on()?;
        self.has_failed = false;
        let buffers = std::mem::replace(&mut self.slots, slots(self.ring.depth()));
        // There is room for what was in it before.
        for buffer in buffers.into_iter().flatten() {
            drop(self.post(buffer));
        }
        self.ring();
        Ok(())
    }

    /// Switches the queue off and gives its buffers back.
    ///
    /// # Errors
    ///
    /// When nothing proves that the device has stopped; the buffers are kept from everybody then.
    pub fn stop(mut self) -> Result<Vec<DmaBuffer<Both>>> {
        self.ring.switch_off()?;
        Ok(std::mem::take(&mut self.slots).into_iter().flatten().collect())
    }
}

impl<B: Backing> Drop for RxQueue<B> {
    fn drop(&mut self) {
        if let Err(error) = self.ring.switch_off() {
            tracing::error!(%error, "a receive queue stays on");
            self.ring.leak(std::mem::take(&mut self.slots));
        }
        if let Some(vector) = self.vector {
            self.ring.function.give_back_vector(self.ring.entry(), vector);
        }
    }
}
