//! Base address registers and expansion ROM (PCIe 6.0 §7.5.1.2.1 and §7.5.1.2.4).
//!
//! What is shown has the size that the holder of the function states, not one that the device's registers claim. I/O BARs are not shown: nothing
//! forwards I/O to the function.

use super::Device;
use super::patches::Patches;
use crate::pci::Windows;
use crate::pci::layout::Need;
use pci::BarIndex;
use std::ops::Range;

/// From the first BAR to the ROM, with what is between.
pub(super) const REGISTERS: Range<u16> = 0x10..ROM + 4;
const ROM: u16 = 0x30;
const ROM_ENABLE: u8 = 1;
const IO: u32 = 1;
const TYPE: u32 = 3 << 1;
const TYPE_32: u32 = 0;
const TYPE_64: u32 = 2 << 1;
const PREFETCHABLE: u32 = 1 << 3;

/// The BARs of a function that the guest sees, and the ROM behind them.
#[derive(Debug, Clone)]
pub(super) struct Bars {
    list: [Option<Bar>; COUNT],
    /// Where each answers; nowhere, when not.
    decoded: [Option<u64>; COUNT],
    /// What these windows allowed.
    windows: Windows,
}

const COUNT: usize = 7;

#[derive(Debug, Clone, Copy)]
struct Bar {
    register: u16,
    index: BarIndex,
    len: u64,
    is_64: bool,
    is_prefetchable: bool,
}

impl Bars {
    /// Takes the kinds from the image, where they make sense, and lets the guest write addresses.
    pub(super) fn new(device: &Device, are_wide_prefetchable: bool, patches: &mut Patches) -> Self {
        let mut list = [None; COUNT];
        let mut is_upper_half = false;
        for ((place, number), size) in list.iter_mut().zip(0_u8..).zip(device.bar_sizes) {
            let register = REGISTERS.start + 4 * u16::from(number);
            if std::mem::take(&mut is_upper_half) {
                continue;
            }
            patches.fix(register, &[0; 4]);
            let kind = device.config.u32(register).unwrap_or_default();
            let Some(bar) = Bar::new(number, register, kind, size, are_wide_prefetchable) else {
                continue;
            };
            bar.show(patches);
            is_upper_half = bar.is_64;
            *place = Some(bar);
        }
        patches.fix(ROM, &[0; 4]);
        if let (Some(place), Some(rom)) = (list.last_mut(), Bar::rom(device.rom_size)) {
            rom.show(patches);
            *place = Some(rom);
        }
        Self {
            list,
            decoded: [None; COUNT],
            windows: Windows::NONE,
        }
    }

    /// What is needed for them.
    pub(super) fn needs(&self) -> Vec<Need> {
        let bars = self.list.iter().flatten();
        bars.map(|bar| Need {
            index: bar.index,
            len_bytes: bar.len,
            is_64: bar.is_64,
            is_prefetchable: bar.is_prefetchable,
        })
        .collect()
    }

    /// Writes an address, as the guest would. A ROM stays disabled.
    pub(super) fn place(&self, index: BarIndex, address: u64, patches: &mut Patches) {
        if let Some(bar) = self.list.iter().flatten().find(|bar| bar.index == index) {
            let [a, b, c, d, upper @ ..] = (address & !(bar.len - 1)).to_le_bytes();
            patches.set_writable(bar.register, &[a, b, c, d]);
            if bar.is_64 {
                patches.set_writable(bar.register + 4, &upper);
            }
        }
    }

    /// Whether this BAR is shown, and is not the upper half of another one.
    pub(super) fn has(&self, number: u8) -> bool {
        let bar = self.list.get(usize::from(number)).copied().flatten();
        bar.is_some_and(|bar| bar.index == BarIndex::Bar(number))
    }

    /// Looks where they answer now: nowhere but in `windows`, and never where an earlier one does. Says whether that has changed.
    /// Their registers are looked at where those `may_differ` from the last time, or the windows do.
    pub(super) fn decode(&mut self, patches: &Patches, windows: Windows, may_differ: bool) -> bool {
        if !may_differ && windows == self.windows {
            return false;
        }
        self.windows = windows;
        let mut decoded = [None; COUNT];
        for (number, bar) in self.list.iter().enumerate() {
            let address = bar.and_then(|bar| bar.address(patches).map(|start| (bar, start)));
            let Some((bar, start)) = address else { continue };
            let Some(end) = start.checked_add(bar.len) else {
                continue;
            };
            let is_free = !self
                .ranges(&decoded)
                .any(|(_, taken)| start < taken.end && taken.start < end);
            if is_free
                && windows.contain(&(start..end))
                && let Some(place) = decoded.get_mut(number)
            {
                *place = Some(start);
            }
        }
        let was = std::mem::replace(&mut self.decoded, decoded);
        was != decoded
    }

    /// Where they answer.
    pub(super) fn decoded(&self) -> impl Iterator<Item = (BarIndex, Range<u64>)> {
        self.ranges(&self.decoded)
    }

    fn ranges(&self, decoded: &[Option<u64>; COUNT]) -> impl Iterator<Item = (BarIndex, Range<u64>)> {
        let bars = self.list.iter().zip(*decoded);
        bars.filter_map(|(bar, start)| {
            let (bar, start) = ((*bar)?, start?);
            Some((bar.index, start..start + bar.len))
        })
    }
}

impl Bar {
    /// `None` for what cannot be a memory BAR.
    fn new(number: u8, register: u16, kind: u32, size: u64, is_wide_prefetchable: bool) -> Option<Self> {
        let len = size.checked_next_power_of_two().filter(|_| size > 0)?.max(16);
        let is_64 = match kind & TYPE {
            TYPE_32 => false,
            TYPE_64 => true,
            _ => return None,
        };
        // Nothing is behind the last register, and 32 bits have an address for half of what they reach.
        if kind & IO != 0 || is_64 && number == 5 || !is_64 && len > 1 << 31 {
            return None;
        }
        Some(Self {
            register,
            index: BarIndex::Bar(number),
            len,
            is_64,
            is_prefetchable: kind & PREFETCHABLE != 0 || is_64 && is_wide_prefetchable,
        })
    }

    /// The smallest is of 2 KiB, the largest of 16 MiB, of what the specification allows; larger ones have been seen.
    fn rom(size: u64) -> Option<Self> {
        let len = size.checked_next_power_of_two().filter(|_| size > 0)?.max(1 << 11);
        (len <= 1 << 31).then_some(Self {
            register: ROM,
            index: BarIndex::Rom,
            len,
            is_64: false,
            is_prefetchable: false,
        })
    }

    fn show(&self, patches: &mut Patches) {
        let [a, b, c, d, upper @ ..] = (!(self.len - 1)).to_le_bytes();
        if self.index == BarIndex::Rom {
            patches.let_write(self.register, &[a | ROM_ENABLE, b, c, d]);
            return;
        }
        let kind = if self.is_64 { TYPE_64 } else { TYPE_32 };
        let prefetchable = if self.is_prefetchable { PREFETCHABLE } else { 0 };
        patches.fix(self.register, &(kind | prefetchable).to_le_bytes());
        patches.let_write(self.register, &[a, b, c, d]);
        if self.is_64 {
            patches.fix(self.register + 4, &[0; 4]);
            patches.let_write(self.register + 4, &upper);
        }
    }

    /// `None` for a ROM that is disabled.
    fn address(self, patches: &Patches) -> Option<u64> {
        let low = patches.u32(self.register);
        if self.index == BarIndex::Rom && low & u32::from(ROM_ENABLE) == 0 {
            return None;
        }
        let upper = if self.is_64 { patches.u32(self.register + 4) } else { 0 };
        Some((u64::from(upper) << 32 | u64::from(low)) & !(self.len - 1))
    }
}
