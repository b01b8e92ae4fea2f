//! The host's memory as the controller reaches it: the bus and its own memory buffer, PRPs and SGLs.
//!
//! NVM Express Base Specification 2.0 §4.1.1 (PRP), §4.1.2 (SGL), §8.5 (controller memory buffer). Walked as the specification says, to the letter:
//! what a driver must not build is refused with the status that is meant for it.

use super::bytes::{put, size, u32_at, u64_at};
use super::command::{Command, Status};
use iommu::Iova;
use std::cell::RefCell;
use vfio_core::fake::Bus;

/// Memory that a controller reaches.
pub(super) struct Host<'a> {
    pub(super) bus: &'a Bus<'a>,
    /// The controller memory buffer, and where it is in the controller's address space.
    pub(super) buffer: RefCell<Vec<u8>>,
    pub(super) buffer_at: Option<u64>,
    /// Bytes of a memory page (CC.MPS).
    pub(super) page: u64,
    pub(super) has_sgl: bool,
}

/// Bytes of memory that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// `None` throws bytes away: a bit bucket.
    pub(super) at: Option<u64>,
    pub(super) len: u64,
}

/// Most descriptors of an SGL, and most lists of PRPs: a driver's list ends long before.
const LONGEST: usize = 65536;

impl Host<'_> {
    fn in_buffer(&self, at: u64, len: usize) -> Option<usize> {
        let offset = size(at.checked_sub(self.buffer_at?)?);
        (offset.checked_add(len)? <= self.buffer.borrow().len()).then_some(offset)
    }

    pub(super) fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Status> {
        if let Some(offset) = self.in_buffer(at, to.len()) {
            put(to, 0, self.buffer.borrow().get(offset..).unwrap_or_default());
            return Ok(());
        }
        let done = self.bus.dma_read(Iova(at), to);
        done.map_err(|_noted_by_the_machine| Status::DATA_TRANSFER)
    }

    pub(super) fn write(&self, at: u64, from: &[u8]) -> Result<(), Status> {
        if let Some(offset) = self.in_buffer(at, from.len()) {
            put(&mut self.buffer.borrow_mut(), offset, from);
            return Ok(());
        }
        let done = self.bus.dma_write(Iova(at), from);
        done.map_err(|_noted_by_the_machine| Status::DATA_TRANSFER)
    }

    /// Reads all pieces, one after the other.
    pub(super) fn gather(&self, pieces: &[Piece], to: &mut [u8]) -> Result<(), Status> {
        let mut rest = to;
        for piece in pieces {
            let (now, then) = rest.split_at_mut(size(piece.len).min(rest.len()));
            if let Some(at) = piece.at {
                self.read(at, now)?;
            }
            rest = then;
        }
        Ok(())
    }

    /// Writes all pieces, one after the other.
    pub(super) fn scatter(&self, pieces: &[Piece], from: &[u8]) -> Result<(), Status> {
        let mut rest = from;
        for piece in pieces {
            let (now, then) = rest.split_at(size(piece.len).min(rest.len()));
            if let Some(at) = piece.at {
                self.write(at, now)?;
            }
            rest = then;
        }
        Ok(())
    }

    /// Where the `len` bytes of a command's data are.
    pub(super) fn data(&self, command: &Command, len: u64) -> Result<Vec<Piece>, Status> {
        match command.psdt() {
            0 => self.prps(command.prp1(), command.prp2(), len),
            1 | 2 if self.has_sgl => self.sgl(command.sgl(), len, Status::SGL_LENGTH),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// Where the `len` bytes of a command's separate metadata are.
    pub(super) fn metadata(&self, command: &Command, len: u64) -> Result<Vec<Piece>, Status> {
        let at = command.metadata();
        if command.psdt() == 2 {
            let mut descriptor = [0; 16];
            self.read(at, &mut descriptor)?;
            return self.sgl(descriptor, len, Status::SGL_METADATA_LENGTH);
        }
        // A contiguous buffer on a dword.
        if at.is_multiple_of(4) {
            Ok(vec![Piece { at: Some(at), len }])
        } else {
            Err(Status::INVALID_FIELD)
        }
    }

    pub(super) fn prps(&self, first: u64, second: u64, len: u64) -> Result<Vec<Piece>, Status> {
        let mut pieces = Vec::new();
        if len == 0 {
            return Ok(pieces);
        }
        let offset = first % self.page;
        if !first.is_multiple_of(4) {
            return Err(Status::PRP_OFFSET);
        }
        let mut left = len;
        self.take(&mut pieces, &mut left, first, self.page - offset);
        if left == 0 {
            return Ok(pieces);
        }
        if left <= self.page {
            if !second.is_multiple_of(self.page) {
                return Err(Status::PRP_OFFSET);
            }
            self.take(&mut pieces, &mut left, second, self.page);
            return Ok(pieces);
        }
        self.prp_lists(pieces, left, second)
    }

    fn prp_lists(&self, mut pieces: Vec<Piece>, mut left: u64, first: u64) -> Result<Vec<Piece>, Status> {
        // The first list may begin anywhere in its page, on a quadword.
        if !first.is_multiple_of(8) {
            return Err(Status::PRP_OFFSET);
        }
        let mut list = first;
        for _ in 0..LONGEST {
            let slots = (self.page - list % self.page) / 8;
            let needed = left.div_ceil(self.page);
            let entries = self.entries(list, slots.min(needed))?;
            // The last slot of the page goes on to the next list, unless it is the last entry of all.
            let has_more = needed > slots;
            let data = if has_more { slots - 1 } else { needed };
            for entry in entries.iter().take(size(data)) {
                if !entry.is_multiple_of(self.page) {
                    return Err(Status::PRP_OFFSET);
                }
                self.take(&mut pieces, &mut left, *entry, self.page);
            }
            if !has_more {
                return Ok(pieces);
            }
            list = entries.last().copied().unwrap_or_default();
            if !list.is_multiple_of(self.page) {
                return Err(Status::PRP_OFFSET);
            }
        }
        Err(Status::INVALID_FIELD)
    }

    fn entries(&self, at: u64, count: u64) -> Result<Vec<u64>, Status> {
        let mut bytes = vec![0; size(count * 8)];
        self.read(at, &mut bytes)?;
        let (entries, _) = bytes.as_chunks::<8>();
        Ok(entries.iter().copied().map(u64::from_le_bytes).collect())
    }

    fn take(&self, pieces: &mut Vec<Piece>, left: &mut u64, at: u64, most: u64) {
        let len = most.min(*left);
        pieces.push(Piece { at: Some(at), len });
        *left -= len;
    }

    fn sgl(&self, first: [u8; 16], len: u64, wrong_len: Status) -> Result<Vec<Piece>, Status> {
        let mut pieces = Vec::new();
        let mut left = len;
        // Descriptors that are still to be looked at, from the last one.
        let mut segment = vec![first];
        let mut may_continue = true;
        for _ in 0..LONGEST {
            let Some(descriptor) = segment.pop() else {
                return if left == 0 { Ok(pieces) } else { Err(wrong_len) };
            };
            let (at, bytes) = (u64_at(&descriptor, 0), u64::from(u32_at(&descriptor, 8)));
            match descriptor.last().copied().unwrap_or_default() {
                kind @ (0x00 | 0x10) => {
                    // Bytes beyond the command's data are not an error of a bit bucket, but of a data block.
                    if bytes > left {
                        return Err(wrong_len);
                    }
                    let at = (kind == 0).then_some(at);
                    pieces.push(Piece { at, len: bytes });
                    left -= bytes;
                }
                kind @ (0x20 | 0x30) => {
                    // A segment's descriptor is the last of its segment, and nothing follows a last segment.
                    let is_fit = bytes.is_multiple_of(16) && bytes > 0 && bytes / 16 <= LONGEST as u64;
                    if !segment.is_empty() || !may_continue || !is_fit {
                        return Err(Status::SGL_SEGMENT);
                    }
                    may_continue = kind == 0x20;
                    let mut list = vec![0; size(bytes)];
                    self.read(at, &mut list)?;
                    let (descriptors, _) = list.as_chunks::<16>();
                    segment = descriptors.iter().rev().copied().collect();
                    let ends = segment.first().and_then(|last| last.last()).copied();
                    if may_continue && !matches!(ends, Some(0x20 | 0x30)) {
                        return Err(Status::SGL_SEGMENT);
                    }
                }
                _ => return Err(Status::SGL_TYPE),
            }
        }
        Err(Status::SGL_COUNT)
    }
}
