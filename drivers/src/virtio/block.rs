//! Disks (virtio 1.3 §5.2).

use super::data::{Data, segments};
use super::layout::Kind;
use super::queue::{Done, Piece, Queue, QueueOptions, Refused};
use super::spec::BlockFeatures;
use super::spec::block::{self, Header, Range, SECTOR};
use super::transport::Function;
use super::{owner, waiting};
use crate::wait::Signals;
use crate::{Backing, ErrorKind, Result, Woken};
use std::sync::Arc;
use std::time::Duration;
use vfio_core::{Access, EventFd};

/// A disk. Its queues may be on other threads.
#[derive(Debug)]
pub struct Block<B: Backing> {
    function: Arc<Function<B>>,
    limits: Limits,
}

/// How to open a disk.
#[derive(Debug, Clone, Copy)]
pub struct BlockOptions {
    /// Queues, for a thread each; fewer if the device has fewer.
    pub queues: u16,
    /// Requests of each queue at most; fewer if the device has fewer.
    pub depth: u16,
    /// Pieces that a request's data may be in; fewer if the device takes fewer.
    pub pieces: u16,
    /// Interrupts, for [`BlockQueue::wait`].
    pub interrupts: bool,
}

impl Default for BlockOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            depth: 128,
            pieces: 8,
            interrupts: false,
        }
    }
}

/// What a disk takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sectors of 512 bytes.
    pub capacity: u64,
    /// Bytes of a block: what is best aligned to it.
    pub block_size: u32,
    /// Pieces of a request's data.
    pub pieces: u16,
    /// Bytes of a piece.
    pub piece_len: u32,
    /// It cannot be written.
    pub is_read_only: bool,
    /// It has a cache: what was written lasts after [`Request::Flush`] only.
    pub has_cache: bool,
    /// Sectors of a [`Request::Discard`]; 0 if it has none.
    pub discard: u32,
    /// Sectors of a [`Request::WriteZeroes`]; 0 if it has none.
    pub write_zeroes: u32,
}

/// What is asked of a disk. Positions and counts are in sectors of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Reads into all of the data.
    Read {
        /// The first one.
        sector: u64,
    },
    /// Writes all of the data.
    Write {
        /// The first one.
        sector: u64,
    },
    /// Makes everything last that was written before this was submitted. Without data.
    Flush,
    /// What is there does not matter any more. Without data.
    Discard {
        /// The first one.
        sector: u64,
        /// How many.
        sectors: u32,
    },
    /// Writes zeroes. Without data.
    WriteZeroes {
        /// The first one.
        sector: u64,
        /// How many.
        sectors: u32,
        /// The device may free what it was kept in.
        unmap: bool,
    },
    /// Reads the disk's name into the data, which has 20 bytes: ASCII, with zeroes behind it.
    Identify,
}

/// One queue of a disk. It belongs to one thread at a time.
#[derive(Debug)]
pub struct BlockQueue<B: Backing, T: Data> {
    queue: Queue<B, (Option<T>, Request)>,
    limits: Limits,
}

/// A request that has come back.
#[derive(Debug)]
pub struct Completed<T> {
    /// What it was.
    pub request: Request,
    /// Its number, as [`BlockQueue::submit`] gave it.
    pub tag: u16,
    /// Its data.
    pub data: Option<T>,
    /// [`ErrorKind::Refused`] with the device's status.
    pub result: Result<()>,
}

/// Places in the driver's own room of each request.
const HEADER: usize = 0;
const RANGE: usize = 16;
const STATUS: usize = 32;
const ROOM: usize = 64;
/// No status of a device.
const UNWRITTEN: u8 = 0xff;
const REQUEST: &str = "request to a disk";

impl<B: Backing> Block<B> {
    /// Takes over a disk, and makes its queues.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for another device, or one that bypasses the IOMMU; those of the [`Backing`].
    pub fn open<T: Data>(backing: B, options: BlockOptions) -> Result<(Self, Vec<BlockQueue<B, T>>)> {
        let wanted = options.queues.max(1);
        let vectors = if options.interrupts { wanted } else { 0 };
        let function = Function::open(backing, Kind::Block, BlockFeatures::all().bits(), vectors)?;
        let has = |feature: BlockFeatures| function.features() & feature.bits() != 0;
        let there = if has(BlockFeatures::MQ) {
            function.config_u16(block::QUEUES)
        } else {
            1
        };
        let limits = function.config(|function| Limits::read(function, options.pieces))?;
        let function = Arc::new(function);
        let options = QueueOptions {
            depth: options.depth,
            // And a header, and the status; a range is a piece, too.
            pieces: limits.pieces.saturating_add(2),
            room: ROOM,
            interrupt: options.interrupts,
        };
        let queues = (0..wanted.min(there.max(1))).map(|index| {
            let queue = Queue::new(&function, index, options)?;
            Ok(BlockQueue { queue, limits })
        });
        let queues = queues.collect::<Result<Vec<_>>>()?;
        function.run()?;
        Ok((Self { function, limits }, queues))
    }

    /// How many sectors of 512 bytes it has, as it was opened.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.limits.capacity
    }

    /// What it takes.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    owner!();
}

impl Limits {
    fn read<B: Backing>(function: &Function<B>, pieces: u16) -> Self {
        let has = |feature: BlockFeatures| function.features() & feature.bits() != 0;
        let of = |feature, offset, otherwise| {
            if has(feature) {
                function.config_u32(offset)
            } else {
                otherwise
            }
        };
        let (low, high) = (
            function.config_u32(block::CAPACITY),
            function.config_u32(block::CAPACITY + 4),
        );
        let most = of(BlockFeatures::SEG_MAX, block::SEG_MAX, u32::from(u16::MAX)).clamp(1, 0xfff0);
        Self {
            capacity: u64::from(high) << 32 | u64::from(low),
            block_size: of(BlockFeatures::BLK_SIZE, block::BLK_SIZE, 512),
            pieces: pieces.max(1).min(u16::try_from(most).unwrap_or(1)),
            piece_len: of(BlockFeatures::SIZE_MAX, block::SIZE_MAX, u32::MAX),
            is_read_only: has(BlockFeatures::RO),
            has_cache: has(BlockFeatures::FLUSH),
            discard: of(BlockFeatures::DISCARD, block::MAX_DISCARD, 0),
            write_zeroes: of(BlockFeatures::WRITE_ZEROES, block::MAX_WRITE_ZEROES, 0),
        }
    }

    /// Whether so many sectors are on the disk.
    fn holds(&self, sector: u64, sectors: u64) -> bool {
        sectors != 0 && sector.checked_add(sectors).is_some_and(|end| end <= self.capacity)
    }
}

impl Request {
    /// Its number, and what the device does with its data: `None` if it has none.
    fn kind(self) -> (u32, Option<Access>) {
        match self {
            Self::Read { .. } => (block::IN, Some(Access::WRITE)),
            Self::Write { .. } => (block::OUT, Some(Access::READ)),
            Self::Flush => (block::FLUSH, None),
            Self::Discard { .. } => (block::DISCARD, None),
            Self::WriteZeroes { .. } => (block::WRITE_ZEROES, None),
            Self::Identify => (block::GET_ID, Some(Access::WRITE)),
        }
    }

    fn header(self) -> Header {
        let sector = match self {
            Self::Read { sector } | Self::Write { sector } => sector,
            _ => 0,
        };
        Header {
            kind: self.kind().0.into(),
            reserved: 0.into(),
            sector: sector.into(),
        }
    }

    /// What goes with a request that has no data, but is for sectors.
    fn range(self) -> Option<Range> {
        let (sector, sectors, flags) = match self {
            Self::Discard { sector, sectors } => (sector, sectors, 0),
            Self::WriteZeroes { sector, sectors, unmap } => (sector, sectors, u32::from(unmap) * block::UNMAP),
            _ => return None,
        };
        Some(Range {
            sector: sector.into(),
            sectors: sectors.into(),
            flags: flags.into(),
        })
    }
}

impl<B: Backing, T: Data> BlockQueue<B, T> {
    /// Puts a request in, and gives its number; the device does not know before [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// With the data. [`ErrorKind::Invalid`] for what makes no sense; [`ErrorKind::Busy`] when the queue is full;
    /// [`ErrorKind::Unsupported`] for what the disk does not have; [`ErrorKind::Gone`] also when it is wanted back.
    #[inline]
    pub fn submit(&mut self, request: Request, data: Option<T>) -> Result<u16, Refused<Option<T>>> {
        let checked = self.check(request, data.as_ref());
        let written = checked.and_then(|()| {
            let slot = self.queue.check_open()?;
            Ok((slot, self.write(slot, request, data.as_ref())?))
        });
        match written {
            Ok((slot, writable)) => {
                self.queue.commit(slot, (data, request), writable);
                Ok(slot)
            }
            Err(error) => Err(Refused { payload: data, error }),
        }
    }

    fn check(&self, request: Request, data: Option<&T>) -> Result<()> {
        let limits = self.limits;
        let (has_it, most) = match request {
            Request::Write { .. } => (!limits.is_read_only, u32::MAX),
            Request::Flush => (limits.has_cache, 0),
            Request::Discard { .. } => (limits.discard != 0 && !limits.is_read_only, limits.discard),
            Request::WriteZeroes { .. } => (limits.write_zeroes != 0 && !limits.is_read_only, limits.write_zeroes),
            Request::Read { .. } | Request::Identify => (true, u32::MAX),
        };
        if !has_it {
            let kind = ErrorKind::Unsupported(format!("{request:?} of this disk").into());
            return Err(self.queue.function.failed(REQUEST, kind));
        }
        let (_, access) = request.kind();
        let len = match (access, data) {
            (Some(access), Some(data)) if data.access().contains(access) => self.len(data)?,
            (None, None) => 0,
            _ => {
                return Err(self
                    .queue
                    .invalid("data that does not go with the request, or the wrong way"));
            }
        };
        let holds = |sector, sectors: u32| limits.holds(sector, sectors.into()) && sectors <= most;
        let is_sound = match request {
            Request::Read { sector } | Request::Write { sector } => {
                len.is_multiple_of(SECTOR) && limits.holds(sector, len / SECTOR)
            }
            Request::Discard { sector, sectors } | Request::WriteZeroes { sector, sectors, .. } => {
                holds(sector, sectors)
            }
            Request::Identify => len == block::ID_LEN as u64,
            Request::Flush => true,
        };
        is_sound.then_some(()).ok_or_else(|| {
            self.queue
                .invalid("sectors that are not on the disk, too many, or parts of them")
        })
    }

    /// Bytes of all pieces, each of which the disk takes.
    fn len(&self, data: &T) -> Result<u64> {
        let (mut sum, mut count) = (0_u64, 0);
        for (_, len) in segments(data).take(usize::from(self.limits.pieces) + 1) {
            if len == 0 || len > u64::from(self.limits.piece_len) {
                return Err(self
                    .queue
                    .invalid("a piece of no bytes, or of more than the disk takes"));
            }
            sum = sum.saturating_add(len);
            count += 1;
        }
        if count > self.limits.pieces {
            return Err(self.queue.invalid("data in more pieces than the disk takes"));
        }
        Ok(sum)
    }

    /// Writes everything of a request that the device will look at.
    fn write(&self, slot: u16, request: Request, data: Option<&T>) -> Result<u32> {
        let ring = &self.queue.ring;
        ring.write_room(slot, HEADER, &request.header());
        ring.write_room(slot, STATUS, &UNWRITTEN);
        let range = request.range();
        if let Some(range) = &range {
            ring.write_room(slot, RANGE, range);
        }
        let own = |offset, len, is_written| Piece {
            address: ring.room_iova(slot, offset),
            len,
            is_written,
        };
        let (header, status) = (own(HEADER, 16, false), own(STATUS, 1, true));
        let range = range.map(|_| own(RANGE, 16, false));
        let is_written = request.kind().1 == Some(Access::WRITE);
        let pieces = data.into_iter().flat_map(segments).map(|(address, len)| Piece {
            address: address.0,
            len: u32::try_from(len).unwrap_or(u32::MAX),
            is_written,
        });
        let before = std::iter::once(header).chain(range);
        self.queue.write(slot, before.chain(pieces).chain([status]))
    }

    /// Tells the device of all requests that were submitted since: one write of a register, or none if it looks by itself.
    #[inline]
    pub fn kick(&mut self) {
        self.queue.kick();
    }

    /// Takes a request that has come back, in any order; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Once there is nothing to take: [`ErrorKind::Failed`] when the device says so, or has written what makes no sense;
    /// [`ErrorKind::Gone`]. [Stopping](Block::stop) it gives back what is in it.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Completed<T>>> {
        let done = self.queue.pop()?;
        Ok(done.map(|done| self.completed(done)))
    }

    /// As [`pop`](Self::pop), but waits for it, with an interrupt if there are any; `None` when the time is over.
    ///
    /// # Errors
    ///
    /// As [`pop`](Self::pop).
    pub fn pop_within(&mut self, limit: Duration) -> Result<Option<Completed<T>>> {
        let done = self.queue.pop_within(limit)?;
        Ok(done.map(|done| self.completed(done)))
    }

    fn completed(&self, done: Done<(Option<T>, Request)>) -> Completed<T> {
        let (data, request) = done.payload;
        let refused = |text: String| {
            let kind = ErrorKind::Refused(text.into());
            Err(self.queue.function.failed(REQUEST, kind))
        };
        let result = match self.queue.ring.read_room(done.slot, STATUS) {
            block::OK => Ok(()),
            block::IOERR => refused(format!("{request:?}: an error of the disk")),
            block::UNSUPP => refused(format!("{request:?}: the disk does not have that")),
            UNWRITTEN => refused(format!("{request:?}: no status")),
            status => refused(format!("{request:?}: status {status}, which is none")),
        };
        Completed {
            request,
            tag: done.slot,
            data,
            result,
        }
    }

    /// The data of all requests that have not come back, once the device was [stopped](Block::stop).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] before that.
    pub fn take_back(&mut self) -> Result<Vec<T>> {
        let requests = self.queue.take_back()?;
        Ok(requests.into_iter().filter_map(|(data, _)| data).collect())
    }

    waiting!();
}
