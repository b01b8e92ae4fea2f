//! Sending: buffers go in with frames, and come back once these were sent.
//!
//! The device reports once for each batch, whatever it holds, in the way that [`Report`] says.

mod reap;

use super::function::Function;
use super::offload::Offload;
use super::piece::{Piece, Refused, Why};
use super::regs::{self, queue};
use super::report::{Report, Watch};
use super::ring::{Place, Ring, slots};
use super::spec::TxData;
use crate::wait::Signals;
use crate::{Backing, Error, ErrorKind, Result, Woken};
use iommu::buffer::{Both, DmaBuffer};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vfio_core::EventFd;

/// A transmit queue. It belongs to one thread at a time.
///
/// [`push`](Self::push) and [`reap`](Self::reap) make no system call, allocate nothing and take no lock; [`ring`](Self::ring) is one write of a
/// register for any number of frames.
#[derive(Debug)]
pub struct TxQueue<B: Backing> {
    ring: Ring<B>,
    /// The buffer of each descriptor that has one.
    slots: Box<[Option<DmaBuffer<Both>>]>,
    vector: Option<usize>,
    /// The oldest descriptor that was not given back.
    clean: u32,
    /// Up to where the device is done.
    done: u32,
    /// The next descriptor to be filled.
    tail: u32,
    /// Of which the device was told last.
    rung: u32,
    /// Descriptors since the one in which the device was asked last to report.
    unreported: u32,
    /// Descriptors in which the device will report. There is room for all of them.
    reports: VecDeque<u32>,
    report: Report,
    /// What the device has in its context 0.
    context: Offload,
    watch: Watch,
    /// What the device wrote makes no sense, or it does not report, or a restart has not succeeded.
    has_failed: bool,
}

/// How to make a transmit queue.
#[derive(Debug, Clone, Copy)]
pub struct TxOptions {
    /// Descriptors: a power of two from 32 to 4096. One of them stays free.
    pub depth: u16,
    /// Interrupts for [`TxQueue::wait`]; the port must have been opened with interrupts.
    pub interrupt: bool,
    /// How the device reports.
    pub report: Report,
}

impl Default for TxOptions {
    fn default() -> Self {
        Self {
            depth: 256,
            interrupt: false,
            report: Report::Descriptor,
        }
    }
}

/// Bit 0 of TDWBAL: the head is written to memory.
const WRITE_HEAD: u64 = 1;
/// Within a long batch the device reports at least so often, so that buffers come back while it goes on.
const REPORT_EVERY: u32 = 32;
/// DD in the second word of a descriptor that was written back (§7.2.2.3).
const DONE: u64 = 1 << 32;
/// Bytes of the shortest frame: a shorter one may stop the device for ever, which Linux's driver knows, too.
const SHORTEST: u32 = 17;
/// Bytes of the longest frame without its check sequence.
const LONGEST: u32 = 0x3f00 - 4;
const STEP: &str = "send";

impl<B: Backing> TxQueue<B> {
    pub(super) fn new(function: &Arc<Function<B>>, index: u8, options: TxOptions) -> Result<Self> {
        let place = Place {
            registers: regs::TX,
            index,
            entry: 2 * u32::from(index) + 1,
        };
        let ring = Ring::new(function, place, options.depth)?;
        let vector = options
            .interrupt
            .then(|| function.claim_vector(place.entry, usize::from(index)))
            .transpose()?;
        let mut queue = Self {
            slots: slots(ring.depth()),
            reports: VecDeque::with_capacity(usize::from(options.depth)),
            report: options.report,
            ring,
            vector,
            clean: 0,
            done: 0,
            tail: 0,
            rung: 0,
            unreported: 0,
            context: Offload::default(),
            watch: Watch::default(),
            has_failed: false,
        };
        queue.switch_on()?;
        Ok(queue)
    }

    fn switch_on(&mut self) -> Result<()> {
        if let Some(head) = self.ring.head() {
            head.store(0, Ordering::Relaxed);
        }
        let place = match self.report {
            Report::Head => self.ring.head_iova() | WRITE_HEAD,
            Report::Descriptor => 0,
        };
        let [a, b, c, d, e, f, g, h] = place.to_le_bytes();
        self.ring.write(queue::HEAD_HIGH, u32::from_le_bytes([e, f, g, h]));
        self.ring.write(queue::HEAD_LOW, u32::from_le_bytes([a, b, c, d]));
        self.ring
            .write(queue::TXCTL, self.ring.read(queue::TXCTL) & !regs::HEAD_RELAXED);
        self.ring.switch_on(self.report.control())
    }

    fn switch_off(&mut self) -> Result<()> {
        self.ring.switch_off()?;
        // The next driver may want it otherwise.
        self.ring.write(queue::HEAD_LOW, 0);
        Ok(())
    }

    /// How many descriptors are free; a frame takes one for each piece, and one more if it is [offloaded](Offload) otherwise than the one before.
    #[must_use]
    #[inline]
    pub fn room(&self) -> u32 {
        self.ring.depth() - 1 - self.ring.between(self.clean, self.tail)
    }

    /// Puts a frame in; the device does not know of it before the next [`ring`](Self::ring). The frame has its Ethernet header, and neither
    /// padding nor check sequence.
    ///
    /// # Errors
    ///
    /// The frame, when it is not taken: it has 17 to 16124 bytes.
    #[inline]
    pub fn push(&mut self, frame: Piece, offload: Offload) -> Result<(), Refused<1>> {
        match self.begin(std::slice::from_ref(&frame), offload) {
            Ok(data) => self.put_piece(data, frame, true),
            Err(why) => return Err(Refused { pieces: [frame], why }),
        }
        self.end();
        Ok(())
    }

    /// As [`push`](Self::push), for a frame of several pieces.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    #[inline]
    pub fn push_pieces<const N: usize>(&mut self, frame: [Piece; N], offload: Offload) -> Result<(), Refused<N>> {
        let data = match self.begin(&frame, offload) {
            Ok(data) => data,
            Err(why) => return Err(Refused { pieces: frame, why }),
        };
        for (at, piece) in frame.into_iter().enumerate() {
            self.put_piece(data, piece, at + 1 == N);
        }
        self.end();
        Ok(())
    }

    /// What all descriptors of a frame say, for which there is room.
    #[inline]
    fn begin(&mut self, frame: &[Piece], offload: Offload) -> Result<TxData, Why> {
        let data = TxData::of_frame(self.admit(frame, offload)?);
        if offload == Offload::default() {
            return Ok(data);
        }
        if self.needs_context(offload) {
            let [low, high] = offload.context();
            self.put(low, high, None);
            self.context = offload;
        }
        Ok(offload.apply(data))
    }

    #[inline]
    fn put_piece(&mut self, data: TxData, Piece { buffer, len }: Piece, is_end: bool) {
        let data = data.of_piece(len, is_end);
        self.put(buffer.iova().0, data.into_bits(), Some(buffer));
    }

    /// A frame is in.
    #[inline]
    fn end(&mut self) {
        if self.unreported >= REPORT_EVERY {
            self.ask_for_report();
        }
    }

    /// Lets the device report in the last descriptor that was put in. It has not been told of this one yet, so it can still be changed.
    fn ask_for_report(&mut self) {
        let index = self.ring.before(self.tail);
        let data = TxData::from_bits(self.ring.load(index, 1, Ordering::Relaxed));
        self.ring.store(index, 1, data.with_report(true).into_bits());
        self.reports.push_back(index);
        self.unreported = 0;
    }

    /// Whether the device has another context than this.
    #[inline]
    fn needs_context(&self, offload: Offload) -> bool {
        offload != Offload::default() && offload != self.context
    }

    #[inline]
    fn admit(&self, pieces: &[Piece], offload: Offload) -> Result<u32, Why> {
        // The function is asked once for each batch.
        if self.has_failed || self.rung == self.tail && !self.ring.is_working() {
            return Err(Why::Stopped);
        }
        let is_whole = |piece: &Piece| piece.len != 0 && usize::from(piece.len) <= piece.buffer.len();
        let len: u32 = pieces.iter().map(|piece| u32::from(piece.len)).sum();
        if !pieces.iter().all(is_whole) || !(SHORTEST..=LONGEST).contains(&len) || !offload.is_possible() {
            return Err(Why::Invalid);
        }
        let needed = u32::try_from(pieces.len())
            .unwrap_or(u32::MAX)
            .saturating_add(self.needs_context(offload).into());
        if self.room() < needed {
            return Err(self.no_room(needed));
        }
        Ok(len)
    }

    #[cold]
    fn no_room(&self, needed: u32) -> Why {
        if needed < self.ring.depth() {
            Why::Full
        } else {
            Why::Invalid
        }
    }

    /// There is room.
    #[inline]
    fn put(&mut self, low: u64, high: u64, buffer: Option<DmaBuffer<Both>>) {
        self.ring.fill(self.tail, low, high);
        if let Some(slot) = self.slots.get_mut(self.tail as usize) {
            *slot = buffer;
        }
        self.tail = self.ring.next(self.tail);
        self.unreported += 1;
    }

    /// Tells the device of all frames that were put in since: one register write, or none.
    #[inline]
    pub fn ring(&mut self) {
        if self.rung == self.tail {
            return;
        }
        if self.unreported > 0 {
            self.ask_for_report();
        }
        self.ring.write(queue::TAIL, self.tail);
        self.rung = self.tail;
    }

    /// Blocks until there is something to [`reap`](Self::reap), or the time is over, or the function is wanted back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without interrupts; those of [`reap`](Self::reap).
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Woken> {
        if !self.arm()? {
            return Ok(Woken::Signalled);
        }
        let event = self.event().ok_or_else(|| self.no_interrupt())?;
        self.ring.function.backing.wait(event, timeout)
    }

    /// Waits until there is something to [`reap`](Self::reap). `signals` are those of [`event`](Self::event).
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

    /// Lets the next report interrupt; `false` if something can be [reaped](Self::reap) already.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn arm(&mut self) -> Result<bool> {
        if self.clean != self.done || self.look()? {
            return Ok(false);
        }
        let vector = self.vector.ok_or_else(|| self.no_interrupt())?;
        self.watch()?;
        self.ring.function.arm(vector);
        // As in receiving, this only saves the way through the kernel.
        Ok(!self.look()?)
    }

    /// Signalled when the device has reported after [`arm`](Self::arm).
    #[must_use]
    pub fn event(&self) -> Option<&EventFd> {
        self.ring.function.event(self.vector?)
    }

    fn no_interrupt(&self) -> Error {
        let kind = ErrorKind::Unsupported("a queue without an interrupt can only be polled".into());
        self.ring.function.failed(STEP, kind)
    }

    /// Makes the queue work again after the port has recovered, and gives back what was in it: frames that may or may not have been sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Failed`] if the port has not recovered; [`ErrorKind::Timeout`] if the device does not let go of the queue.
    pub fn restart(&mut self) -> Result<Vec<DmaBuffer<Both>>> {
        // Until it works again nothing goes in.
        self.has_failed = true;
        self.switch_off()?;
        (self.clean, self.done, self.tail, self.rung) = (0, 0, 0, 0);
        self.unreported = 0;
        self.watch.calm();
        self.reports.clear();
        self.context = Offload::default();
        self.switch_on()?;
        self.has_failed = false;
        let buffers = std::mem::replace(&mut self.slots, slots(self.ring.depth()));
        Ok(buffers.into_iter().flatten().collect())
    }

    /// Switches the queue off and gives its buffers back.
    ///
    /// # Errors
    ///
    /// When nothing proves that the device has stopped; the buffers are kept from everybody then.
    pub fn stop(mut self) -> Result<Vec<DmaBuffer<Both>>> {
        self.switch_off()?;
        Ok(std::mem::take(&mut self.slots).into_iter().flatten().collect())
    }
}

impl<B: Backing> Drop for TxQueue<B> {
    fn drop(&mut self) {
        if let Err(error) = self.switch_off() {
            tracing::error!(%error, "a transmit queue stays on");
            self.ring.leak(std::mem::take(&mut self.slots));
        }
        if let Some(vector) = self.vector {
            self.ring.function.give_back_vector(self.ring.entry(), vector);
        }
    }
}
