use super::testing::Ledger;
use super::*;
use proptest::prelude::*;
use vfio_core::{Memory, MemoryOptions};

const READ: MapOptions = MapOptions::new(Access::READ);

fn memory(pages: usize) -> Arc<Memory> {
    Arc::new(Memory::new(pages * 4096, MemoryOptions::default()).unwrap())
}

#[test]
fn what_is_mapped_is_found_until_it_is_unmapped() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    let memory = memory(4);
    let mapping = space.map(&memory, 4096..3 * 4096, READ).unwrap();
    assert_eq!(
        space.lookup_part(&*memory, 4100..3 * 4096),
        mapping.iova().checked_add(4)
    );
    assert_eq!(space.lookup_part(&*memory, 4100..3 * 4096 + 1), None);
    assert_eq!(ledger.state().mapped[&mapping.iova()].1, Access::READ);
    mapping.unmap().unwrap();
    assert_eq!(space.lookup_part(&*memory, 4096..4097), None);
    assert_eq!((space.mappings(), ledger.mapped_bytes()), (0, 0));
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn memory_that_is_mapped_twice_is_found_while_either_mapping_is_there() {
    let space = Ledger::new().space().unwrap();
    let memory = memory(4);
    for first_goes_first in [true, false] {
        let first = space.map(&memory, 0..3 * 4096, READ).unwrap();
        let second = space.map(&memory, 4096..4 * 4096, READ).unwrap();
        assert_eq!(space.lookup_part(&*memory, 0..3 * 4096), Some(first.iova()));
        assert_eq!(
            space.lookup_part(&*memory, 3 * 4096..4 * 4096),
            second.iova().checked_add(8192)
        );
        if first_goes_first {
            drop(first);
            assert_eq!(space.lookup_part(&*memory, 4096..4 * 4096), Some(second.iova()));
        } else {
            drop(second);
            assert_eq!(space.lookup_part(&*memory, 0..3 * 4096), Some(first.iova()));
        }
    }
}

#[test]
fn a_fixed_iova_is_taken_once() {
    let space = Ledger::new().space().unwrap();
    let memory = memory(2);
    let first = space.map(&memory, 0..4096, READ.at(Iova(0x10_0000))).unwrap();
    assert!(matches!(
        space.map(&memory, 0..8192, READ.at(Iova(0xf_f000))),
        Err(Error::InUse { .. })
    ));
    assert!(matches!(
        space.map(&memory, 0..4096, READ.at(Iova(1 << 40))),
        Err(Error::NotAllowed(_))
    ));
    assert!(matches!(
        space.map(&memory, 0..4096, READ.at(Iova(0x123))),
        Err(Error::Invalid(_))
    ));
    drop(first);
    drop(space.map(&memory, 0..8192, READ.at(Iova(0xf_f000))).unwrap());
}

#[test]
fn what_is_in_the_way_of_a_fixed_iova_is_named() {
    let in_the_way = |space: &AddressSpace, memory: &Arc<Memory>| {
        let wanted = IovaRange::new(Iova(0xf_f000), 8192).unwrap();
        match space.map(memory, 0..8192, READ.at(wanted.start())) {
            Err(Error::InUse {
                wanted: named,
                range,
                by,
            }) if named == wanted => (range, by),
            other => panic!("{other:?}"),
        }
    };
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    let memory = memory(4);
    let mapped = space.map(&memory, 0..3 * 4096, READ.at(Iova(0x10_0000))).unwrap();
    assert_eq!(in_the_way(&space, &memory), (mapped.range(), Obstacle::Memory));
    let range = mapped.range();
    mapped.unmap().unwrap();
    let kept = space.reserve(3 * 4096, &READ.at(range.start())).unwrap();
    assert_eq!(in_the_way(&space, &memory), (range, Obstacle::Kept));
    space.shared.leak(range);
    drop(kept);
    assert_eq!(in_the_way(&space, &memory), (range, Obstacle::Leaked));
    let space = ledger.space().unwrap();
    let stuck = space.map(&memory, 0..3 * 4096, READ.at(range.start())).unwrap();
    let next = ledger.state().calls + 1;
    ledger.state().fail_at = Some(next);
    assert!(stuck.unmap().is_err());
    assert_eq!(in_the_way(&space, &memory), (range, Obstacle::Leaked));
}

#[test]
fn a_fixed_iova_that_contradicts_the_rest_is_refused() {
    let space = Ledger::new().space().unwrap();
    let memory = memory(2);
    let fixed = READ.at(Iova(0xffff_f000));
    for contradiction in [
        fixed.within(32).aligned_to(8192),
        fixed.within(31),
        fixed.aligned_to(3 << 12),
        READ.at(Iova(0)).within(0),
    ] {
        let refused = space.map(&memory, 0..4096, contradiction);
        assert!(
            matches!(refused, Err(Error::Invalid(_))),
            "{contradiction:?}: {refused:?}"
        );
    }
    // Its last byte decides.
    assert!(matches!(
        space.map(&memory, 0..8192, fixed.within(32)),
        Err(Error::Invalid(_))
    ));
    for fits in [fixed.within(32), fixed.within(64), fixed.aligned_to(4096), fixed] {
        space.map(&memory, 0..4096, fits).unwrap().unmap().unwrap();
    }
}

#[test]
fn memory_that_begins_inside_a_large_page_can_still_have_large_pages() {
    const LARGE: u64 = 2 << 20;
    let space = Ledger::new().space().unwrap();
    let memory = memory(1200);
    for first in [0, 1, 100] {
        let mapping = space.map(&memory, first * 4096..1200 * 4096, READ).unwrap();
        let address = (memory.address().addr() + first * 4096) as u64;
        assert_eq!(mapping.iova().0 % LARGE, address % LARGE);
        drop(mapping);
        // What is asked for goes before.
        let aligned = space
            .map(&memory, first * 4096..1200 * 4096, READ.aligned_to(LARGE))
            .unwrap();
        assert!(aligned.iova().is_aligned_to(LARGE));
    }
}

#[test]
fn parts_that_are_none_are_refused() {
    let space = Ledger::new().space().unwrap();
    let memory = memory(2);
    #[expect(clippy::reversed_empty_ranges, reason = "what a caller may get wrong")]
    for part in [0..0, 0..3 * 4096, 4096..0, 0..100] {
        assert!(matches!(space.map(&memory, part, READ), Err(Error::Invalid(_))));
    }
    assert!(matches!(
        space.map_shared(&memory, 0..4096, READ),
        Err(Error::Invalid(_))
    ));
}

#[test]
fn a_failed_unmap_leaks_memory_and_iova() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    let memory = memory(1);
    let mapping = space.map(&memory, 0..4096, READ).unwrap();
    let iova = mapping.iova();
    let next = ledger.state().calls + 1;
    ledger.state().fail_at = Some(next);
    assert!(mapping.unmap().is_err());
    assert!(Arc::strong_count(&memory) > 1, "a device may still reach it");
    assert!(matches!(
        space.map(&memory, 0..4096, READ.at(iova)),
        Err(Error::InUse { .. })
    ));
    assert_ne!(space.map(&memory, 0..4096, READ).unwrap().iova(), iova);
}

#[test]
fn iovas_where_something_may_be_mapped_are_not_given_back() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    let memory = memory(1);
    let page = |page: u64| IovaRange::new(Iova(0x10_0000 + page * 4096), 4096).unwrap();
    let kept = space.reserve(3 * 4096, &READ.at(page(0).start())).unwrap();
    let map = || {
        let source = Source::Memory(Arc::<Memory>::clone(&memory), 0..4096);
        space.map_reserved(&source, page(1), None, Access::READ)
    };
    let is_leaked = |result: Result<DmaMapping>| {
        let by = Obstacle::Leaked;
        matches!(result, Err(Error::InUse { by: found, .. }) if found == by)
    };
    let reserved = map().unwrap();
    let own = space.map(&memory, 0..4096, READ.at(page(5).start())).unwrap();
    let next = ledger.state().calls + 1;
    ledger.state().fail_at = Some(next);
    ledger.state().tells_nothing = true;
    assert!(space.unmap_all().is_err());
    assert_eq!(space.mappings(), 0);
    assert!(is_leaked(map()), "where it may be mapped already");
    for guard in [reserved, own] {
        let range = guard.range();
        assert!(guard.unmap().is_err(), "{range} may be mapped");
    }
    drop(kept);
    for leaked in [0, 1, 2, 5] {
        assert!(is_leaked(space.map(&memory, 0..4096, READ.at(page(leaked).start()))));
    }
    drop(space.map(&memory, 0..4096, READ.at(page(3).start())).unwrap());
}

#[test]
fn a_failed_map_gives_the_iova_back() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    let memory = memory(1);
    let next = ledger.state().calls + 1;
    ledger.state().fail_at = Some(next);
    let fixed = READ.at(Iova(0x5000));
    assert!(space.map(&memory, 0..4096, fixed).is_err());
    drop(space.map(&memory, 0..4096, fixed).unwrap());
}

#[test]
fn a_range_is_unmapped_whole_or_not_at_all() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    let memory = memory(6);
    let guards: Vec<_> = (0..3_usize)
        .map(|i| {
            space
                .map(
                    &memory,
                    i * 8192..(i + 1) * 8192,
                    READ.at(Iova(0x10_0000 + 0x2000 * i as u64)),
                )
                .unwrap()
        })
        .collect();
    let cut = IovaRange::new(Iova(0x10_1000), 0x3000).unwrap();
    assert!(matches!(space.unmap_range(cut), Err(Error::Invalid(_))));
    assert_eq!(space.mappings(), 3);
    let two = IovaRange::new(Iova(0x10_0000), 0x4000).unwrap();
    assert_eq!(space.unmap_range(two).unwrap(), 0x4000);
    // Somebody else takes the place before the old guards go.
    let newer = space.map(&memory, 0..4096, READ.at(Iova(0x10_0000))).unwrap();
    drop(guards);
    assert_eq!(ledger.mapped_bytes(), 4096);
    assert_eq!(space.unmap_all().unwrap(), 4096);
    newer.unmap().unwrap();
    assert_eq!(space.unmap_all().unwrap(), 0);
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn after_a_ranged_unmap_that_failed_what_is_left_is_found_and_what_is_gone_is_not() {
    for gone in 0..=3 {
        let ledger = Ledger::new();
        let space = ledger.space().unwrap();
        let memory = memory(3);
        let page = |index: usize| index * 4096..(index + 1) * 4096;
        let guards: Vec<_> = (0..3_u64)
            .map(|i| {
                let at = READ.at(Iova(0x10_0000 + i * 4096));
                space.map(&memory, page(usize::try_from(i).unwrap()), at).unwrap()
            })
            .collect();
        let next = ledger.state().calls + 1;
        ledger.state().fail_at = Some(next);
        ledger.state().unmaps_before_failure = gone;
        assert!(space.unmap_all().is_err());
        assert_eq!(space.mappings(), 3 - gone);
        for (index, guard) in guards.iter().enumerate() {
            assert_eq!(guard.is_mapped(), index >= gone);
            let found = space.lookup_part(&*memory, page(index));
            assert_eq!(found, guard.is_mapped().then_some(guard.iova()));
        }
        // What is mapped meanwhile is not forgotten with the old guards.
        let others: Vec<_> = (0..3)
            .map(|index| space.map(&memory, page(index), READ).unwrap())
            .collect();
        drop(guards);
        for (index, other) in others.iter().enumerate() {
            assert_eq!(space.lookup_part(&*memory, page(index)), Some(other.iova()));
        }
        assert_eq!((space.mappings(), ledger.mapped_bytes()), (3, 3 * 4096));
        drop(others);
        assert_eq!(Arc::strong_count(&memory), 1);
        // No IOVA was lost.
        drop(space.map(&memory, 0..3 * 4096, READ.at(Iova(0x10_0000))).unwrap());
    }
}

#[test]
fn ranges_that_became_illegal_are_named_and_stay_mapped() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    let memory = memory(1);
    let low = space.map(&memory, 0..4096, READ.at(Iova(0x4000))).unwrap();
    ledger.state().allowed = vec![IovaRange::new(Iova(0x10_0000), 1 << 20).unwrap()];
    assert_eq!(space.refresh().unwrap(), [low.range()]);
    assert!(space.map(&memory, 0..4096, READ).unwrap().iova() >= Iova(0x10_0000));
    low.unmap().unwrap();
    assert!(matches!(
        space.map(&memory, 0..4096, READ.at(Iova(0x4000))),
        Err(Error::NotAllowed(_))
    ));
}

#[test]
fn threads_map_and_unmap_while_one_clears_ranges() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let memory = memory(4);
                for round in 0..500 {
                    let mapping = space.map(&memory, 0..(round % 4 + 1) * 4096, READ).unwrap();
                    // Found where it is, or taken away meanwhile.
                    let found = space.lookup_part(&*memory, 0..4096);
                    assert!(found.is_none_or(|iova| iova == mapping.iova()));
                    mapping.unmap().unwrap();
                    assert_eq!(space.lookup_part(&*memory, 0..4096), None);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..200 {
                space.unmap_all().unwrap();
            }
        });
    });
    assert_eq!((space.mappings(), ledger.mapped_bytes()), (0, 0));
    let all = IovaRange::new(Iova(4096), (1 << 39) - 4096).unwrap();
    drop(space.reserve((1 << 39) - 4096, &READ.at(all.start())).unwrap());
}

proptest! {
    #[test]
    fn no_failure_loses_an_iova_or_reuses_one_that_is_mapped(
        actions in prop::collection::vec((0_u8..4, any::<usize>(), 1_usize..5), 1..40), fail_at in 2_u32..60, before in 0_usize..4,
    ) {
        let ledger = Ledger::new();
        ledger.state().unmaps_before_failure = before;
        // 64 pages, so that a leaked IOVA would be missed.
        ledger.state().allowed = vec![IovaRange::new(Iova(0x1000), 64 * 4096).unwrap()];
        let space = ledger.space().unwrap();
        let memory = memory(4);
        ledger.state().fail_at = Some(fail_at);
        let mut guards = vec![];
        for (kind, which, pages) in actions {
            match kind {
                0 | 1 => guards.extend(space.map(&memory, 0..pages * 4096, READ.aligned_to(4096)).ok()),
                2 if !guards.is_empty() => {
                    let index = which % guards.len();
                    drop(guards.swap_remove(index));
                }
                _ => {
                    // A failure of the one call leaves everything mapped, and the guards unmap it later.
                    let start = Iova(0x1000 + (which as u64 % 64) * 4096);
                    drop(space.unmap_range(IovaRange::from_bounds(start, Iova(0xffff_ffff)).unwrap()));
                }
            }
        }
        let is_mapped = guards.iter().any(DmaMapping::is_mapped);
        prop_assert_eq!(space.lookup_part(&*memory, 0..1).is_some(), is_mapped);
        drop(guards);
        prop_assert_eq!(space.mappings(), 0);
        prop_assert_eq!(space.lookup_part(&*memory, 0..1), None);
        // What one failed unmap left behind is never handed out again; all the rest is.
        ledger.state().fail_at = None;
        let stuck = ledger.state().stuck.clone();
        prop_assert!(stuck.len() <= 1);
        for page in 0..64 {
            let iova = Iova(0x1000 + page * 4096);
            let is_stuck = stuck.iter().any(|range| range.start() <= iova && iova <= range.last());
            prop_assert_eq!(space.map(&memory, 0..4096, READ.at(iova)).is_err(), is_stuck);
        }
    }
}
