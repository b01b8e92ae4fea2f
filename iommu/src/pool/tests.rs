use super::*;
use crate::buffer::{Both, FromDevice, ToDevice};
use crate::space::testing::Ledger;
use proptest::prelude::*;

fn options() -> BufferOptions {
    BufferOptions {
        pages: PageSize::Base,
        ..BufferOptions::default()
    }
}

fn pool<D: Direction>(ledger: &Ledger) -> DmaPool<D> {
    DmaPool::new(&ledger.space().unwrap(), 1 << 18, options()).unwrap()
}

#[test]
fn nothing_is_mapped_for_a_buffer_once_its_chunk_is() {
    let ledger = Ledger::new();
    let mut pool = pool::<Both>(&ledger);
    pool.prepare(512, 200).unwrap();
    let calls = ledger.state().calls;
    for _ in 0..10 {
        let buffers: Vec<_> = (0..200).map(|_| pool.take(512).unwrap()).collect();
        drop(buffers);
    }
    assert_eq!(ledger.state().calls, calls);
    assert_eq!(pool.chunks(), 1);
}

#[test]
fn what_is_left_of_a_chunk_is_used() {
    let ledger = Ledger::new();
    let mut pool = pool::<Both>(&ledger);
    let mut held = vec![pool.take(64).unwrap(), pool.take(1 << 18).unwrap()];
    assert_eq!(pool.chunks(), 2, "the first has 192 KiB left");
    // Whatever comes first, each of the three spans of 64 KiB.
    held.push(pool.take(1 << 17).unwrap());
    held.push(pool.take(128).unwrap());
    assert_eq!(pool.chunks(), 2);
    held.push(pool.take(256).unwrap());
    assert_eq!(pool.chunks(), 3, "nothing is left");
    assert!(held.iter().all(|buffer| buffer.iova().is_aligned_to(64)));
}

#[test]
fn a_buffer_counts_one_reference() {
    let ledger = Ledger::new();
    let mut pool = pool::<Both>(&ledger);
    let first = pool.take(64).unwrap();
    let count = |pool: &DmaPool<Both>| {
        let span = &pool.classes[0].spans[0];
        (Arc::strong_count(span), Arc::strong_count(&span.chunk))
    };
    let before = count(&pool);
    let second = pool.take(64).unwrap();
    assert_eq!(count(&pool), (before.0 + 1, before.1));
    drop((first, second));
}

#[test]
fn a_direction_is_what_the_device_may_do() {
    let ledger = Ledger::new();
    let buffer = pool::<ToDevice>(&ledger).take(64).unwrap();
    assert!(
        ledger
            .state()
            .mapped
            .values()
            .all(|(_, access, _)| *access == Access::READ)
    );
    drop(buffer);
    let ledger = Ledger::new();
    let _buffer = pool::<FromDevice>(&ledger).take(64).unwrap();
    assert!(
        ledger
            .state()
            .mapped
            .values()
            .all(|(_, access, _)| *access == Access::WRITE)
    );
}

#[test]
fn a_large_chunk_is_aligned_for_the_device_wherever_the_process_has_it() {
    let ledger = Ledger::new();
    let space = ledger.space().unwrap();
    // Where the system puts the memory varies.
    for _ in 0..4 {
        let buffer = DmaBuffer::<Both>::new(&space, (4 << 20) - 4096, &options()).unwrap();
        assert!(buffer.iova().is_aligned_to(4 << 20));
    }
}

#[test]
fn buffers_come_back_from_other_threads() {
    let ledger = Ledger::new();
    let mut pool = pool::<Both>(&ledger);
    for round in 0..20 {
        let buffers: Vec<_> = (0..256).map(|_| pool.take(1024).unwrap()).collect();
        assert_eq!(pool.chunks(), 1, "in round {round} a slot was lost");
        let mut buffers = buffers.into_iter();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mine: Vec<_> = buffers.by_ref().take(64).collect();
                scope.spawn(move || drop(mine));
            }
        });
    }
}

#[test]
fn a_buffer_outlives_its_pool() {
    let ledger = Ledger::new();
    let mut buffer = pool::<Both>(&ledger).take(100).unwrap();
    assert!(buffer.write(0, &[7; 100]).is_some() && buffer.write(1, &[7; 100]).is_none());
    let mut bytes = [0; 4];
    buffer.read(96, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4]);
    assert!(buffer.atomic_u32(96).is_some() && buffer.atomic_u32(100).is_none() && buffer.atomic_u32(2).is_none());
    assert!(ledger.mapped_bytes() > 0);
    drop(buffer);
    assert_eq!(ledger.mapped_bytes(), 0);
}

#[test]
fn a_failed_chunk_leaves_the_pool_usable() {
    let ledger = Ledger::new();
    let mut pool = pool::<Both>(&ledger);
    let next = ledger.state().calls + 1;
    ledger.state().fail_at = Some(next);
    assert!(pool.take(64).is_err());
    assert!(pool.take(64).is_ok() && pool.take(0).is_err());
    assert_eq!(pool.chunks(), 1);
}

proptest! {
    #[test]
    fn live_buffers_never_share_a_byte_and_are_aligned(actions in prop::collection::vec((any::<bool>(), 1_usize..400_000, any::<usize>()), 1..80)) {
        let ledger = Ledger::new();
        let mut pool = pool::<Both>(&ledger);
        let mut live: Vec<DmaBuffer<Both>> = vec![];
        for (take, len, which) in actions {
            if take || live.is_empty() {
                let len = if which % 3 == 0 { len } else { len % 5000 + 1 };
                let buffer = pool.take(len).unwrap();
                prop_assert_eq!(buffer.len(), len);
                let alignment = len.next_power_of_two().clamp(64, 1 << 18) as u64;
                prop_assert!(buffer.iova().is_aligned_to(alignment));
                prop_assert!(!live.iter().any(|other| other.range().overlaps(&buffer.range())));
                live.push(buffer);
            } else {
                live.swap_remove(which % live.len());
            }
        }
        let mapped: Vec<_> = ledger.state().mapped.values().map(|entry| entry.0).collect();
        prop_assert!(live.iter().all(|buffer| mapped.iter().any(|range| range.contains(&buffer.range()))));
        drop((pool, live));
        prop_assert_eq!(ledger.mapped_bytes(), 0);
    }
}
