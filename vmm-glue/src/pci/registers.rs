//! Registers of a function that exists in this process only.

/// The first 256 bytes of a configuration space; the rest reads as zeros.
#[derive(Debug, Clone)]
pub(super) struct Registers {
    cells: Box<[Cell; LEN]>,
}

const LEN: usize = 256;

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    value: u8,
    /// Bits that the guest writes.
    writable: u8,
    /// Bits that the guest clears by writing ones.
    clearable: u8,
}

impl Registers {
    pub(super) fn new() -> Self {
        Self {
            cells: Box::new([Cell::default(); LEN]),
        }
    }

    /// Sets bytes, of whatever kind they are.
    pub(super) fn set<const N: usize>(&mut self, offset: u8, value: [u8; N]) {
        for (cell, byte) in self.from(offset.into()).zip(value) {
            cell.value = byte;
        }
    }

    /// Lets the guest write these bits.
    pub(super) fn let_write<const N: usize>(&mut self, offset: u8, mask: [u8; N]) {
        for (cell, byte) in self.from(offset.into()).zip(mask) {
            cell.writable |= byte;
        }
    }

    /// Lets the guest clear these bits by writing ones.
    pub(super) fn let_clear<const N: usize>(&mut self, offset: u8, mask: [u8; N]) {
        for (cell, byte) in self.from(offset.into()).zip(mask) {
            cell.clearable |= byte;
        }
    }

    pub(super) fn get<const N: usize>(&self, offset: u8) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(offset.into(), &mut bytes);
        bytes
    }

    pub(super) fn u16(&self, offset: u8) -> u16 {
        u16::from_le_bytes(self.get(offset))
    }

    pub(super) fn u32(&self, offset: u8) -> u32 {
        u32::from_le_bytes(self.get(offset))
    }

    /// Clears and sets bits of 16.
    pub(super) fn change(&mut self, offset: u8, clear: u16, set: u16) {
        let value = self.u16(offset) & !clear | set;
        self.set(offset, value.to_le_bytes());
    }

    /// As the guest reads.
    pub(super) fn read(&self, offset: u16, to: &mut [u8]) {
        let cells = self.cells.get(usize::from(offset)..).unwrap_or_default();
        let values = cells.iter().map(|cell| cell.value).chain(std::iter::repeat(0));
        for (to, value) in to.iter_mut().zip(values) {
            *to = value;
        }
    }

    /// As the guest writes.
    pub(super) fn write(&mut self, offset: u16, from: &[u8]) {
        for (cell, byte) in self.from(offset.into()).zip(from) {
            cell.value = cell.value & !cell.writable & !(cell.clearable & byte) | byte & cell.writable;
        }
    }

    fn from(&mut self, offset: usize) -> std::slice::IterMut<'_, Cell> {
        self.cells.get_mut(offset..).unwrap_or_default().iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_changes_only_what_it_may() {
        let mut registers = Registers::new();
        registers.set(4, 0xF0F0_u16.to_le_bytes());
        registers.let_write(4, [0x0F]);
        registers.let_clear(5, [0x30]);
        registers.write(4, &[0xFF, 0xFF]);
        assert_eq!(registers.u16(4), 0xC0FF);
        registers.write(4, &[0, 0]);
        assert_eq!(registers.u16(4), 0xC0F0);
        registers.write(254, &[1, 2, 3, 4]);
        let mut bytes = [9; 4];
        registers.read(254, &mut bytes);
        assert_eq!(bytes, [0; 4]);
        registers.read(4092, &mut bytes);
        assert_eq!(bytes, [0; 4]);
    }
}
