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

/// Holds `used` against what the documentation states: up to 40 bytes for a live range, and twice that for a hole, some of which are
/// indexed under more than one alignment. `peak` live ranges there were; the heap does not give back single nodes.
#[cfg(test)]
fn check_memory(used: usize, peak: usize, live: &[IovaRange]) {
    let touch = |pair: &[IovaRange]| pair[0].last().0 + 1 == pair[1].start().0;
    let holes = live.windows(2).filter(|pair| !touch(pair)).count();
    assert!(
        used <= peak * 40 + holes * 90,
        "{used} bytes, {peak} live ranges, {holes} holes"
    );
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
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].last() < pair[1].start()));
    check_memory(used, MILLION, &ranges);

    // Every second one goes: half a million holes, the worst that can be.
    let mut index = 0;
    let gone: Vec<_> = ranges.extract_if(.., |_| (index % 2 == 1, index += 1).0).collect();
    for range in gone {
        allocator.release(range).unwrap();
    }
    check_memory(resident() - before, MILLION, &ranges);
    // And every hole is found again.
    let hole = allocator.allocate(Request::new(PAGE)).unwrap();
    assert!(!ranges.iter().any(|range| range.overlaps(&hole)));
    allocator.release(hole).unwrap();

    // What was one range becomes one again.
    for range in ranges {
        allocator.release(range).unwrap();
    }
    assert_eq!(allocator.live(), 0);
    let all = IovaRange::new(Iova(PAGE), (1 << 47) - PAGE).unwrap();
    let request = Request::new((1 << 47) - PAGE).aligned_to(PAGE);
    assert_eq!(allocator.allocate(request).unwrap(), all);
}
