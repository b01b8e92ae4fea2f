use crate::bench::{Bench, Status, memory};
use iommu::Error;
use iommu::space::MapOptions;
use std::sync::Arc;
use vfio_core::fake::Parting;
use vfio_core::{Access, Errno};

const READ: MapOptions = MapOptions::new(Access::READ);
const BOTH: MapOptions = MapOptions::new(Access::READ.union(Access::WRITE));

#[test]
fn everything_goes_with_one_call() {
    for (bench, call) in Bench::both()
        .into_iter()
        .zip(["IOMMU_IOAS_UNMAP", "VFIO_IOMMU_UNMAP_DMA"])
    {
        let some = memory(64);
        let guards: Vec<_> = (0..64)
            .map(|i| bench.space.map(&some, i * 4096..(i + 1) * 4096, READ).unwrap())
            .collect();
        bench.machine.forget_calls();
        assert_eq!(bench.space.unmap_all().unwrap(), 64 * 4096);
        drop(guards);
        let unmaps = bench
            .machine
            .calls()
            .iter()
            .filter(|step| step.as_str() == call)
            .count();
        assert_eq!((unmaps, bench.space.mappings()), (1, 0));
        assert_eq!((bench.machine.pinned(), Arc::strong_count(&some)), (0, 1));
    }
}

#[test]
fn what_cannot_be_unmapped_is_leaked_with_its_iova() {
    for (bench, call) in Bench::both()
        .into_iter()
        .zip(["IOMMU_IOAS_UNMAP", "VFIO_IOMMU_UNMAP_DMA"])
    {
        let (one, other) = (memory(1), memory(1));
        let mapping = bench.space.map(&one, 0..4096, BOTH).unwrap();
        let iova = mapping.iova();
        bench.machine.fail_next(call, Errno::BUSY);
        assert!(mapping.unmap().is_err());
        assert_eq!(
            bench.engine.fill(iova, 1, 9),
            Status::Done,
            "the device still reaches it"
        );
        assert!(Arc::strong_count(&one) > 1, "so it is still there");
        assert!(matches!(
            bench.space.map(&other, 0..4096, READ.at(iova)),
            Err(Error::InUse { .. })
        ));
    }
}

#[test]
fn memory_may_map_and_unmap_in_the_space_when_it_goes() {
    for whole in [false, true] {
        for bench in Bench::both() {
            let (gone, is_gone) = std::sync::mpsc::channel();
            let space = bench.space.clone();
            let (memory, own) = (memory(1), space.clone());
            let restless = Parting::new(Arc::clone(&memory), move || {
                own.map(&memory, 0..4096, READ).unwrap().unmap().unwrap();
                own.unmap_all().unwrap();
                gone.send(()).unwrap();
            });
            // On a thread of its own, which would never end.
            std::thread::spawn(move || {
                let mapping = space.map_unowned(Arc::new(restless), 0..4096, READ).unwrap();
                if whole {
                    space.unmap_all().unwrap();
                }
                drop(mapping);
            });
            is_gone.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        }
    }
}

#[test]
fn after_a_ranged_unmap_that_failed_each_guard_unmaps_its_own() {
    // A container answers EINVAL before it unmaps anything.
    let failures = [
        ("IOMMU_IOAS_UNMAP", Errno::BUSY),
        ("VFIO_IOMMU_UNMAP_DMA", Errno::INVAL),
    ];
    for (bench, (call, errno)) in Bench::both().into_iter().zip(failures) {
        let some = memory(4);
        let guards = [0, 1].map(|i| bench.space.map(&some, i * 4096..(i + 1) * 4096, READ).unwrap());
        bench.machine.fail_next(call, errno);
        assert!(bench.space.unmap_all().is_err());
        for (index, guard) in guards.iter().enumerate() {
            assert!(guard.is_mapped());
            let found = bench.space.lookup_part(&*some, index * 4096..(index + 1) * 4096);
            assert_eq!(found, Some(guard.iova()));
        }
        drop(guards);
        assert_eq!((bench.space.mappings(), bench.machine.pinned()), (0, 0));
    }
}

#[test]
fn after_a_ranged_unmap_of_a_container_that_failed_midway_all_of_it_is_leaked() {
    let [_, bench] = Bench::both();
    let some = memory(2);
    let guard = bench.space.map(&some, 0..8192, READ).unwrap();
    let iova = guard.iova();
    bench.machine.fail_next("VFIO_IOMMU_UNMAP_DMA", Errno::BUSY);
    assert!(bench.space.unmap_all().is_err());
    assert!(!guard.is_mapped() && bench.space.lookup_part(&*some, 0..4096).is_none());
    drop(guard);
    // What may still be mapped is neither freed nor handed out again.
    assert!(Arc::strong_count(&some) > 1);
    assert!(bench.space.map(&memory(2), 0..8192, READ.at(iova)).is_err());
}
