//! Tests of maps that are made piece by piece while somebody watches.

use super::testing::Ledger;
use super::*;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use vfio_core::{Memory, MemoryOptions};

const READ: MapOptions = MapOptions::new(Access::READ);
const G: usize = 1 << 30;
const THREADS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// Never touched, so it takes no memory.
fn large() -> Arc<Memory> {
    Arc::new(Memory::new(3 * G, MemoryOptions::default()).unwrap())
}

/// Goes on until this many bytes are mapped.
fn until(stop: u64) -> impl FnMut(Progress) -> ControlFlow<()> {
    move |progress| match progress.mapped < stop {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    }
}

#[test]
fn it_is_told_each_piece_and_is_one_mapping() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    let memory = large();
    let mut told = Vec::new();
    let mapping = space.map(
        &memory,
        0..3 * G,
        READ.at(Iova(G as u64 / 2)).progress(&mut |progress| {
            assert_eq!((progress.total, progress.populated), (3 * G as u64, 0));
            assert_eq!(ledger.mapped_bytes(), progress.mapped);
            // It may ask the space, and use it.
            assert_eq!(space.lookup_part(&*memory, 0..1), None, "it is not whole yet");
            assert_eq!(
                space.mapped().first().map(|range| range.len_bytes()),
                Some(progress.mapped.into())
            );
            told.push(progress.mapped);
            ControlFlow::Continue(())
        }),
    );
    let mapping = mapping.unwrap();
    let half = G as u64 / 2;
    assert_eq!(told, [half, 3 * half, 5 * half, 6 * half]);
    assert_eq!((space.mappings(), ledger.state().mapped.len()), (1, 4));
    assert_eq!(space.lookup_part(&*memory, 0..3 * G), Some(mapping.iova()));
    mapping.unmap().unwrap();
    assert_eq!((space.mappings(), ledger.mapped_bytes()), (0, 0));
    assert_eq!(Arc::strong_count(&memory), 1);
    // Nobody watches: one call.
    let whole = space.map(&memory, 0..3 * G, READ).unwrap();
    assert_eq!(ledger.state().mapped.len(), 1);
    drop(whole);
}

#[test]
fn cancelled_or_failed_it_leaves_nothing() {
    for stop in [G, 2 * G, 3 * G] {
        let ledger = Ledger::new();
        let space = ledger.space().unwrap();
        let memory = large();
        let fixed = READ.at(Iova(G as u64));
        let cancelled = space.map(&memory, 0..3 * G, fixed.progress(&mut until(stop as u64)));
        assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
        assert_eq!((space.mappings(), ledger.mapped_bytes()), (0, 0));
        let failing = ledger.state().calls + u32::try_from(stop / G).unwrap();
        ledger.state().fail_at = Some(failing);
        let failed = space.map(&memory, 0..3 * G, fixed.progress(&mut until(u64::MAX)));
        assert!(matches!(failed, Err(Error::Invalid("injected"))), "{failed:?}");
        assert_eq!((space.mappings(), ledger.mapped_bytes()), (0, 0));
        assert_eq!(Arc::strong_count(&memory), 1);
        drop(space.map(&memory, 0..3 * G, fixed).unwrap());
    }
}

#[test]
fn a_piece_that_cannot_be_unmapped_keeps_all_iovas() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    let memory = large();
    let fixed = READ.at(Iova(G as u64));
    let mapping = space
        .map(&memory, 0..3 * G, fixed.progress(&mut until(u64::MAX)))
        .unwrap();
    let second = ledger.state().calls + 2;
    ledger.state().fail_at = Some(second);
    assert!(mapping.unmap().is_err());
    assert_eq!(ledger.mapped_bytes(), G as u64, "the others are gone");
    for at in [1, 2, 3] {
        let refused = space.map(&memory, 0..4096, READ.at(Iova((at * G) as u64)));
        let Err(Error::InUse { range, by, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((range.len_bytes(), by), (3 * G as u128, Obstacle::Leaked));
    }
}

#[test]
fn an_unmapping_of_the_range_ends_it() {
    for whole in [false, true] {
        let ledger = Ledger::new();
        let space = ledger.space().unwrap();
        let memory = large();
        let fixed = READ.at(Iova(G as u64));
        let mut other = None;
        let ended = space.map(
            &memory,
            0..3 * G,
            fixed.progress(&mut |progress| {
                if progress.mapped == 2 * G as u64 {
                    let first = IovaRange::new(Iova(G as u64), G as u64).unwrap();
                    assert!(
                        matches!(space.unmap_range(first), Err(Error::Invalid(_))),
                        "half of a mapping"
                    );
                    if whole {
                        assert_eq!(space.unmap_all().unwrap(), 2 * G as u64);
                        // Somebody else takes the place, and keeps it.
                        other = Some(space.map(&memory, 0..4096, READ.at(Iova(3 * G as u64))).unwrap());
                    }
                }
                ControlFlow::Continue(())
            }),
        );
        assert_eq!(matches!(ended, Err(Error::Cancelled)), whole, "{ended:?}");
        assert_eq!(ended.is_ok(), !whole);
        drop(ended);
        assert_eq!(ledger.mapped_bytes(), if whole { 4096 } else { 0 });
        drop(other);
        drop(space.map(&memory, 0..3 * G, fixed).unwrap());
    }
}

#[test]
fn after_a_ranged_unmap_that_failed_half_a_mapping_is_not_found() {
    for gone in 0..=3 {
        let ledger = Ledger::new();
        let space = ledger.space().unwrap();
        let memory = large();
        let mapping = space
            .map(
                &memory,
                0..3 * G,
                READ.at(Iova(G as u64)).progress(&mut until(u64::MAX)),
            )
            .unwrap();
        let next = ledger.state().calls + 1;
        ledger.state().fail_at = Some(next);
        ledger.state().unmaps_before_failure = gone;
        assert!(space.unmap_all().is_err());
        assert_eq!(mapping.is_mapped(), gone < 3);
        assert_eq!(space.lookup_part(&*memory, 0..1).is_some(), gone == 0);
        mapping.unmap().unwrap();
        assert_eq!((space.mappings(), ledger.mapped_bytes()), (0, 0));
        assert_eq!(Arc::strong_count(&memory), 1);
    }
}

#[test]
#[cfg(not(miri))]
fn prefault_is_a_part_of_it_and_can_be_cancelled() {
    const LEN: u64 = 8 << 20;
    let shared = MemoryOptions {
        backing: vfio_core::Backing::Shared,
        ..MemoryOptions::default()
    };
    for options in [MemoryOptions::default(), shared] {
        let ledger = Ledger::new();
        let space = ledger.space().unwrap();
        let memory = Arc::new(Memory::new(8 << 20, options).unwrap());
        let mut last = Progress::default();
        let mut watch = |progress: Progress| {
            assert!(progress.populated > last.populated || progress.mapped > last.mapped);
            last = progress;
            ControlFlow::Continue(())
        };
        drop(
            space
                .map(&memory, 0..8 << 20, READ.prefault(THREADS).progress(&mut watch))
                .unwrap(),
        );
        let all = Progress {
            populated: LEN,
            mapped: LEN,
            total: LEN,
        };
        assert_eq!(last, all);
        let mut stop = |progress: Progress| {
            assert!(progress.populated > 0 && progress.populated < LEN);
            ControlFlow::Break(())
        };
        let calls = ledger.state().calls;
        let cancelled = space.map(&memory, 0..8 << 20, READ.prefault(THREADS).progress(&mut stop));
        assert!(matches!(cancelled, Err(Error::Cancelled)));
        assert_eq!(ledger.state().calls, calls, "nothing was mapped");
        // Nobody watches.
        drop(space.map(&memory, 0..8 << 20, READ.prefault(THREADS)).unwrap());
    }
}

#[test]
fn what_cannot_be_populated_is_refused() {
    let space = Ledger::new().space().unwrap();
    let memory = Arc::new(Memory::new(4096, MemoryOptions::default()).unwrap());
    let options = READ.prefault(THREADS);
    assert!(matches!(
        space.map_unowned(memory, 0..4096, options),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(space.reserve(4096, &options), Err(Error::Invalid(_))));
}
