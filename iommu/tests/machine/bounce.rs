use crate::bench::{Bench, Status, bytes, memory};
use iommu::bounce::{BouncePool, Crossover};
use iommu::buffer::BufferOptions;
use iommu::{Error, Iova};
use vfio_core::PageSize;

fn pool(bench: &Bench, crossover: Crossover) -> BouncePool {
    let options = BufferOptions {
        pages: PageSize::Base,
        ..BufferOptions::default()
    };
    BouncePool::new(&bench.space, 1 << 16, options, crossover).unwrap()
}

#[test]
fn short_transfers_are_copied_and_long_ones_mapped() {
    for bench in Bench::both() {
        let mut pool = pool(&bench, Crossover::at(2000));
        let (source, target) = (memory(4), memory(4));
        for (len, copied) in [(100, true), (2000, true), (2001, false), (10_000, false)] {
            let data: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            source.write(1000, &data).unwrap();
            target.fill(0, target.len(), 0).unwrap();
            let out = pool.outgoing(&source, 1000..1000 + len).unwrap();
            let back = pool.incoming(&target, 700..700 + len).unwrap();
            assert_eq!((out.is_copied(), back.is_copied()), (copied, copied));
            assert_eq!(bench.engine.copy(out.iova(), back.iova(), len as u64), Status::Done);
            back.finish(len).unwrap();
            assert_eq!(bytes(&target, 700, len), data);
            assert_eq!(bytes(&target, 699, 1), [0]);
        }
    }
}

#[test]
fn a_copied_transfer_shows_the_device_its_own_bytes_only() {
    let [bench, _] = Bench::both();
    let mut pool = pool(&bench, Crossover::ALWAYS_COPY);
    let pages = memory(1);
    pages.write(0, b"secret, public").unwrap();
    let out = pool.outgoing(&pages, 8..14).unwrap();
    let target = memory(1);
    let back = pool.incoming(&target, 0..64).unwrap();
    assert_eq!(bench.engine.copy(out.iova(), back.iova(), 64), Status::Done);
    back.finish(64).unwrap();
    assert_eq!(&bytes(&target, 0, 6), b"public");
    assert!(bytes(&target, 6, 58).iter().all(|byte| *byte == 0));
}

#[test]
fn a_device_that_wrote_less_leaves_the_rest_alone() {
    let [bench, _] = Bench::both();
    let mut pool = pool(&bench, Crossover::ALWAYS_COPY);
    let target = memory(1);
    target.fill(0, 4096, 7).unwrap();
    let back = pool.incoming(&target, 0..100).unwrap();
    assert_eq!(bench.engine.fill(back.iova(), 100, 9), Status::Done);
    back.finish(10).unwrap();
    assert_eq!(bytes(&target, 9, 2), [9, 7]);
    // The next user of the buffer does not find what was there.
    let other = memory(1);
    let back = pool.incoming(&other, 0..100).unwrap();
    back.finish(100).unwrap();
    assert_eq!(bytes(&other, 0, 100), [0; 100]);
}

#[test]
fn a_narrow_device_reaches_what_is_mapped_too() {
    for bench in Bench::both() {
        let options = BufferOptions {
            pages: PageSize::Base,
            width: 28,
            ..BufferOptions::default()
        };
        let mut pool = BouncePool::new(&bench.space, 1 << 16, options, Crossover::at(64)).unwrap();
        let pages = memory(2);
        let short = pool.outgoing(&pages, 0..64).unwrap();
        let long = [
            pool.outgoing(&pages, 0..8192).unwrap().iova(),
            pool.incoming(&pages, 0..8192).unwrap().iova(),
        ];
        assert!(short.is_copied() && short.iova().0 < 1 << 28);
        assert!(long.iter().all(|iova| iova.0 < 1 << 28), "{long:?}");
    }
}

#[test]
fn parts_that_are_none_are_refused() {
    let [bench, _] = Bench::both();
    let mut pool = pool(&bench, Crossover::at(4096));
    let one = memory(1);
    assert!(matches!(pool.outgoing(&one, 0..0), Err(Error::Invalid(_))));
    assert!(matches!(pool.incoming(&one, 4000..5000), Err(Error::Invalid(_))));
    let back = pool.incoming(&one, 0..10).unwrap();
    assert_ne!(back.iova(), Iova(0));
    assert!(matches!(back.finish(11), Err(Error::Invalid(_))));
}

#[test]
fn measuring_leaves_nothing_mapped() {
    for bench in Bench::both() {
        let before = bench.machine.calls().len();
        Crossover::measure(&bench.space).unwrap();
        assert!(bench.machine.calls().len() > before, "it did map");
        assert_eq!((bench.space.mappings(), bench.machine.pinned()), (0, 0));
    }
}
