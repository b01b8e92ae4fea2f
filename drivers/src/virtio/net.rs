//! Network cards (virtio 1.3 §5.1): one queue each way.

use super::layout::Kind;
use super::queue::{Piece, Queue, QueueOptions, Refused};
use super::ring::header;
use super::spec::NetFeatures;
use super::spec::net::{self, HEADER_LEN, Header};
use super::transport::Function;
use super::{owner, waiting};
use crate::wait::Signals;
use crate::{Backing, Error, ErrorKind, Presence, Result, Woken};
use iommu::buffer::{Both, DmaBuffer};
use std::sync::Arc;
use std::time::Duration;
use vfio_core::EventFd;

/// A network card. Its queues may be on other threads.
#[derive(Debug)]
pub struct Net<B: Backing> {
    function: Arc<Function<B>>,
}

/// How to open a network card.
#[derive(Debug, Clone, Copy)]
pub struct NetOptions {
    /// Buffers of each queue at most; fewer if the device has fewer.
    pub depth: u16,
    /// A frame that is received may take several buffers, so that they need not be as long as the longest one.
    pub mergeable: bool,
    /// The device fills checksums in, and hands on frames of its own host that have none, if it can. Otherwise all frames are whole.
    pub checksums: bool,
    /// Interrupts, for [`NetRx::wait`] and [`NetTx::wait`].
    pub interrupts: bool,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            depth: 256,
            mergeable: false,
            checksums: false,
            interrupts: false,
        }
    }
}

/// The queue of frames that are received. It belongs to one thread at a time.
#[derive(Debug)]
pub struct NetRx<B: Backing> {
    queue: Queue<B, DmaBuffer<Both>>,
    is_mergeable: bool,
    /// Bytes that each buffer needs.
    shortest: usize,
    /// Flags of a header that the device may set.
    flags: u8,
    /// Buffers of the frame that has begun.
    more: u16,
}

/// The queue of frames that are sent. It belongs to one thread at a time.
#[derive(Debug)]
pub struct NetTx<B: Backing> {
    queue: Queue<B, DmaBuffer<Both>>,
    fills_checksums: bool,
}

/// A frame, or a part of one.
#[derive(Debug)]
pub struct Received {
    /// It is in here, from [`start`](Self::start) on.
    pub buffer: DmaBuffer<Both>,
    /// Its first byte: in the first buffer of a frame the header is before it.
    pub start: usize,
    /// Bytes of it here.
    pub len: usize,
    /// How many buffers of this frame follow.
    pub more: u16,
    /// What the device found out; of further buffers nothing. The place of a checksum may be in one of them, or behind the frame.
    pub header: Header,
}

/// A frame that is to be sent.
#[derive(Debug)]
pub struct Frame {
    /// It is in here.
    pub buffer: DmaBuffer<Both>,
    /// Its first byte.
    pub start: usize,
    /// Bytes of it.
    pub len: usize,
    /// The default says that it is whole; [`net::NEEDS_CSUM`] that the device fills in its checksum.
    pub header: Header,
}

/// What is around the bytes that an MTU counts: header, addresses, type.
const AROUND: usize = HEADER_LEN + 14;
/// The least MTU that buffers are for (§5.1.6.3.1).
const MTU: u16 = 1500;
/// The shortest buffer of one frame of several.
const PART: usize = 64;
const RX: u16 = 0;
const TX: u16 = 1;
const RECEIVE: &str = "receive";

impl<B: Backing> Net<B> {
    /// Takes over a network card, and makes a queue each way.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for another device, or one that bypasses the IOMMU; those of the [`Backing`].
    pub fn open(backing: B, options: NetOptions) -> Result<(Self, NetRx<B>, NetTx<B>)> {
        let mut wanted = NetFeatures::MAC | NetFeatures::STATUS | NetFeatures::MTU;
        wanted.set(NetFeatures::MRG_RXBUF, options.mergeable);
        wanted.set(NetFeatures::CSUM | NetFeatures::GUEST_CSUM, options.checksums);
        let vectors = if options.interrupts { 2 } else { 0 };
        let function = Arc::new(Function::open(backing, Kind::Network, wanted.bits(), vectors)?);
        let has = |feature: NetFeatures| function.features() & feature.bits() != 0;
        let of = |pieces, room| QueueOptions {
            depth: options.depth,
            pieces,
            room,
            interrupt: options.interrupts,
        };
        let is_mergeable = has(NetFeatures::MRG_RXBUF);
        // A frame of the network's MTU has to fit in (§5.1.4.2).
        let longest = match has(NetFeatures::MTU) {
            true => MTU.max(function.config(|function| function.config_u16(net::MTU))?),
            false => MTU,
        };
        let rx = NetRx {
            queue: Queue::new(&function, RX, of(1, 0))?,
            is_mergeable,
            shortest: if is_mergeable {
                PART
            } else {
                AROUND + usize::from(longest)
            },
            flags: if has(NetFeatures::GUEST_CSUM) {
                net::NEEDS_CSUM | net::DATA_VALID
            } else {
                0
            },
            more: 0,
        };
        // A header of its own for each frame.
        let tx = NetTx {
            queue: Queue::new(&function, TX, of(2, HEADER_LEN.next_multiple_of(8)))?,
            fills_checksums: has(NetFeatures::CSUM),
        };
        function.run()?;
        Ok((Self { function }, rx, tx))
    }

    /// Its address, if it says one.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn mac(&self) -> Result<Option<[u8; 6]>> {
        self.fact(NetFeatures::MAC, |function| {
            let mut address = [0; 6];
            for (byte, offset) in address.iter_mut().zip(net::MAC..) {
                *byte = function.config_u8(offset)?;
            }
            Some(address)
        })
    }

    /// Whether the link is up. A device that cannot tell is always connected.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn is_link_up(&self) -> Result<bool> {
        let status = self.fact(NetFeatures::STATUS, |function| function.config_u16(net::STATUS))?;
        Ok(status.is_none_or(|status| status & net::LINK_UP != 0))
    }

    /// The longest frame of its network without addresses and type, in bytes, if it says that.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn mtu(&self) -> Result<Option<u16>> {
        self.fact(NetFeatures::MTU, |function| function.config_u16(net::MTU))
    }

    fn fact<T>(&self, feature: NetFeatures, read: impl Fn(&Function<B>) -> Option<T>) -> Result<Option<T>> {
        if self.function.features() & feature.bits() == 0 {
            return self.function.check().map(|()| None);
        }
        self.function.config(read).map(Some)
    }

    owner!();
}

impl<B: Backing> NetRx<B> {
    /// Whether a frame may take several buffers.
    #[must_use]
    pub fn is_mergeable(&self) -> bool {
        self.is_mergeable
    }

    /// Bytes that every buffer needs: 1526, or more for a network of longer frames; 64 if a frame may take several buffers.
    #[must_use]
    pub fn shortest(&self) -> usize {
        self.shortest
    }

    /// Puts an empty buffer in, which is not too [short](Self::shortest); the device does not know before [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// With the buffer: [`ErrorKind::Invalid`] if it is too short; [`ErrorKind::Busy`] when the queue is full; [`ErrorKind::Gone`] also when the
    /// device is wanted back.
    #[expect(
        clippy::result_large_err,
        reason = "the buffer comes back without another allocation"
    )]
    #[inline]
    pub fn post(&mut self, buffer: DmaBuffer<Both>) -> Result<(), Refused<DmaBuffer<Both>>> {
        if buffer.len() < self.shortest {
            let error = self.queue.invalid("a buffer that is shorter than a frame");
            return Err(Refused { payload: buffer, error });
        }
        let piece = Piece {
            address: buffer.iova().0,
            len: u32::try_from(buffer.len()).unwrap_or(u32::MAX),
            is_written: true,
        };
        self.queue.push(buffer, std::iter::once(piece)).map(drop)
    }

    /// Tells the device of all buffers that were put in since.
    #[inline]
    pub fn kick(&mut self) {
        self.queue.kick();
    }

    /// Takes a buffer that the device has filled; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// Once there is nothing to take: [`ErrorKind::Failed`] when the device says so, or has written what makes no sense; [`ErrorKind::Gone`]
    /// when it is, or is wanted back.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Received>> {
        let Some(done) = self.queue.pop()? else {
            return match self.queue.function.backing.removal().presence() {
                Presence::Present => Ok(None),
                _ => Err(self.queue.function.why_not(RECEIVE)),
            };
        };
        let len = usize::try_from(done.len).unwrap_or(usize::MAX);
        if self.more > 0 {
            self.more -= 1;
            return Ok(Some(Received {
                buffer: done.payload,
                start: 0,
                len,
                more: self.more,
                header: Header::default(),
            }));
        }
        let found = header::<Header>(&done.payload).filter(|_| len >= HEADER_LEN);
        let Some(mut header) = found else {
            return Err(self.nonsense(done.payload, "a frame without its header"));
        };
        // What was not settled is 0, whatever the device writes.
        header.flags &= self.flags;
        header.segmentation = 0;
        // Without MRG_RXBUF it is 1 (§5.1.6.4).
        let buffers = if self.is_mergeable { header.buffers.get() } else { 1 };
        // What follows was put in before.
        if buffers == 0 || usize::from(buffers) > self.queue.in_flight() + 1 {
            return Err(self.nonsense(done.payload, "a frame in no buffers, or in more than it has"));
        }
        let checksum = usize::from(header.checksum_start.get()) + usize::from(header.checksum_offset.get()) + 2;
        if header.flags & net::NEEDS_CSUM != 0 && buffers == 1 && checksum > len - HEADER_LEN {
            return Err(self.nonsense(done.payload, "a checksum outside its frame"));
        }
        self.more = buffers - 1;
        Ok(Some(Received {
            buffer: done.payload,
            start: HEADER_LEN,
            len: len - HEADER_LEN,
            more: self.more,
            header,
        }))
    }

    /// The device is done with the buffer, but not right.
    #[cold]
    fn nonsense(&self, buffer: DmaBuffer<Both>, text: &'static str) -> Error {
        self.queue.function.keep(buffer);
        self.queue.function.broken(RECEIVE, text)
    }

    /// All buffers that are in it, once the device was [stopped](Net::stop).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] before that.
    pub fn take_back(&mut self) -> Result<Vec<DmaBuffer<Both>>> {
        self.queue.take_back()
    }

    waiting!();
}

impl<B: Backing> NetTx<B> {
    /// Puts a frame in; the device does not know before [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// With the buffer: [`ErrorKind::Invalid`] if the frame is not in it; [`ErrorKind::Busy`] when the queue is full; [`ErrorKind::Unsupported`]
    /// if the device fills no checksums in; [`ErrorKind::Gone`] also when it is wanted back.
    #[expect(
        clippy::result_large_err,
        reason = "the buffer comes back without another allocation"
    )]
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<(), Refused<DmaBuffer<Both>>> {
        let pieces = self.check(&frame).and_then(|len| {
            let slot = self.queue.check_open()?;
            let ring = &self.queue.ring;
            ring.write_room(slot, 0, &frame.header);
            let header = Piece {
                address: ring.room_iova(slot, 0),
                len: u32::try_from(HEADER_LEN).unwrap_or(u32::MAX),
                is_written: false,
            };
            let body = Piece {
                address: frame.buffer.iova().0 + frame.start as u64,
                len,
                is_written: false,
            };
            Ok([header, body])
        });
        match pieces {
            Ok(pieces) => self.queue.push(frame.buffer, pieces.into_iter()).map(drop),
            Err(error) => Err(Refused {
                payload: frame.buffer,
                error,
            }),
        }
    }

    fn check(&self, frame: &Frame) -> Result<u32> {
        let end = frame.start.checked_add(frame.len);
        let is_inside = end.is_some_and(|end| end <= frame.buffer.len());
        let len = u32::try_from(frame.len).ok().filter(|len| is_inside && *len != 0);
        let len = len.ok_or_else(|| self.queue.invalid("a frame of no bytes, or outside its buffer"))?;
        let header = &frame.header;
        if header.flags & !net::NEEDS_CSUM != 0 || header.segmentation != 0 || header.buffers != 0 {
            return Err(self.queue.invalid("a header that asks for more than a checksum"));
        }
        if header.flags == 0 {
            return Ok(len);
        }
        if !self.fills_checksums {
            let kind = ErrorKind::Unsupported("checksums that the device fills in".into());
            return Err(self.queue.function.failed("send", kind));
        }
        let place = u32::from(header.checksum_start.get()) + u32::from(header.checksum_offset.get()) + 2;
        if place > len {
            return Err(self.queue.invalid("a checksum outside its frame"));
        }
        Ok(len)
    }

    /// Tells the device of all frames that were put in since.
    #[inline]
    pub fn kick(&mut self) {
        self.queue.kick();
    }

    /// Takes the buffer of a frame that was sent; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// Once there is nothing to take: [`ErrorKind::Failed`] when the device says so, or has written what makes no sense; [`ErrorKind::Gone`].
    #[inline]
    pub fn reap(&mut self) -> Result<Option<DmaBuffer<Both>>> {
        Ok(self.queue.pop()?.map(|done| done.payload))
    }

    /// All buffers that are in it, once the device was [stopped](Net::stop).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] before that.
    pub fn take_back(&mut self) -> Result<Vec<DmaBuffer<Both>>> {
        self.queue.take_back()
    }

    waiting!();
}
