//! What receive and transmit queues have in common: a ring of descriptors, switched on and off.
//!
//! Follows the 82576 datasheet §4.5.9 and §4.5.10 (initialization of queues), which also say when their memory can be taken back.

use super::function::Function;
use super::regs::{self, queue};
use super::spec::DESCRIPTOR_LEN;
use crate::backing::poll_until;
use crate::{Backing, ErrorKind, Result};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use vfio_core::Words;

/// Descriptors, and the registers by which the device is told of them.
#[derive(Debug)]
pub(super) struct Ring<B: Backing> {
    pub(super) function: Arc<Function<B>>,
    /// The descriptors, and in a line of its own a word for the head.
    memory: Arc<DmaBuffer<Both>>,
    /// The same memory, eight bytes each.
    words: Words,
    /// Offset of the queue's registers.
    registers: usize,
    depth: u32,
    /// Its bit among the queues that exist.
    bit: u32,
    /// Of the function, when the queue was switched on.
    epoch: u32,
    /// Whether the device may use the memory.
    is_on: bool,
}

/// Which ring of the function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// [`regs::RX`] or [`regs::TX`].
    pub(super) registers: usize,
    pub(super) index: u8,
    /// Entry in VTIVAR.
    pub(super) entry: u32,
}

/// Bytes of a cache line.
const LINE: usize = 64;
/// How long a queue takes to go on or off.
const SWITCHED: Duration = Duration::from_millis(100);
/// How long after that a write may still be under way.
const UNDER_WAY: Duration = Duration::from_micros(100);
const DEPTHS: std::ops::RangeInclusive<u16> = 32..=4096;

impl<B: Backing> Ring<B> {
    /// Memory for a queue that is off.
    pub(super) fn new(function: &Arc<Function<B>>, place: Place, depth: u16) -> Result<Self> {
        const STEP: &str = "make a queue";
        if place.index >= regs::QUEUES {
            let kind = ErrorKind::Invalid("a virtual function has the queues 0 and 1".into());
            return Err(function.failed(STEP, kind));
        }
        if !depth.is_power_of_two() || !DEPTHS.contains(&depth) {
            let kind = ErrorKind::Invalid("a queue has 32 to 4096 descriptors, a power of two".into());
            return Err(function.failed(STEP, kind));
        }
        let len = usize::from(depth) * DESCRIPTOR_LEN + LINE;
        let memory = DmaBuffer::new(function.backing.space(), len, &BufferOptions::default());
        let memory = memory.map_err(|error| function.failed(STEP, error.into()))?;
        let Some(words) = memory.words() else {
            let kind = ErrorKind::Unsupported("memory that is not aligned".into());
            return Err(function.failed(STEP, kind));
        };
        let bit = 1 << place.entry;
        function.take(bit, STEP)?;
        Ok(Self {
            function: Arc::clone(function),
            memory: Arc::new(memory),
            words,
            registers: place.registers + regs::QUEUE_STRIDE * usize::from(place.index),
            depth: depth.into(),
            bit,
            epoch: function.epoch(),
            is_on: false,
        })
    }

    /// Its entry in VTIVAR.
    pub(super) fn entry(&self) -> u32 {
        self.bit.trailing_zeros()
    }

    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// The index after this one.
    #[inline]
    pub(super) fn next(&self, index: u32) -> u32 {
        (index + 1) & (self.depth - 1)
    }

    /// The index before this one.
    #[inline]
    pub(super) fn before(&self, index: u32) -> u32 {
        index.wrapping_sub(1) & (self.depth - 1)
    }

    /// How many descriptors lie from one index up to another.
    #[inline]
    pub(super) fn between(&self, from: u32, to: u32) -> u32 {
        to.wrapping_sub(from) & (self.depth - 1)
    }

    /// The words of a descriptor.
    #[inline]
    fn descriptor(&self, index: u32) -> Option<&[AtomicU64; DESCRIPTOR_LEN / size_of::<u64>()]> {
        self.words.as_chunks().0.get(index as usize)
    }

    /// Word 0 or 1 of it.
    #[inline]
    fn word(&self, index: u32, word: usize) -> Option<&AtomicU64> {
        self.descriptor(index)?.get(word)
    }

    #[inline]
    pub(super) fn load(&self, index: u32, word: usize, order: Ordering) -> u64 {
        self.word(index, word).map_or(0, |word| u64::from_le(word.load(order)))
    }

    /// Relaxed: the device looks at a descriptor only after the tail was written, which no store passes.
    #[inline]
    pub(super) fn store(&self, index: u32, word: usize, value: u64) {
        if let Some(word) = self.word(index, word) {
            word.store(value.to_le(), Ordering::Relaxed);
        }
    }

    /// Stores both words.
    #[inline]
    pub(super) fn fill(&self, index: u32, low: u64, high: u64) {
        if let Some([first, second]) = self.descriptor(index) {
            first.store(low.to_le(), Ordering::Relaxed);
            second.store(high.to_le(), Ordering::Relaxed);
        }
    }

    /// Where the device writes its head.
    #[inline]
    pub(super) fn head(&self) -> Option<&AtomicU32> {
        self.memory.atomic_u32(self.depth as usize * DESCRIPTOR_LEN)
    }

    /// IOVA of that.
    pub(super) fn head_iova(&self) -> u64 {
        self.memory.iova().0 + u64::from(self.depth) * DESCRIPTOR_LEN as u64
    }

    pub(super) fn read(&self, register: usize) -> u32 {
        self.function.read(self.registers + register)
    }

    #[inline]
    pub(super) fn write(&self, register: usize, value: u32) {
        self.function.write(self.registers + register, value);
    }

    /// Switches the queue on, empty. `control` are further bits of its control register.
    pub(super) fn switch_on(&mut self, control: u32) -> Result<()> {
        const STEP: &str = "switch a queue on";
        self.epoch = self.function.begin(STEP)?;
        let base = self.memory.iova().0.to_le_bytes();
        let [a, b, c, d, e, f, g, h] = base;
        self.write(queue::BASE_LOW, u32::from_le_bytes([a, b, c, d]));
        self.write(queue::BASE_HIGH, u32::from_le_bytes([e, f, g, h]));
        self.write(
            queue::LEN,
            self.depth * u32::try_from(DESCRIPTOR_LEN).unwrap_or(u32::MAX),
        );
        self.write(queue::HEAD, 0);
        self.write(queue::TAIL, 0);
        self.is_on = true;
        self.write(queue::CONTROL, regs::ENABLE | control);
        self.await_enable(true, STEP)
    }

    /// Switches the queue off and waits until the device has let go of the memory.
    ///
    /// # Errors
    ///
    /// When nothing proves that it has: the memory must be kept then.
    pub(super) fn switch_off(&mut self) -> Result<()> {
        const STEP: &str = "switch a queue off";
        if !self.is_on {
            return Ok(());
        }
        let control = match self.read(queue::CONTROL) {
            // The function does not answer: nothing of it is to be written back.
            u32::MAX => 0,
            control => control & !regs::ENABLE,
        };
        self.write(queue::CONTROL, control);
        if let Err(error) = self.await_enable(false, STEP) {
            tracing::warn!(%error, "the function is made quiet instead");
            self.function.quiesce()?;
        }
        self.is_on = false;
        Ok(())
    }

    fn await_enable(&self, on: bool, step: &'static str) -> Result<()> {
        let backing = &self.function.backing;
        let switched = poll_until(backing, SWITCHED, || {
            let control = self.read(queue::CONTROL);
            // All ones: the function does not answer, which says nothing.
            let is_switched = control != u32::MAX && (control & regs::ENABLE != 0) == on;
            Ok(is_switched.then_some(()))
        })?;
        if switched.is_none() {
            return Err(self.function.failed(step, ErrorKind::Timeout(SWITCHED)));
        }
        if !on {
            poll_until(backing, UNDER_WAY, || Ok(None::<()>))?;
        }
        Ok(())
    }

    /// Whether the queue works and is wanted.
    #[inline]
    pub(super) fn is_working(&self) -> bool {
        self.function.is_working(self.epoch)
    }

    /// The same, with why not.
    #[inline]
    pub(super) fn check(&self, step: &'static str) -> Result<()> {
        self.function.check(self.epoch, step)
    }

    /// Keeps the memory for ever, together with what the descriptors point to.
    pub(super) fn leak(&self, buffers: Box<[Option<DmaBuffer<Both>>]>) {
        tracing::error!("a device that cannot be stopped keeps a queue and its buffers");
        std::mem::forget((Arc::clone(&self.memory), buffers));
    }
}

impl<B: Backing> Drop for Ring<B> {
    fn drop(&mut self) {
        self.function.give_back(self.bit);
    }
}

/// A slot for each descriptor.
pub(super) fn slots(depth: u32) -> Box<[Option<DmaBuffer<Both>>]> {
    (0..depth).map(|_| None).collect()
}
