//! The map of physical memory as firmware hands it over (ACPI 6.5 §15).

use super::HIGH;
use crate::memory::{ECAM, GuestMemory};
use std::ops::Range;

/// The end of memory that kernels may use below 1 MiB.
const LOW_USABLE_END: u64 = 0x9_FC00;
/// Pages that KVM uses for itself.
const KVM_PAGES: Range<u64> = 0xFFFB_C000..0xFFFC_0000;

/// What is at a range of addresses, by its number in both boot protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// All of it, in ascending order. Parts of RAM that touch are one.
pub(super) fn map(memory: &GuestMemory) -> Vec<(Range<u64>, Kind)> {
    let mut map = vec![
        (0..LOW_USABLE_END, Kind::Ram),
        (LOW_USABLE_END..HIGH, Kind::Reserved),
        (HIGH..memory.low_end(), Kind::Ram),
        (ECAM, Kind::Reserved),
        (KVM_PAGES, Kind::Reserved),
    ];
    for ram in memory.ram() {
        let range = ram.range();
        match map.last_mut() {
            _ if range.start < ECAM.start => {}
            Some((last, Kind::Ram)) if last.end == range.start => last.end = range.end,
            _ => map.push((range, Kind::Ram)),
        }
    }
    map
}
