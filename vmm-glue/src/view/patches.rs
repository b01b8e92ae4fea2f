//! The bytes of a configuration space as patches of the function's own: which bits are answered here, and which writes go on.

use super::effect::{Effect, Effects, Forward};
use pci::ConfigSpace;
use std::fmt;

/// One patch for each byte.
#[derive(Clone)]
pub(super) struct Patches {
    cells: Box<[Cell]>,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    /// What the guest reads in bits of `fixed`; elsewhere what the function had.
    value: u8,
    /// Bits that are answered here.
    fixed: u8,
    /// Of these, bits that the guest changes.
    writable: u8,
    /// Bits that the guest writes to the function.
    forwarded: u8,
}

impl Cell {
    /// Reads as zero, always.
    const BLANK: Self = Self {
        value: 0,
        fixed: 0xFF,
        writable: 0,
        forwarded: 0,
    };
}

const LEN: usize = ConfigSpace::MAX_LEN_BYTES;

impl fmt::Debug for Patches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Patches")
    }
}

impl Patches {
    /// All bytes of the image are the function's own, and there is nothing behind it.
    pub(super) fn new(image: &[u8]) -> Self {
        let own = image.iter().map(|byte| Cell {
            value: *byte,
            fixed: 0,
            writable: 0,
            forwarded: 0xFF,
        });
        let cells = own.chain(std::iter::repeat(Cell::BLANK)).take(LEN);
        Self { cells: cells.collect() }
    }

    /// Answers these bytes here; the guest cannot change them.
    pub(super) fn fix(&mut self, offset: u16, value: &[u8]) {
        for (cell, value) in self.from(offset).zip(value) {
            *cell = Cell {
                value: *value,
                ..Cell::BLANK
            };
        }
    }

    /// Answers these bytes as they are in the image.
    pub(super) fn keep(&mut self, offset: u16, len: u16) {
        for cell in self.from(offset).take(len.into()) {
            *cell = Cell {
                value: cell.value,
                ..Cell::BLANK
            };
        }
    }

    /// Answers these bits of a byte here; the others stay as they are.
    pub(super) fn fix_bits(&mut self, offset: u16, mask: u8, value: u8) {
        if let Some(cell) = self.from(offset).next() {
            cell.value = cell.value & !mask | value & mask;
            cell.fixed |= mask;
            cell.writable &= !mask;
            cell.forwarded &= !mask;
        }
    }

    /// Nothing is there.
    pub(super) fn blank(&mut self, offset: u16, len: u16) {
        self.from(offset).take(len.into()).for_each(|cell| *cell = Cell::BLANK);
    }

    /// The guest cannot write these bytes.
    pub(super) fn protect(&mut self, offset: u16, len: u16) {
        for cell in self.from(offset).take(len.into()) {
            cell.forwarded = 0;
            cell.writable = 0;
        }
    }

    /// The guest cannot set these bits of a byte, which it reads from the function.
    pub(super) fn protect_bits(&mut self, offset: u16, mask: u8) {
        if let Some(cell) = self.from(offset).next() {
            cell.forwarded &= !mask;
        }
    }

    /// The guest can change these bits, which are answered here.
    pub(super) fn let_write(&mut self, offset: u16, mask: &[u8]) {
        for (cell, mask) in self.from(offset).zip(mask) {
            cell.writable |= mask & cell.fixed;
        }
    }

    /// Sets what is answered here.
    pub(super) fn set(&mut self, offset: u16, value: &[u8]) {
        for (cell, value) in self.from(offset).zip(value) {
            cell.value = cell.value & !cell.fixed | value & cell.fixed;
        }
    }

    /// Sets what the guest could have written itself.
    pub(super) fn set_writable(&mut self, offset: u16, value: &[u8]) {
        for (cell, value) in self.from(offset).zip(value) {
            cell.value = cell.value & !cell.writable | value & cell.writable;
        }
    }

    /// Clears all that the guest has written.
    pub(super) fn reset(&mut self) {
        self.cells.iter_mut().for_each(|cell| cell.value &= !cell.writable);
    }

    pub(super) fn get<const N: usize>(&self, offset: u16) -> [u8; N] {
        let mut bytes = [0; N];
        for (byte, cell) in bytes.iter_mut().zip(self.at(offset)) {
            *byte = cell.value;
        }
        bytes
    }

    pub(super) fn u16(&self, offset: u16) -> u16 {
        u16::from_le_bytes(self.get(offset))
    }

    pub(super) fn u32(&self, offset: u16) -> u32 {
        u32::from_le_bytes(self.get(offset))
    }

    /// Reads as the guest does. `device` is asked only where something is the function's own.
    pub(super) fn read(&self, offset: u16, to: &mut [u8], device: impl FnOnce(&mut [u8])) {
        let cells = self.at(offset);
        let cells = cells.get(..to.len()).unwrap_or(cells);
        if cells.iter().any(|cell| cell.fixed != 0xFF) {
            device(to);
        }
        for (byte, cell) in to.iter_mut().zip(cells) {
            *byte = *byte & !cell.fixed | cell.value & cell.fixed;
        }
        if let Some(beyond) = to.get_mut(cells.len()..) {
            beyond.fill(0xFF);
        }
    }

    /// Writes as the guest does. What goes to the function are runs of bytes that have something of its own.
    pub(super) fn write(&mut self, offset: u16, from: &[u8], effects: &mut Effects) {
        let mut run = [0; 4];
        let mut len = 0;
        let mut at = offset;
        let end = |at: u16, run: &[u8; 4], len: usize, effects: &mut Effects| {
            if let (Some(bytes @ [_, ..]), Ok(back)) = (run.get(..len), u16::try_from(len)) {
                effects.push(Effect::Forward(Forward::new(at.wrapping_sub(back), bytes)));
            }
        };
        for (cell, byte) in self.from(offset).zip(from) {
            match run.get_mut(len).filter(|_| cell.forwarded != 0) {
                Some(place) => {
                    // The rest are bits that do something when they are one.
                    *place = byte & cell.forwarded;
                    len += 1;
                }
                None => {
                    end(at, &run, len, effects);
                    len = 0;
                }
            }
            cell.value = cell.value & !cell.writable | byte & cell.writable;
            at = at.wrapping_add(1);
        }
        end(at, &run, len, effects);
    }

    fn at(&self, offset: u16) -> &[Cell] {
        self.cells.get(usize::from(offset)..).unwrap_or_default()
    }

    fn from(&mut self, offset: u16) -> std::slice::IterMut<'_, Cell> {
        let cells = self.cells.get_mut(usize::from(offset)..);
        cells.unwrap_or_default().iter_mut()
    }
}
