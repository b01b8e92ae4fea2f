//! MSI as the guest sees it (PCIe 6.0 §6.1.4 and §7.7.1): in the layout that the function has, all of it answered here.

use super::Vector;
use super::chain::Found;
use super::patches::Patches;
use crate::interrupt::MsiMessage;
use std::ops::Range;

const ENABLE: u16 = 1;
const ADDRESS_64: u16 = 1 << 7;
const MASKING: u16 = 1 << 8;

/// MSI of a function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Msi {
    offset: u16,
    /// Where the data are.
    data: u16,
    has_masks: bool,
    /// The logarithm of how many vectors there can be.
    capable: u8,
    /// What the guest has set, as of the last look.
    state: State,
    pending: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    is_enabled: bool,
    /// Logarithm.
    vectors: u8,
    message: MsiMessage,
    masked: u32,
}

impl Msi {
    /// `None` where the capability is shorter than it says.
    pub(super) fn new(found: &Found, patches: &mut Patches) -> Option<Self> {
        let control = patches.u16(found.offset + 2);
        let data = if control & ADDRESS_64 != 0 { 0x0C } else { 0x08 };
        let has_masks = control & MASKING != 0;
        let len = if has_masks { data + 12 } else { data + 2 };
        if found.len < len {
            return None;
        }
        // Six and seven are reserved.
        let capable = (control >> 1 & 7).min(5);
        let offset = found.offset;
        let shown = control & (ADDRESS_64 | MASKING) | capable << 1;
        patches.blank(offset + 2, len - 2);
        patches.set(offset + 2, &shown.to_le_bytes());
        patches.let_write(offset + 2, &[0x71]);
        patches.let_write(offset + 4, &[0xFC, 0xFF, 0xFF, 0xFF]);
        if data == 0x0C {
            patches.let_write(offset + 8, &[0xFF; 4]);
        }
        patches.let_write(offset + data, &[0xFF; 2]);
        if has_masks {
            let masks = u32::MAX >> (32 - (1_u32 << capable));
            patches.let_write(offset + data + 4, &masks.to_le_bytes());
        }
        Some(Self {
            offset,
            data,
            has_masks,
            capable: capable.to_le_bytes()[0],
            state: State::default(),
            pending: 0,
        })
    }

    /// As after a reset, which the patches have had.
    pub(super) fn reset(&mut self, patches: &mut Patches) {
        self.pending = 0;
        self.show_pending(patches);
    }

    /// What there is to [look](Self::look) at.
    pub(super) fn registers(&self) -> Range<u16> {
        self.offset..self.offset + self.data + 12
    }

    /// Takes over what the guest has written. Says whether it makes a difference.
    pub(super) fn look(&mut self, patches: &Patches) -> bool {
        let at = self.offset;
        let control = patches.u16(at + 2);
        let upper = if self.data == 0x0C { patches.u32(at + 8) } else { 0 };
        let state = State {
            is_enabled: control & ENABLE != 0,
            vectors: (control >> 4 & 7).to_le_bytes()[0].min(self.capable),
            message: MsiMessage {
                address: u64::from(upper) << 32 | u64::from(patches.u32(at + 4)),
                data: patches.u16(at + self.data).into(),
            },
            masked: if self.has_masks {
                patches.u32(at + self.data + 4)
            } else {
                0
            },
        };
        std::mem::replace(&mut self.state, state) != state
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.state.is_enabled
    }

    /// How many vectors the function may use.
    pub(super) fn vectors(&self) -> u16 {
        1 << self.state.vectors
    }

    pub(super) fn vector(&self, number: u16) -> Vector {
        if !self.state.is_enabled || number >= self.vectors() {
            return Vector::Off;
        }
        if self.state.masked >> number & 1 != 0 {
            return Vector::Masked;
        }
        let MsiMessage { address, data } = self.state.message;
        // The lowest bits give way to the number.
        let data = data & !u32::from(self.vectors() - 1) | u32::from(number);
        Vector::Live(MsiMessage { address, data })
    }

    pub(super) fn set_pending(&mut self, number: u16, is_pending: bool, patches: &mut Patches) {
        if number < 1 << self.capable {
            self.pending = self.pending & !(1 << number) | u32::from(is_pending) << number;
            self.show_pending(patches);
        }
    }

    fn show_pending(&self, patches: &mut Patches) {
        if self.has_masks {
            patches.set(self.offset + self.data + 8, &self.pending.to_le_bytes());
        }
    }
}
