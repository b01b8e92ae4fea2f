//! Commands on their way in.

use super::super::epoch::State;
use super::super::payload::Payload;
use super::super::spec::{Fuse, Sqe};
use super::super::{Command, Namespace};
use super::{QueuePair, Tag};
use crate::{Backing, Error, ErrorKind};
use std::fmt;

/// A command that was not submitted: its payload, and why.
pub struct Refused<T> {
    /// What was to be its payload.
    pub payload: T,
    /// Why. [`Busy`](ErrorKind::Busy) if the queue is full.
    pub error: Error,
}

impl<B: Backing, T: Payload> QueuePair<B, T> {
    /// Submits a command. The controller hears of it by [`ring`](Self::ring), so that one doorbell does for many.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) when the queue is full; [`Gone`](ErrorKind::Gone) when the device is, or is asked back;
    /// [`Invalid`](ErrorKind::Invalid) for a payload that is too short, that the controller may not reach in the way the command needs, or whose
    /// pieces it cannot take; [`Failed`](ErrorKind::Failed) while the queue has to be [recovered](Self::recover). The payload comes back.
    #[inline]
    pub fn submit(&mut self, command: &Command, payload: Option<T>) -> Result<Tag, Refused<Option<T>>> {
        let prepared = match self.trackers.next() {
            Some(tag) => self.prepare(command, payload.as_ref(), tag).map(|sqe| (tag, sqe)),
            None => Err(ErrorKind::Busy),
        };
        match prepared {
            Ok((tag, sqe)) => {
                self.push(command, &sqe, payload);
                Ok(tag)
            }
            Err(kind) => Err(self.refused(payload, kind)),
        }
    }

    /// Submits two commands that are executed as one, or not at all: a compare and a write of the same blocks (NVM §3.2.1), of a controller
    /// that has it (Identify Controller: FUSES).
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit): neither is submitted.
    pub fn submit_fused(
        &mut self,
        commands: [&Command; 2],
        payloads: [Option<T>; 2],
    ) -> Result<[Tag; 2], Refused<[Option<T>; 2]>> {
        let [first, second] = commands;
        let prepared = match self.trackers.next().zip(self.trackers.next_but_one()) {
            Some((tag, next)) => {
                let [payload, other] = payloads.each_ref().map(Option::as_ref);
                self.prepare(first, payload, tag)
                    .and_then(|sqe| Ok((sqe, self.prepare(second, other, next)?)))
                    .map(|(sqe, other)| [(tag, sqe.with_fuse(Fuse::First)), (next, other.with_fuse(Fuse::Second))])
            }
            None => Err(ErrorKind::Busy),
        };
        match prepared {
            Ok([(tag, sqe), (next, other_sqe)]) => {
                let [payload, other] = payloads;
                self.push(first, &sqe, payload);
                self.push(second, &other_sqe, other);
                Ok([tag, next])
            }
            Err(kind) => Err(self.refused(payloads, kind)),
        }
    }

    /// The entry of a command with that tag.
    #[inline]
    fn prepare(&self, command: &Command, payload: Option<&T>, tag: Tag) -> Result<Sqe, ErrorKind> {
        let now = self.epoch.glance();
        let is_current = command.changes.is_none_or(|changes| changes == now.changes());
        if !now.is_same_run(self.gate) || !is_current {
            return Err(self.why_not(command));
        }
        let sqe = command.sqe.with_cid(tag.cid());
        if command.bytes == 0 {
            return Ok(sqe);
        }
        let Some(payload) = payload.filter(|payload| self.is_fit(command, *payload)) else {
            return Err(self.unfit(command, payload));
        };
        let mut sqe = self.lists.point(sqe, tag.cid() & 0xfff, payload, command.bytes)?;
        if command.metadata_bytes != 0 {
            sqe = metadata(sqe, command.metadata_bytes, payload)?;
        }
        Ok(sqe)
    }

    #[inline]
    fn push(&mut self, command: &Command, sqe: &Sqe, payload: Option<T>) {
        self.trackers.take(payload, self.time.scan(), sqe, command.changes);
        self.sq.push(sqe);
    }

    #[inline]
    fn is_fit(&self, command: &Command, payload: &T) -> bool {
        command.bytes <= self.lists.transfer_bytes()
            && command.bytes <= payload.len()
            && payload.access().contains(command.sqe.opcode().access())
    }

    #[cold]
    fn unfit(&self, command: &Command, payload: Option<&T>) -> ErrorKind {
        let (bytes, most) = (command.bytes, self.lists.transfer_bytes());
        let text = match payload {
            _ if bytes == u64::MAX => "1 to 65536 blocks, or 1 to 256 ranges, can be asked for".into(),
            _ if bytes > most => format!("{bytes} bytes; this queue's commands have {most} at most").into(),
            None => format!("the command has {bytes} bytes of data, but no payload").into(),
            Some(payload) if payload.len() < bytes => {
                format!("{bytes} bytes of data, but a payload of {}", payload.len()).into()
            }
            Some(_) => "the controller may not reach the payload in the way that the command needs".into(),
        };
        ErrorKind::Invalid(text)
    }

    #[cold]
    pub(super) fn why_not(&self, command: &Command) -> ErrorKind {
        let now = self.epoch.current();
        if let Some(fault) = &self.fault {
            return fault.clone();
        }
        match now.state() {
            State::Gone => ErrorKind::Gone,
            _ if !now.is_same_run(self.born) => ErrorKind::Failed("the controller was reset: recover the queue".into()),
            _ if self.gate != self.born => ErrorKind::Gone,
            _ if command.changes.is_some_and(|changes| changes != now.changes()) => {
                ErrorKind::Invalid("the namespace has changed since it was identified".into())
            }
            _ => ErrorKind::Busy,
        }
    }

    #[cold]
    fn refused<P>(&self, payload: P, kind: ErrorKind) -> Refused<P> {
        Refused {
            payload,
            error: self.shared.failed("submit a command", kind),
        }
    }

    /// Submits [`Command::read`].
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    #[inline]
    pub fn read(&mut self, namespace: &Namespace, lba: u64, blocks: u32, to: T) -> Result<Tag, Refused<Option<T>>> {
        self.submit(&Command::read(namespace, lba, blocks), Some(to))
    }

    /// Submits [`Command::write`].
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    #[inline]
    pub fn write(&mut self, namespace: &Namespace, lba: u64, blocks: u32, from: T) -> Result<Tag, Refused<Option<T>>> {
        self.submit(&Command::write(namespace, lba, blocks), Some(from))
    }

    /// Submits [`Command::flush`].
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    #[inline]
    pub fn flush(&mut self, namespace: &Namespace) -> Result<Tag, Refused<Option<T>>> {
        self.submit(&Command::flush(namespace), None)
    }
}

fn metadata<P: Payload>(sqe: Sqe, bytes: u64, payload: &P) -> Result<Sqe, ErrorKind> {
    match payload.metadata() {
        Some((iova, len)) if len >= bytes && iova.is_aligned_to(4) => Ok(sqe.with_metadata(iova.0)),
        _ => Err(ErrorKind::Invalid(
            format!("{bytes} bytes of metadata at a multiple of 4 are needed beside the data").into(),
        )),
    }
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> std::error::Error for Refused<T> {}

impl<T> From<Refused<T>> for Error {
    fn from(refused: Refused<T>) -> Self {
        refused.error
    }
}
