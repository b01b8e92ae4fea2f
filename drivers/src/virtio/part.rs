//! Parts of BARs that the capabilities name.

use super::layout::Place;
use crate::{Backing, Registers, Result};
use vfio_core::PageSize;

/// A part of a BAR, mapped from the page on that it begins in.
#[derive(Debug)]
pub(super) struct Part {
    registers: Registers,
    pub(super) base: usize,
    pub(super) len: usize,
}

impl Part {
    pub(super) fn map<B: Backing>(backing: &B, place: Place) -> Result<Self> {
        let (start, len) = (u64::from(place.offset), u64::from(place.len));
        let page = PageSize::Base.bytes() as u64;
        let first = start - start % page;
        let registers = backing.map_bar(place.bar, first..(start + len).next_multiple_of(page))?;
        Ok(Self {
            registers,
            base: usize::try_from(start - first).unwrap_or_default(),
            len: usize::try_from(len).unwrap_or_default(),
        })
    }

    /// Where so many bytes are, if all of them belong to the part: the page goes on behind it.
    #[inline]
    fn at(&self, offset: usize, width: usize) -> Option<usize> {
        let end = offset.checked_add(width)?;
        (end <= self.len).then_some(self.base + offset)
    }

    /// `None` outside of the part, and off its alignment.
    pub(super) fn find_u8(&self, offset: usize) -> Option<u8> {
        self.registers.read_u8(self.at(offset, 1)?)
    }

    /// As [`find_u8`](Self::find_u8).
    pub(super) fn find_u16(&self, offset: usize) -> Option<u16> {
        self.registers.read_u16(self.at(offset, 2)?)
    }

    /// As [`find_u8`](Self::find_u8).
    pub(super) fn find_u32(&self, offset: usize) -> Option<u32> {
        self.registers.read_u32(self.at(offset, 4)?)
    }

    pub(super) fn read_u8(&self, offset: usize) -> u8 {
        self.find_u8(offset).unwrap_or(u8::MAX)
    }

    pub(super) fn read_u16(&self, offset: usize) -> u16 {
        self.find_u16(offset).unwrap_or(u16::MAX)
    }

    pub(super) fn read_u32(&self, offset: usize) -> u32 {
        self.find_u32(offset).unwrap_or(u32::MAX)
    }

    pub(super) fn write_u8(&self, offset: usize, value: u8) {
        let at = self.at(offset, 1);
        written(at.and_then(|at| self.registers.write_u8(at, value)));
    }

    #[inline]
    pub(super) fn write_u16(&self, offset: usize, value: u16) {
        let at = self.at(offset, 2);
        written(at.and_then(|at| self.registers.write_u16(at, value)));
    }

    pub(super) fn write_u32(&self, offset: usize, value: u32) {
        let at = self.at(offset, 4);
        written(at.and_then(|at| self.registers.write_u32(at, value)));
    }
}

/// What is written on the way to a running device lies inside: the layout was checked, and where a queue is notified.
#[inline]
fn written(done: Option<()>) {
    if done.is_none() {
        tracing::error!("a device without a register that it must have");
    }
}
