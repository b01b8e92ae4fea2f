//! The queues of a disk: requests go in and come back (virtio 1.3 §5.2.6).

use super::{Limits, Request};
use crate::virtio::data::{Data, segments};
use crate::virtio::queue::{Done, Piece, Queue, Refused};
use crate::virtio::spec::block::{self, SECTOR};
use crate::virtio::waiting;
use crate::wait::Signals;
use crate::{Backing, ErrorKind, Result, Woken};
use std::time::Duration;
use vfio_core::{Access, EventFd};

/// One queue of a disk. It belongs to one thread at a time.
#[derive(Debug)]
pub struct BlockQueue<B: Backing, T: Data> {
    pub(super) queue: Queue<B, (Option<T>, Request)>,
    pub(super) limits: Limits,
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
pub(super) const ROOM: usize = 64;
/// No status of a device.
const UNWRITTEN: u8 = 0xff;
const REQUEST: &str = "request to a disk";

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
    /// [`ErrorKind::Gone`]. [Stopping](super::Block::stop) it gives back what is in it.
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

    /// The data of all requests that have not come back, once the device was [stopped](super::Block::stop).
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
