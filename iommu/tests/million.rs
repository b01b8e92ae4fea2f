//! One million live IOVA ranges: that they do not overlap, and what they cost. A program of its own, because it counts the process's memory.

use iommu::allocator::{IovaAllocator, Request};
use iommu::{Iova, IovaRange};

const MILLION: usize = 1_000_000;
const PAGE: u64 = 4096;

/// Anonymous memory in use, in bytes.
#[cfg(test)]
fn resident() -> usize {
    let status = std::fs::read("/proc/self/status").unwrap();
    let status = String::from_utf8(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes * 1024
}

#[test]
fn a_million_live_ranges_are_disjoint_and_take_the_memory_stated() {
    let allowed = IovaRange::new(Iova(0), 1 << 47).unwrap();
    let mut ranges = Vec::with_capacity(MILLION);
    ranges.resize(MILLION, allowed);
    let before = resident();
    let mut allocator = IovaAllocator::new(&[allowed], PAGE).unwrap();
    for (index, slot) in ranges.iter_mut().enumerate() {
        // Sizes from 1 to 7 pages, so that free ranges of all kinds come into being.
        *slot = allocator.allocate(Request::new(PAGE * (1 + index as u64 % 7))).unwrap();
    }
    let used = resident() - before;
    assert_eq!(allocator.live(), MILLION);
    assert!(used <= MILLION * 80, "{} bytes per live range", used / MILLION);

    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].last() < pair[1].start()));

    // Every second one goes: half a million holes, the worst that can be.
    let (kept, gone): (Vec<_>, Vec<_>) = ranges.into_iter().enumerate().partition(|(index, _)| index % 2 == 0);
    for (_, range) in gone {
        allocator.release(range).unwrap();
    }
    let used = resident().saturating_sub(before);
    assert!(
        used <= MILLION * 160,
        "{} bytes per live range and hole",
        used / MILLION
    );
    // And every hole is found again.
    let hole = allocator.allocate(Request::new(PAGE)).unwrap();
    assert!(!kept.iter().any(|(_, range)| range.overlaps(&hole)));
}
