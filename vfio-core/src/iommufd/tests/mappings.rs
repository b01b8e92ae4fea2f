//! Mappings: guards, ranged unmaps, leaks, errors.

use super::super::{Ioas, Mapping, PageTable, Placement};
use super::machine::Machine;
use super::{RW, iommufd, memory};
use crate::sys::located::Located;
use crate::sys::located::tests::Asked;
use crate::{Access, Error, ErrorKind, Iova, IovaRange, Memory};
use rustix::io::Errno;
use std::sync::{Arc, Mutex};

pub(super) const PAGE: u64 = 4096;

pub(super) fn range(start: u64, pages: u64) -> IovaRange {
    IovaRange::new(Iova(start), pages * PAGE).unwrap()
}

pub(super) fn map(ioas: &Ioas, memory: &Arc<Memory>, start: u64) -> Result<Mapping, Error> {
    ioas.map(memory.clone(), 0..memory.len(), Placement::Fixed(Iova(start)), RW)
}

pub(super) fn set_up() -> (Arc<Machine>, Ioas, Arc<Memory>) {
    let machine = Machine::new();
    let ioas = iommufd(&machine).alloc_ioas().unwrap();
    (machine, ioas, memory(1))
}

/// How many mappings hold the memory, or have leaked it.
pub(super) fn holders(memory: &Arc<Memory>) -> usize {
    Arc::strong_count(memory) - 1
}

#[test]
fn a_guard_unmaps_and_lets_the_memory_go() {
    let (machine, ioas, memory) = set_up();
    let (first, second) = (
        map(&ioas, &memory, 0x1000).unwrap(),
        map(&ioas, &memory, 0x3000).unwrap(),
    );
    assert_eq!(holders(&memory), 2);
    drop(first);
    second.unmap().unwrap();
    assert!(machine.state().mappings.is_empty());
    assert_eq!(holders(&memory), 0);
}

#[test]
fn a_failed_unmap_leaks_the_memory() {
    let (machine, ioas, memory) = set_up();
    let mapping = map(&ioas, &memory, 0x1000).unwrap();
    machine.fail("ioas_unmap", Errno::BUSY);
    assert!(matches!(mapping.unmap().unwrap_err().kind, ErrorKind::Busy(_)));
    assert_eq!(holders(&memory), 1);
    let mapping = map(&ioas, &memory, 0x3000).unwrap();
    machine.fail("ioas_unmap", Errno::FAULT);
    drop(mapping);
    assert_eq!(holders(&memory), 2);
}

#[test]
fn a_short_unmap_leaks_the_memory() {
    let (machine, ioas, memory) = set_up();
    let mapping = map(&ioas, &memory, 0x1000).unwrap();
    machine.state().short_by = 1;
    let error = mapping.unmap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::ShortUnmap { want: 4096, got: 4095 });
    assert_eq!(holders(&memory), 1);
}

#[test]
fn a_mapping_that_somebody_else_unmapped_is_leaked() {
    let (machine, ioas, memory) = set_up();
    let mapping = map(&ioas, &memory, 0x1000).unwrap();
    machine.state().mappings.clear();
    assert_eq!(
        mapping.unmap().unwrap_err().kind,
        ErrorKind::NotMapped(range(0x1000, 1))
    );
    assert_eq!(holders(&memory), 1, "a part may have been left");
}

#[test]
fn a_mapping_in_whose_place_another_is_may_be_there_in_part() {
    let (machine, ioas, _) = set_up();
    let (first, second) = (memory(2), memory(1));
    let cut = map(&ioas, &first, 0x1000).unwrap();
    // Somebody else cuts it; the half at 0x1000 stays.
    machine.state().mappings.get_mut(&(ioas.id().0, 0x1000)).unwrap().len = PAGE;
    let next = map(&ioas, &second, 0x2000).unwrap();
    cut.unmap().unwrap_err();
    assert_eq!(holders(&first), 1);
    next.unmap().unwrap();
    assert_eq!(holders(&second), 0);
}

#[test]
fn a_failed_ranged_unmap_tells_nothing_where_others_unmap_too() {
    let (machine, ioas, memory) = set_up();
    ioas.object().iommufd().set_vfio_ioas(&ioas).unwrap();
    let guards: Vec<_> = (1..4).map(|page| map(&ioas, &memory, page * PAGE).unwrap()).collect();
    machine.state().locked.push((ioas.id().0, 3 * PAGE));
    ioas.unmap(range(0x1000, 3)).unwrap_err();
    machine.state().locked.clear();
    drop(guards);
    assert_eq!(holders(&memory), 2, "the two that are not found, or not whole");
}

#[test]
fn memory_comes_back_by_its_own_unmap_only() {
    let (machine, ioas, memory) = set_up();
    let located = Located::new(memory.clone());
    let loan = ioas.space().map(located, 0..4096, Some(0x1000), RW);
    drop(loan.unwrap());
    assert_eq!(machine.state().mappings.len(), 1, "nobody has unmapped it");
    assert_eq!(ioas.unmap(IovaRange::ALL).unwrap(), PAGE);
    assert_eq!(holders(&memory), 1, "and nobody is left to let go of it");
}

#[test]
fn a_stale_guard_does_not_touch_the_next_mapping() {
    let (machine, ioas, memory) = set_up();
    let stale = [
        map(&ioas, &memory, 0x1000).unwrap(),
        map(&ioas, &memory, 0x2000).unwrap(),
    ];
    assert_eq!(ioas.unmap(range(0x1000, 2)).unwrap(), 2 * PAGE);
    let next = map(&ioas, &memory, 0x2000).unwrap();
    for guard in stale {
        guard.unmap().unwrap();
    }
    assert_eq!(machine.state().mappings.len(), 1);
    next.unmap().unwrap();
    assert!(machine.state().mappings.is_empty());
    assert_eq!(holders(&memory), 0);
}

#[test]
fn a_ranged_unmap_cuts_no_mapping() {
    let (machine, ioas, _) = set_up();
    let memory = memory(2);
    let whole = map(&ioas, &memory, 0x4000).unwrap();
    let beside = map(&ioas, &memory, 0x2000).unwrap();
    for cut in [range(0x5000, 3), range(0x2000, 3), range(0x5000, 1)] {
        assert_eq!(ioas.unmap(cut).unwrap_err().kind, ErrorKind::NotMapped(cut));
    }
    assert_eq!(machine.state().mappings.len(), 2);
    assert_eq!(
        ioas.unmap(range(0x8000, 1)).unwrap_err().kind,
        ErrorKind::NotMapped(range(0x8000, 1))
    );
    assert_eq!(ioas.unmap(IovaRange::ALL).unwrap(), 4 * PAGE);
    assert_eq!(ioas.unmap(IovaRange::ALL).unwrap(), 0);
    drop((whole, beside));
}

#[test]
fn guards_know_what_a_failed_ranged_unmap_left() {
    let (machine, ioas, memory) = set_up();
    let guards: Vec<_> = (1..4).map(|page| map(&ioas, &memory, page * PAGE).unwrap()).collect();
    machine.state().locked.push((ioas.id().0, 2 * PAGE));
    assert!(matches!(
        ioas.unmap(range(0x1000, 3)).unwrap_err().kind,
        ErrorKind::Busy(_)
    ));
    let left: Vec<_> = guards.iter().map(Mapping::is_mapped).collect();
    assert_eq!(left, [false, true, true]);
    let next = map(&ioas, &memory, 0x1000).unwrap();
    machine.state().locked.clear();
    for guard in guards {
        guard.unmap().unwrap();
    }
    assert_eq!(
        machine.state().mappings.len(),
        1,
        "the first was gone, and what is there now is another's"
    );
    drop(next);
    assert_eq!(holders(&memory), 0);
}

#[test]
fn memory_is_leaked_where_nobody_can_tell() {
    let (machine, ioas, memory) = set_up();
    let guard = map(&ioas, &memory, 0x1000).unwrap();
    machine.fail("ioas_unmap", Errno::FAULT);
    machine.fail("ioas_copy", Errno::NOMEM);
    ioas.unmap(IovaRange::ALL).unwrap_err();
    guard.unmap().unwrap_err();
    assert_eq!(holders(&memory), 1);
    assert_eq!(machine.state().mappings.len(), 1, "it may be another's");
}

#[test]
fn what_is_not_found_is_not_given_back_if_others_come_meanwhile() {
    let (machine, ioas, memory) = set_up();
    let guards: Vec<_> = (1..3).map(|page| map(&ioas, &memory, page * PAGE).unwrap()).collect();
    machine.state().locked.push((ioas.id().0, 2 * PAGE));
    let iommufd = ioas.object().iommufd().clone();
    machine.observe(move |call| {
        if call == "ioas_copy" {
            iommufd.sharing().begin();
        }
    });
    ioas.unmap(range(0x1000, 2)).unwrap_err();
    machine.state().locked.clear();
    drop(guards);
    assert_eq!(holders(&memory), 1, "the one of which a part may be there");
}

#[test]
fn a_place_in_a_file_is_not_called_an_address() {
    let (machine, ioas, _) = set_up();
    machine.fail("ioas_map_file", Errno::INVAL);
    let file = tempfile::tempfile().unwrap();
    let mapped = ioas.map_file(&file, 16, PAGE, Placement::Fixed(Iova(0x1000)), RW);
    let expected = "the offset must be a multiple of 0x1000, and is 0x10";
    assert_eq!(mapped.unwrap_err().kind.to_string(), expected);
}

#[test]
fn errors_say_why() {
    let (machine, ioas, memory) = set_up();
    let fail = |start, errno: Option<Errno>| {
        errno.inspect(|errno| machine.fail("ioas_map", *errno));
        map(&ioas, &memory, start).unwrap_err().kind
    };
    let held = map(&ioas, &memory, 0x1000).unwrap();
    assert_eq!(fail(0x1000, None), ErrorKind::AlreadyMapped(range(0x1000, 1)));
    assert_eq!(fail(0, None), ErrorKind::NotAllowed(range(0, 1)));
    assert!(matches!(fail(0x1800, None), ErrorKind::Misaligned { .. }));
    for errno in [Errno::ADDRINUSE, Errno::NOSPC] {
        assert_eq!(fail(0x2000, Some(errno)), ErrorKind::NotAllowed(range(0x2000, 1)));
    }
    for errno in [Errno::OVERFLOW, Errno::INVAL, Errno::FAULT] {
        assert_eq!(fail(0x2000, Some(errno)), ErrorKind::Os(errno));
    }
    assert!(matches!(
        fail(0x2000, Some(Errno::OPNOTSUPP)),
        ErrorKind::Unsupported { .. }
    ));
    let kind = |part, access| {
        let mapped = ioas.map(memory.clone(), part, Placement::Fixed(Iova(0x2000)), access);
        mapped.unwrap_err().kind.to_string()
    };
    for (alignment, part, what, value) in [
        (0x1000, 16..4096, "length", 4080),
        (0x20, 16..48, "address", memory.map().address().addr() + 16),
        (0x4000, 0..4096, "IOVA", 0x2000),
    ] {
        machine.state().alignment = alignment;
        machine.fail("ioas_map", Errno::INVAL);
        let expected = format!("the {what} must be a multiple of {alignment:#x}, and is {value:#x}");
        assert_eq!(kind(part, RW), expected);
    }
    machine.state().alignment = 0x1000;
    assert_eq!(kind(16..16, RW), "a mapping of no bytes");
    assert_eq!(
        kind(0..4096, Access::empty()),
        "a mapping that may be neither read nor written"
    );
    let outside = ioas.map(memory.clone(), 0..4097, Placement::Any, RW);
    assert!(matches!(outside.unwrap_err().kind, ErrorKind::Invalid(_)));
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tried")]
    let reversed = ioas.map(memory.clone(), 8..4, Placement::Any, RW);
    assert!(matches!(reversed.unwrap_err().kind, ErrorKind::Invalid(_)));
    drop(held);
    assert_eq!(holders(&memory), 0);
}

#[test]
fn a_mapping_in_the_wrong_place_is_not_trusted() {
    let (machine, ioas, memory) = set_up();
    machine.state().elsewhere = Some(0x9000);
    assert!(matches!(
        map(&ioas, &memory, 0x1000).unwrap_err().kind,
        ErrorKind::Malformed(_)
    ));
    assert_eq!(holders(&memory), 1, "a device may reach it");
}

#[test]
fn ranges_are_taken_only_if_they_make_sense() {
    let (machine, ioas, _) = set_up();
    let many: Vec<_> = (0..100)
        .map(|index| (index * 0x10000, index * 0x10000 + 0xfff))
        .collect();
    machine.state().ranges.clone_from(&many);
    let found = ioas.iova_ranges().unwrap();
    assert_eq!(
        found
            .ranges
            .iter()
            .map(|range| (range.start().0, range.last().0))
            .collect::<Vec<_>>(),
        many
    );
    for odd in [
        vec![(5, 4)],
        vec![(0, 10), (10, 20)],
        vec![(50, 60), (0, 10)],
        vec![(0, 0); 70_000],
    ] {
        machine.state().ranges = odd;
        assert!(matches!(ioas.iova_ranges().unwrap_err().kind, ErrorKind::Malformed(_)));
    }
    machine.state().ranges = vec![(0, u64::MAX)];
    machine.state().alignment = 0;
    assert!(matches!(ioas.iova_ranges().unwrap_err().kind, ErrorKind::Malformed(_)));
}

#[test]
fn an_allowed_range_that_is_reserved_is_named() {
    let (machine, ioas, _) = set_up();
    machine.fail("ioas_allow_iovas", Errno::ADDRINUSE);
    let error = ioas.allow_iovas(&[range(0x2000, 1), range(0, 1)]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotAllowed(range(0, 1)));
}

#[test]
fn ranges_that_never_hold_still_are_given_up() {
    let (machine, ioas, _) = set_up();
    let grown = Arc::clone(&machine);
    machine.observe(move |_| {
        let count = grown.state().ranges.len() as u64;
        grown.state().ranges = (0..count * 2 + 16)
            .map(|index| (index << 16, (index << 16) + 0xfff))
            .collect();
    });
    assert!(matches!(ioas.iova_ranges().unwrap_err().kind, ErrorKind::Malformed(how) if how.contains("grow")));
}

#[test]
fn a_ranged_unmap_waits_for_guards_and_they_for_it() {
    let (machine, ioas, memory) = set_up();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (watched, noted) = (ioas.clone(), Arc::clone(&seen));
    machine.observe(move |call| noted.lock().unwrap().push((call, watched.space().is_open_for())));
    let mapping = map(&ioas, &memory, 0x1000).unwrap();
    let copy = ioas.copy(&mapping, Placement::Fixed(Iova(0x2000)), RW).unwrap();
    drop(mapping);
    ioas.unmap(IovaRange::ALL).unwrap();
    drop(copy);
    let (shared, alone) = ((true, false), (false, false));
    let calls = [
        ("ioas_map", shared),
        ("ioas_copy", shared),
        ("ioas_unmap", shared),
        ("ioas_unmap", alone),
        ("ioas_unmap", alone),
    ];
    assert_eq!(
        *seen.lock().unwrap(),
        calls,
        "the kernel is called with the registry held, a ranged unmap with it alone"
    );
    assert_eq!(ioas.space().is_open_for(), (true, true));
}

/// Threads map the same few places, unmap them one by one and by ranges. If a guard ever unmapped another's mapping, that other's guard
/// would find nothing; if a ranged unmap ever missed one, something would be left.
#[test]
fn guards_and_ranged_unmaps_race_without_harm() {
    let (machine, ioas, memory) = set_up();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (ioas, memory) = (&ioas, &memory);
            scope.spawn(move || {
                let mut held = Vec::new();
                for turn in 0..400_u64 {
                    let start = 0x1000 + (turn * 7 + thread * 3) % 5 * PAGE;
                    match map(ioas, memory, start) {
                        Ok(mapping) => held.push(mapping),
                        Err(error) => assert_eq!(error.kind, ErrorKind::AlreadyMapped(range(start, 1))),
                    }
                    if thread == 0 && turn % 3 == 0 {
                        ioas.unmap(IovaRange::ALL).unwrap();
                    }
                    if turn % 2 == 0 && !held.is_empty() {
                        held.swap_remove(0).unmap().unwrap();
                    }
                }
                for mapping in held {
                    mapping.unmap().unwrap();
                }
            });
        }
    });
    assert!(machine.state().mappings.is_empty());
    assert_eq!(holders(&memory), 0);
}

#[test]
fn memory_is_asked_with_nothing_locked() {
    let (_machine, ioas, _) = set_up();
    let (asking, count) = (ioas.clone(), Arc::new(Mutex::new(0)));
    let counted = Arc::clone(&count);
    let memory = Asked::shared(move || {
        assert_eq!(asking.space().is_open_for(), (true, true));
        *counted.lock().unwrap() += 1;
    });
    let fixed = |start| Placement::Fixed(Iova(start));
    drop(ioas.map(Arc::clone(&memory), 0..4096, fixed(0x1000), RW).unwrap());
    ioas.map(memory, 0..4096, fixed(0x1800), RW).unwrap_err();
    assert!(*count.lock().unwrap() > 0);
}
