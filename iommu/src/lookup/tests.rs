#![expect(clippy::cast_possible_truncation, reason = "addresses of this process")]

use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// The answers that would be right.
fn expected(mappings: &[(u64, u64, u64)], address: u64, len: u64) -> Vec<u64> {
    let at = |address: u64| {
        let inside = move |&&(start, len, _): &&(u64, u64, u64)| start <= address && address < start + len;
        let mapped = mappings.iter().filter(inside);
        mapped.map(move |&(start, _, iova)| iova + (address - start))
    };
    let is_right = |first: &u64| {
        let mut offsets = (0..len).step_by(512).chain([len - 1]);
        offsets.all(|offset| at(address + offset).any(|iova| iova == first + offset))
    };
    if len == 0 {
        return vec![];
    }
    at(address).filter(is_right).collect()
}

fn is_mapped_once(mappings: &[(u64, u64, u64)], address: u64, len: u64) -> bool {
    let of_page = |page: u64| {
        let inside = |&&(start, len, _): &&(u64, u64, u64)| start <= page && page < start + len;
        mappings.iter().filter(inside).count()
    };
    (address / PAGE..=(address + len) / PAGE).all(|page| of_page(page * PAGE) <= 1)
}

proptest! {
    #[test]
    fn answers_as_a_table_of_every_page_would(
        changes in prop::collection::vec((0_u64..24, 1_u64..8, 0_u64..3, any::<bool>()), 1..20),
        questions in prop::collection::vec((0_u64..34 * PAGE, 0_u64..6 * PAGE), 1..40),
        base in prop::sample::select(vec![0, 2 * MIB - 9 * PAGE, GIB - 5 * PAGE, (1 << 47) - 3 * PAGE]),
    ) {
        let translator = Translator::new();
        let mut mappings: Vec<(u64, u64, u64)> = vec![];
        for (first, count, gap, remove) in changes {
            let (address, len) = (base + first * PAGE, count * PAGE);
            if remove && !mappings.is_empty() {
                let (address, len, iova) = mappings.swap_remove(first as usize % mappings.len());
                let remove = || translator.remove(address as usize, len as usize, Iova(iova));
                remove().unwrap();
                prop_assert!(remove().is_err());
                continue;
            }
            // Some neighbours are contiguous as the device sees them too.
            let iova = first * PAGE + (gap << 30);
            let overlaps = |&&(start, other, _): &&(u64, u64, u64)| address < start + other && start < address + len;
            let is_same = |&(start, _, other): &(u64, u64, u64)| iova.wrapping_sub(address) == other.wrapping_sub(start);
            let is_noted = mappings.iter().filter(overlaps).any(is_same);
            let inserted = translator.insert(address as usize, len as usize, Iova(iova));
            prop_assert_eq!(inserted.is_err(), is_noted);
            if !is_noted {
                mappings.push((address, len, iova));
            }
        }
        prop_assert_eq!(translator.len(), mappings.len());
        for (offset, len) in questions {
            let address = base + offset;
            let answers = expected(&mappings, address, len);
            let found = translator.lookup(address as usize, len as usize).map(|iova| iova.0);
            match found {
                Some(iova) => prop_assert!(answers.contains(&iova), "{iova:x} of {answers:x?}"),
                // Across pages it may have met several mappings.
                None if is_mapped_once(&mappings, address, len) || (address % PAGE + len) <= PAGE => {
                    prop_assert!(answers.is_empty(), "{answers:x?}");
                }
                None => {}
            }
        }
    }
}

#[test]
fn large_mappings_take_large_entries() {
    let translator = Translator::new();
    let (start, len) = (3 * GIB - 2 * MIB, 2 * GIB + 6 * MIB + PAGE);
    translator.insert(start as usize, len as usize, Iova(0x1000)).unwrap();
    for (offset, bits) in [
        (0, 9),
        (2 * MIB, 18),
        (2 * MIB + GIB, 18),
        (2 * GIB + 2 * MIB, 9),
        (len - PAGE, 0),
    ] {
        let (entry, got) = translator.root.read((start + offset) / PAGE);
        assert_eq!((entry & VALID, got), (VALID, bits), "at {offset:#x}");
    }
    assert_eq!(translator.lookup(start as usize, len as usize), Some(Iova(0x1000)));
    assert_eq!(translator.lookup(start as usize, len as usize + 1), None);
    assert_eq!(translator.lookup(start as usize - 1, 2), None);
    translator.remove(start as usize, len as usize, Iova(0x1000)).unwrap();
    assert_eq!(translator.lookup(start as usize, 1), None);
}

#[test]
fn memory_that_is_mapped_twice_is_found_until_both_are_gone() {
    let page = PAGE as usize;
    // In pages, in large entries, and across the two.
    for (start, len) in [
        (5 * page, 3 * page),
        (4 << 20, 4 << 20),
        ((4 << 20) - page, (4 << 20) + 2 * page),
    ] {
        let whole = (start, len, Iova(0x1000_0000));
        let same = (start, len, Iova(0x2000_0000));
        let part = (start + page, len - page, Iova(0x3000_0000));
        for (first, second) in [(whole, same), (whole, part), (part, whole)] {
            for goes_first in [true, false] {
                let translator = Translator::new();
                for (address, len, iova) in [first, second] {
                    translator.insert(address, len, iova).unwrap();
                }
                assert_eq!(translator.len(), 2);
                let (gone, kept) = if goes_first { (first, second) } else { (second, first) };
                translator.remove(gone.0, gone.1, gone.2).unwrap();
                assert_eq!(translator.lookup(kept.0, kept.1), Some(kept.2));
                assert_eq!(translator.lookup(kept.0 + kept.1 - 1, 2), None);
                translator.remove(kept.0, kept.1, kept.2).unwrap();
                assert_eq!(translator.lookup(start + page, 1), None);
            }
        }
    }
}

#[test]
fn pages_below_a_large_entry_are_not_taken_for_vacant() {
    let page = PAGE as usize;
    let large = (4 << 20, 2 << 20, Iova(0x1000_0000));
    let inside = (large.0 + 5 * page, 3 * page, Iova(0x3000_0000));
    let same = (inside.0, inside.1, Iova(large.2.0 + 5 * PAGE));
    let translator = Translator::new();
    translator.insert(large.0, large.1, large.2).unwrap();
    assert!(translator.insert(same.0, same.1, same.2).is_err(), "noted already");
    translator.insert(inside.0, inside.1, inside.2).unwrap();
    translator.remove(large.0, large.1, large.2).unwrap();
    assert_eq!(translator.lookup(large.0, page), None);
    assert_eq!(translator.lookup(inside.0, inside.1), Some(inside.2));
    translator.insert(large.0, large.1, large.2).unwrap();
    translator.remove(inside.0, inside.1, inside.2).unwrap();
    assert_eq!(translator.lookup(large.0, large.1), Some(large.2));
}

#[test]
fn what_cannot_be_a_mapping_is_refused() {
    let translator = Translator::new();
    for (address, len, iova) in [
        (1, PAGE, 0),
        (0, 1, 0),
        (0, PAGE, 7),
        (0, 0, 0),
        (1 << 48, PAGE, 0),
        ((1 << 48) - PAGE, 2 * PAGE, 0),
        (0, 2 * PAGE, u64::MAX - PAGE + 1),
    ] {
        assert!(
            translator.insert(address as usize, len as usize, Iova(iova)).is_err(),
            "{address:#x} {len:#x}"
        );
    }
    assert!(translator.is_empty());
    assert_eq!(translator.lookup(usize::MAX, 2), None);
    assert_eq!(translator.lookup(0, 0), None);
}

#[test]
fn readers_find_what_stays_while_its_neighbours_come_and_go() {
    let translator = Translator::new();
    let page = PAGE as usize;
    translator.insert(8 * page, 2 * page, Iova(0x8000)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..20_000 {
                let iova = Iova(0x10_0000 + 0x1_0000 * (round % 3));
                translator.insert(10 * page, 6 * page, iova).unwrap();
                translator.remove(10 * page, 6 * page, iova).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            assert_eq!(translator.lookup(8 * page + 5, 2 * page - 5), Some(Iova(0x8005)));
            let moving = translator.lookup(10 * page, page).map(|iova| iova.0);
            assert!(moving.is_none_or(|iova| [0x10_0000, 0x11_0000, 0x12_0000].contains(&iova)));
        }
    });
}
