//! A split queue as its driver uses it (virtio 1.3 §2.7): requests go in, are told to the device together, and come back in any order.
//!
//! What the device says is checked: an index that goes too far, a chain that it does not have, more bytes than it was given. The first of
//! these ends the device, whose memory and buffers stay where they are until it has stopped.

mod wait;

use super::ring::{Places, Ring};
use super::spec::{Descriptor, Features, ring};
use super::transport::Function;
use crate::{Backing, Error, ErrorKind, Result};
use iommu::buffer::{BufferOptions, DmaBuffer};
use std::fmt::Debug;
use std::sync::Arc;
use vfio_core::fence;

/// A queue of requests with `T` each. It belongs to one thread at a time.
#[derive(Debug)]
pub(super) struct Queue<B: Backing, T: Debug + Send + 'static> {
    pub(super) function: Arc<Function<B>>,
    pub(super) ring: Ring,
    /// What is in flight.
    slots: Box<[Option<InFlight<T>>]>,
    /// Slots with nothing in flight.
    free: Vec<u16>,
    shape: Shape,
    index: u16,
    notify: usize,
    vector: Option<u16>,
    has_event_index: bool,
    /// Index of the next chain that goes in.
    next: u16,
    /// Up to which the device was told.
    published: u16,
    /// Index of the next chain that comes back.
    done: u16,
    /// How far the device was when it was last asked.
    seen: u16,
    /// How often nothing was found since the device was asked whether it works.
    fruitless: u32,
}

#[derive(Debug)]
struct InFlight<T> {
    payload: T,
    /// Bytes that the device may write.
    writable: u32,
}

/// How requests become chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One descriptor each.
    Single,
    /// One descriptor each, which points to a table of at most so many.
    Table(u16),
    /// So many descriptors each, one behind the other.
    Chain(u16),
}

/// How to make a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueOptions {
    /// Requests at most; rounded to a power of two, and down to what the device has.
    pub(super) depth: u16,
    /// Pieces of a request at most.
    pub(super) pieces: u16,
    /// Bytes of the driver's own for each request: a multiple of 8.
    pub(super) room: usize,
    pub(super) interrupt: bool,
}

/// A piece of a request: memory that the device reads or writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) is_written: bool,
}

/// A request that has come back.
#[derive(Debug)]
pub(super) struct Done<T> {
    pub(super) slot: u16,
    pub(super) payload: T,
    /// Bytes that the device says it has written.
    pub(super) len: u32,
}

/// A request that did not go in, with what was to go.
#[derive(Debug)]
pub struct Refused<T> {
    /// What was to go.
    pub payload: T,
    /// Why it did not.
    pub error: Error,
}

/// Fruitless looks at memory before the device's status is read: a read of a register is a thousand times as slow.
const PATIENCE: u32 = 4096;
const SUBMIT: &str = "submit a request";
const COMPLETE: &str = "take a completion";

impl<B: Backing, T: Debug + Send + 'static> Queue<B, T> {
    /// Makes a queue of a device that does not run yet.
    pub(super) fn new(function: &Arc<Function<B>>, index: u16, options: QueueOptions) -> Result<Self> {
        const STEP: &str = "make a queue";
        let vector = if options.interrupt {
            function.vector(index)?
        } else {
            None
        };
        let has_event_index = function.has(Features::EVENT_IDX);
        let mut made = None;
        let notify = function.add_queue(index, vector, |most| {
            let too_short = || {
                function.failed(
                    STEP,
                    ErrorKind::Unsupported("a queue that is too short for a request".into()),
                )
            };
            // A size that is no power of two would be the device's mistake (§4.1.4.3); what is below it is one.
            let most = 1 << most.min(ring::MAX_SIZE).ilog2();
            if options.pieces > most {
                return Err(too_short());
            }
            let shape = match options.pieces {
                ..=1 => Shape::Single,
                pieces if function.has(Features::INDIRECT_DESC) => Shape::Table(pieces),
                pieces => Shape::Chain(pieces),
            };
            let (wanted, table) = match shape {
                Shape::Single => (options.depth, 0),
                // A chain is never longer than its queue, not even in a table (§2.7.5.3.1).
                Shape::Table(pieces) => (options.depth.max(pieces), pieces),
                Shape::Chain(pieces) => (options.depth.saturating_mul(pieces), 0),
            };
            let size = wanted
                .clamp(1, most)
                .checked_next_power_of_two()
                .unwrap_or(most)
                .min(most);
            let places = Places::new(size, table, options.room);
            let memory = DmaBuffer::new(function.backing.space(), places.len, &BufferOptions::default());
            let memory = Arc::new(memory.map_err(|error| function.failed(STEP, error.into()))?);
            // Held beyond the queue, until the device has stopped.
            function.keep(Arc::clone(&memory));
            let ring = Ring::new(memory, places);
            let addresses = ring.addresses();
            made = Some((ring, shape, size / shape.stride()));
            Ok((size, addresses))
        })?;
        let missing = || function.failed(STEP, ErrorKind::Unsupported("a queue without memory".into()));
        let (ring, shape, count) = made.ok_or_else(missing)?;
        let queue = Self {
            function: Arc::clone(function),
            ring,
            slots: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
            shape,
            index,
            notify,
            vector,
            has_event_index,
            next: 0,
            published: 0,
            done: 0,
            seen: 0,
            fruitless: 0,
        };
        queue.disarm();
        // Behind the first chain: nothing is told before somebody waits.
        queue.ring.set_used_event(u16::MAX);
        Ok(queue)
    }

    /// How many requests can go in.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    /// How many are in it.
    #[inline]
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slot that the next request will have; or why nothing can go in.
    #[inline]
    pub(super) fn check_open(&self) -> Result<u16> {
        if !self.function.is_open() {
            return Err(self.function.why_not(SUBMIT));
        }
        self.free
            .last()
            .copied()
            .ok_or_else(|| self.function.failed(SUBMIT, ErrorKind::Busy))
    }

    /// Puts a request in; the device does not know before [`kick`](Self::kick). What the device reads comes before what it writes.
    #[inline]
    pub(super) fn push(&mut self, payload: T, pieces: impl Iterator<Item = Piece>) -> Result<u16, Refused<T>> {
        match self.check_open().and_then(|slot| Ok((slot, self.write(slot, pieces)?))) {
            Ok((slot, writable)) => {
                self.commit(slot, payload, writable);
                Ok(slot)
            }
            Err(error) => Err(Refused { payload, error }),
        }
    }

    /// The second half of a [`push`](Self::push): the slot that [`check_open`](Self::check_open) gave was [written](Self::write).
    #[inline]
    pub(super) fn commit(&mut self, slot: u16, payload: T, writable: u32) {
        self.free.pop();
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Some(InFlight { payload, writable });
        }
        self.ring.offer(self.next, slot * self.shape.stride());
        self.next = self.next.wrapping_add(1);
    }

    /// Writes the descriptors of a slot, and counts what may be written. The device looks at none of them yet.
    #[inline]
    pub(super) fn write(&self, slot: u16, pieces: impl Iterator<Item = Piece>) -> Result<u32> {
        let (start, first, most) = match self.shape {
            Shape::Single => (0, slot, 1),
            Shape::Table(most) => (self.ring.table(slot), 0, most),
            Shape::Chain(most) => (0, slot * most, most),
        };
        let (mut count, mut writable, mut all) = (0, 0_u32, 0_u32);
        let mut pieces = pieces.peekable();
        while let Some(piece) = pieces.next() {
            if count == most {
                return Err(self.invalid("a request of more pieces than the queue was made for"));
            }
            // §2.7.5.2: no chain of more than 2³² bytes, read and written.
            let sum = all.checked_add(piece.len);
            all = sum.ok_or_else(|| self.invalid("a request of 4 GiB"))?;
            if piece.is_written {
                // No more than all.
                writable = writable.saturating_add(piece.len);
            }
            let mut flags = if piece.is_written { ring::WRITE } else { 0 };
            if pieces.peek().is_some() {
                flags |= ring::NEXT;
            }
            let descriptor = Descriptor {
                address: piece.address.into(),
                len: piece.len.into(),
                flags: flags.into(),
                next: (first + count + 1).into(),
            };
            self.ring.write_descriptor(start, first + count, descriptor);
            count += 1;
        }
        if count == 0 {
            return Err(self.invalid("a request of no bytes"));
        }
        if let Shape::Table(_) = self.shape {
            self.ring.write_indirect(slot, start, count);
        }
        Ok(writable)
    }

    /// Tells the device of all requests that went in since: one write of a register, or none if it looks by itself.
    #[inline]
    pub(super) fn kick(&mut self) {
        if self.published == self.next {
            return;
        }
        self.ring.publish(self.next);
        // What the device wants is read after it can see the index: it looks at the index again after it has said what it wants.
        fence::dma();
        let is_wanted = if self.has_event_index {
            let new = self.next.wrapping_sub(self.published);
            let behind = self.next.wrapping_sub(self.ring.available_event()).wrapping_sub(1);
            behind < new
        } else {
            self.ring.device_flags() & ring::NO_NOTIFY == 0
        };
        self.published = self.next;
        if is_wanted && self.function.alive(SUBMIT).is_ok() {
            self.function.notify(self.notify, self.index);
        }
    }

    /// Takes a request that has come back; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Once there is nothing to take: when the device has failed, or is gone.
    #[inline]
    pub(super) fn pop(&mut self) -> Result<Option<Done<T>>> {
        if self.done == self.seen && !self.look()? {
            self.fruitless += 1;
            if self.fruitless < PATIENCE {
                return self.function.alive(COMPLETE).map(|()| None);
            }
            self.fruitless = 0;
            return self.function.check().map(|()| None);
        }
        self.fruitless = 0;
        let (id, len) = self.ring.used(self.done);
        let stride = self.shape.stride();
        let head = u16::try_from(id).ok().filter(|head| head % stride == 0);
        let slot = head.map(|head| head / stride);
        let place = slot.and_then(|slot| Some((slot, self.slots.get_mut(usize::from(slot))?)));
        let Some((slot, place)) = place else {
            return Err(self.nonsense(format!("it is done with a chain {id} that is none")));
        };
        match place.take() {
            Some(InFlight { payload, writable }) if len <= writable => {
                self.free.push(slot);
                self.done = self.done.wrapping_add(1);
                Ok(Some(Done { slot, payload, len }))
            }
            Some(kept) => {
                let text = format!("it has written {len} bytes into {}", kept.writable);
                *place = Some(kept);
                Err(self.nonsense(text))
            }
            None => Err(self.nonsense(format!("it is done with chain {id}, which it does not have"))),
        }
    }

    /// Whether the device is further than what was taken.
    #[inline]
    fn look(&mut self) -> Result<bool> {
        let index = self.ring.used_index();
        let new = index.wrapping_sub(self.done);
        if new > self.published.wrapping_sub(self.done) {
            // A stopped device's memory says nothing.
            self.function.alive(COMPLETE)?;
            return Err(self.nonsense(format!("it is done with {new} chains, which is more than it has")));
        }
        self.seen = index;
        Ok(new != 0)
    }

    #[cold]
    fn nonsense(&self, text: String) -> Error {
        self.function.broken(COMPLETE, text)
    }

    /// What is still in flight, once the device was stopped.
    pub(super) fn take_back(&mut self) -> Result<Vec<T>> {
        if !self.function.is_quiet() {
            return Err(self.invalid_to("take requests back", "the device has not been stopped"));
        }
        let mut all = Vec::with_capacity(self.in_flight());
        for (slot, place) in (0..).zip(&mut self.slots) {
            if let Some(in_flight) = place.take() {
                all.push(in_flight.payload);
                self.free.push(slot);
            }
        }
        // What the device said of them before does not matter any more.
        (self.published, self.done, self.seen) = (self.next, self.next, self.next);
        Ok(all)
    }

    pub(super) fn invalid(&self, text: &'static str) -> Error {
        self.invalid_to(SUBMIT, text)
    }

    fn invalid_to(&self, step: &'static str, text: &'static str) -> Error {
        self.function.failed(step, ErrorKind::Invalid(text.into()))
    }
}

impl Shape {
    /// Descriptors of the queue for each request.
    #[inline]
    fn stride(self) -> u16 {
        match self {
            Self::Single | Self::Table(_) => 1,
            Self::Chain(pieces) => pieces,
        }
    }
}

impl<B: Backing, T: Debug + Send + 'static> Drop for Queue<B, T> {
    fn drop(&mut self) {
        // The device may have what is in flight until it is stopped, and others may still use it.
        if !self.function.is_quiet() && self.in_flight() > 0 {
            self.function.keep(std::mem::take(&mut self.slots));
        }
    }
}
