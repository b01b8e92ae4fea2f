//! MSI-X as the guest sees it: control, table and pending bits (PCIe 6.0 §6.1.4 and §7.7.2).

use super::chain::Found;
use super::patches::Patches;
use super::{Device, Vector};
use crate::interrupt::MsiMessage;
use std::ops::Range;

const SIZE: u16 = 0x07FF;
const FUNCTION_MASK: u16 = 1 << 14;
const ENABLE: u16 = 1 << 15;
const ENTRY_LEN: u64 = 16;
/// The vector's own mask, in the last word of its entry.
const MASKED: u32 = 1;

/// MSI-X of a function. The table and the pending bits are answered here; the function's own are the host's.
///
/// A vector is masked by its own mask, or with all others by the function mask. An interrupt of a masked vector is pending with whoever holds the
/// function, until the vector is not masked any more, and is then sent once.
#[derive(Debug)]
pub struct Msix {
    offset: u16,
    is_enabled: bool,
    is_masked: bool,
    table: Place,
    pending: Place,
    entries: Vec<Entry>,
}

/// Part of a BAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which BAR, 0 to 5.
    pub bar: u8,
    /// Which bytes of it.
    pub range: Range<u64>,
}

impl Place {
    /// From table or PBA offset register; `None` beyond the BAR, or in none.
    fn new(register: u32, len: u64, device: &Device) -> Option<Self> {
        let [bar, ..] = (register & 7).to_le_bytes();
        let start = u64::from(register & !7);
        let end = start.checked_add(len)?;
        let size = device.bar_sizes.get(usize::from(bar))?;
        let range = start..end;
        (end <= *size).then_some(Self { bar, range })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.touches(other.bar, &other.range)
    }

    fn touches(&self, bar: u8, range: &Range<u64>) -> bool {
        self.bar == bar && !range.is_empty() && range.start < self.range.end && self.range.start < range.end
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    message: MsiMessage,
    is_masked: bool,
    is_pending: bool,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            message: MsiMessage::default(),
            is_masked: true,
            is_pending: false,
        }
    }
}

impl Entry {
    fn bytes(&self) -> [u8; 16] {
        let control = if self.is_masked { MASKED } else { 0 };
        let high = u64::from(control) << 32 | u64::from(self.message.data);
        (u128::from(high) << 64 | u128::from(self.message.address)).to_le_bytes()
    }

    /// Unless its own mask keeps it.
    fn sent(&self) -> Option<MsiMessage> {
        (!self.is_masked).then_some(self.message)
    }

    /// Writes one word of four. Bits without a meaning stay zero.
    fn write(&mut self, word: u64, value: u32) {
        let MsiMessage { address, data } = &mut self.message;
        match word {
            0 => *address = *address & !u64::from(u32::MAX) | u64::from(value & !3),
            1 => *address = *address & u64::from(u32::MAX) | u64::from(value) << 32,
            2 => *data = value,
            _ => self.is_masked = value & MASKED != 0,
        }
    }
}

impl Msix {
    /// `None` where the capability is cut off, or table or pending bits are where they cannot be: outside of a BAR that is shown (`is_bar`), or
    /// over one another.
    pub(super) fn new(
        found: &Found,
        device: &Device,
        is_bar: impl Fn(u8) -> bool,
        patches: &mut Patches,
    ) -> Option<Self> {
        if found.len < 12 {
            return None;
        }
        let offset = found.offset;
        let vectors = (patches.u16(offset + 2) & SIZE) + 1;
        let table = Place::new(patches.u32(offset + 4), u64::from(vectors) * ENTRY_LEN, device)?;
        let pending = Place::new(patches.u32(offset + 8), u64::from(vectors.div_ceil(64)) * 8, device)?;
        if table.overlaps(&pending) || !is_bar(table.bar) || !is_bar(pending.bar) {
            return None;
        }
        patches.keep(offset + 2, 10);
        patches.set(offset + 2, &(vectors - 1).to_le_bytes());
        patches.let_write(offset + 2, &(FUNCTION_MASK | ENABLE).to_le_bytes());
        Some(Self {
            offset,
            is_enabled: false,
            is_masked: false,
            table,
            pending,
            entries: vec![Entry::default(); vectors.into()],
        })
    }

    /// Where the table is.
    #[must_use]
    pub const fn table(&self) -> &Place {
        &self.table
    }

    /// Where the pending bits are.
    #[must_use]
    pub const fn pending_bits(&self) -> &Place {
        &self.pending
    }

    /// How many vectors the function has, 1 to 2048.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(u16::MAX)
    }

    /// Whether the guest has switched MSI-X on.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// What becomes of a vector's interrupt.
    #[must_use]
    pub fn vector(&self, number: u16) -> Vector {
        match self.entries.get(usize::from(number)).filter(|_| self.is_enabled) {
            None => Vector::Off,
            Some(entry) if self.is_masked || entry.is_masked => Vector::Masked,
            Some(entry) => Vector::Live(entry.message),
        }
    }

    /// Shows that an interrupt of a masked vector is pending, or that none is.
    pub fn set_pending(&mut self, number: u16, is_pending: bool) {
        if let Some(entry) = self.entries.get_mut(usize::from(number)) {
            entry.is_pending = is_pending;
        }
    }

    /// Reads from a BAR. Answers whether the access touches table or pending bits; otherwise it is the function's. Of one that touches them only
    /// in part the other bytes are zeros.
    pub fn read(&self, bar: u8, offset: u64, to: &mut [u8]) -> bool {
        if !self.concerns(bar, offset, to.len()) {
            return false;
        }
        for (at, byte) in (offset..).zip(to) {
            *byte = self.byte(bar, at);
        }
        true
    }

    /// Whether any of these bytes of a BAR are of the table or of the pending bits.
    #[must_use]
    pub fn concerns(&self, bar: u8, offset: u64, len: usize) -> bool {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        let range = offset..offset.saturating_add(len);
        self.table.touches(bar, &range) || self.pending.touches(bar, &range)
    }

    fn byte(&self, bar: u8, offset: u64) -> u8 {
        let within = |place: &Place| {
            let is_in = place.bar == bar && place.range.contains(&offset);
            is_in.then(|| offset - place.range.start)
        };
        let byte = if let Some(at) = within(&self.table) {
            let bytes = self.entry(at).map(Entry::bytes);
            bytes.and_then(|bytes| bytes.get(usize::try_from(at % ENTRY_LEN).ok()?).copied())
        } else if let Some(at) = within(&self.pending) {
            usize::try_from(at * 8).ok().map(|first| {
                let entries = self.entries.iter().skip(first).take(8).zip(0..);
                entries.fold(0, |bits, (entry, bit)| bits | u8::from(entry.is_pending) << bit)
            })
        } else {
            None
        };
        byte.unwrap_or_default()
    }

    fn entry(&self, at: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(at / ENTRY_LEN).ok()?)
    }

    /// Writes to a BAR. The vector of which more than nothing has changed: its mask, or its message while it is not masked.
    ///
    /// Words and pairs of words at aligned offsets in the table are written; whatever else touches table or pending bits is lost, as the
    /// specification leaves it undefined.
    pub fn write(&mut self, bar: u8, offset: u64, from: &[u8]) -> Option<u16> {
        let at = offset.checked_sub(self.table.range.start)?;
        let is_whole = matches!(from.len(), 4 | 8) && at % u64::try_from(from.len()).ok()? == 0;
        if self.table.bar != bar || !is_whole {
            return None;
        }
        let number = u16::try_from(at / ENTRY_LEN).ok()?;
        let entry = self.entries.get_mut(usize::from(number))?;
        let before = entry.sent();
        let words = from.as_chunks().0.iter();
        for (word, value) in (at % ENTRY_LEN / 4..).zip(words) {
            entry.write(word, u32::from_le_bytes(*value));
        }
        let counts = self.is_enabled && !self.is_masked;
        (counts && entry.sent() != before).then_some(number)
    }

    /// Takes over what the guest has written to the control register. Says whether it makes a difference.
    pub(super) fn look(&mut self, patches: &Patches) -> bool {
        let control = patches.u16(self.offset + 2);
        let is = (control & ENABLE != 0, control & FUNCTION_MASK != 0);
        let was = (self.is_enabled, self.is_masked);
        (self.is_enabled, self.is_masked) = is;
        is != was
    }

    /// As after a reset: every vector is masked.
    pub(super) fn reset(&mut self) {
        self.entries.fill(Entry::default());
    }
}
