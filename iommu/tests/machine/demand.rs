use crate::bench::{Engine, Status, bdf, bytes, memory, open};
use iommu::demand::{DemandOptions, DemandSpace, Eviction, Prefetch};
use iommu::space::MapOptions;
use iommu::{Error, Iova, IovaRange};
use pci::GroupId;
use std::time::Duration;
use vfio_core::fake::{Copier, Iommu, Machine};
use vfio_core::iommufd::Iommufd;
use vfio_core::{Access, BoundDevice, Errno, wait_any};

const PAGE: u64 = 4096;
const BOTH: MapOptions = MapOptions::new(Access::READ.union(Access::WRITE));

struct Bench {
    machine: Machine,
    engine: Engine,
    space: DemandSpace,
}

fn device(machine: &Machine) -> BoundDevice {
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    open(machine, &iommufd, 0).unwrap()
}

fn bench(options: DemandOptions) -> Bench {
    let machine = Machine::builder()
        .device(bdf(0), GroupId(7), Copier::new().page_requests())
        .build();
    let device = device(&machine);
    let mut space = DemandSpace::new(&device.iommufd_device().unwrap(), options).unwrap();
    space.attach(&device).unwrap();
    let engine = Engine(device);
    Bench { machine, engine, space }
}

/// Serves until the engine has ended.
fn finish(bench: &mut Bench, mut status: Status) -> Status {
    while status == Status::Waits {
        assert!(
            bench.space.serve().unwrap() > 0,
            "the device waits, and nobody has heard of it"
        );
        bench.machine.settle();
        status = bench.engine.status();
    }
    status
}

#[test]
fn a_copy_of_more_than_the_budget_ends_within_it() {
    for (eviction, prefetch) in [
        (Eviction::Lru, Prefetch::None),
        (Eviction::Clock, Prefetch::Adaptive(4)),
    ] {
        let options = DemandOptions {
            budget: 64 * PAGE,
            eviction,
            prefetch,
            ..DemandOptions::default()
        };
        let mut bench = bench(options);
        let (source, target) = (memory(256), memory(256));
        for page in 0..256 {
            source.write_value(page * 4096 + 8, &(page as u64)).unwrap();
        }
        let from = bench.space.add(&source, 0..source.len(), BOTH).unwrap();
        let to = bench.space.add(&target, 0..target.len(), BOTH).unwrap();
        assert_eq!(bench.machine.pinned(), 0, "nothing is pinned up front");
        // The engine copies 64 KiB at a time, and goes through the whole copy again after each answer: pieces of 8 pages on either side.
        for piece in 0..32 {
            let at = piece * 8 * PAGE;
            let status = bench
                .engine
                .copy(Iova(from.start().0 + at), Iova(to.start().0 + at), 8 * PAGE);
            assert_eq!(finish(&mut bench, status), Status::Done);
            assert!(bench.machine.pinned() <= 64 * PAGE);
        }
        assert_eq!(bytes(&target, 0, target.len()), bytes(&source, 0, source.len()));
        let statistics = bench.space.statistics();
        let brought = statistics.mapped + statistics.prefetched;
        assert!(brought >= 512, "every page of both was needed: {statistics:?}");
        assert_eq!(statistics.evicted, brought - statistics.resident_bytes / PAGE);
        assert!(statistics.peak_bytes <= 64 * PAGE);
        assert_eq!(statistics.resident_bytes, bench.machine.pinned());
        let Bench { machine, engine, space } = bench;
        drop((space, engine));
        assert_eq!((machine.leaks(), machine.abandoned()), (vec![], vec![]));
    }
}

#[test]
fn the_space_says_when_there_is_something_to_serve() {
    let mut bench = bench(DemandOptions::default());
    let is_ready = |space: &DemandSpace| {
        !wait_any(&[space.ready().unwrap()], Some(Duration::ZERO))
            .unwrap()
            .is_empty()
    };
    let pages = memory(1);
    let range = bench.space.add(&pages, 0..4096, BOTH).unwrap();
    assert!(!is_ready(&bench.space));
    let status = bench.engine.fill(range.start(), 1, 1);
    assert!(is_ready(&bench.space));
    assert_eq!(finish(&mut bench, status), Status::Done);
    assert!(!is_ready(&bench.space));
}

#[test]
fn the_device_learns_that_it_may_not_go_there() {
    let mut bench = bench(DemandOptions::default());
    let status = bench.engine.fill(Iova(0xdead_0000), 8, 1);
    assert_eq!(finish(&mut bench, status), Status::Failed);
    assert_eq!((bench.space.statistics().refused, bench.machine.pinned()), (1, 0));
}

#[test]
fn detaching_ends_what_waits() {
    let mut bench = bench(DemandOptions::default());
    let pages = memory(1);
    let range = bench.space.add(&pages, 0..4096, BOTH).unwrap();
    assert_eq!(bench.engine.fill(range.start(), 1, 1), Status::Waits);
    bench.space.detach(&bench.engine.0).unwrap();
    assert!(bench.space.detach(&bench.engine.0).is_err());
    bench.machine.settle();
    assert_eq!(bench.engine.status(), Status::Failed);
    bench.space.serve().unwrap();
    // The space serves the device again once it is back.
    bench.space.attach(&bench.engine.0).unwrap();
    let status = bench.engine.fill(range.start(), 1, 2);
    assert_eq!(finish(&mut bench, status), Status::Done);
    assert_eq!(bytes(&pages, 0, 1), [2]);
}

#[test]
fn a_device_without_page_requests_is_told_to_pin() {
    let machine = Machine::builder().device(bdf(0), GroupId(7), Copier::new()).build();
    let device = device(&machine);
    let mut space = DemandSpace::new(&device.iommufd_device().unwrap(), DemandOptions::default()).unwrap();
    let Err(Error::Unsupported(why)) = space.attach(&device) else {
        panic!("attached without PRI")
    };
    assert!(why.contains("pinned"), "{why}");
}

#[test]
fn the_end_of_the_space_answers_what_waits() {
    // Not read; and read, but without room.
    for is_read in [false, true] {
        let machine = Machine::builder()
            .device(bdf(0), GroupId(7), Copier::new().page_requests())
            .device(bdf(1), GroupId(8), Copier::new().page_requests())
            .build();
        let iommufd = Iommufd::open(&machine.system()).unwrap();
        let engines = [0, 1].map(|function| Engine(open(&machine, &iommufd, function).unwrap()));
        let options = DemandOptions {
            budget: PAGE,
            ..DemandOptions::default()
        };
        let mut space = DemandSpace::new(&engines[0].0.iommufd_device().unwrap(), options).unwrap();
        let pages = memory(2);
        let range = space.add(&pages, 0..8192, BOTH).unwrap();
        for (engine, page) in engines.iter().zip(0..) {
            space.attach(&engine.0).unwrap();
            assert_eq!(engine.fill(Iova(range.start().0 + page * PAGE), 1, 1), Status::Waits);
        }
        if is_read {
            assert_eq!(space.serve().unwrap(), 1);
            assert!(space.is_crowded());
        }
        drop(space);
        machine.settle();
        let status = engines.each_ref().map(Engine::status);
        let first = if is_read { Status::Done } else { Status::Failed };
        assert_eq!(status, [first, Status::Failed]);
        drop((engines, iommufd));
        assert_eq!((machine.leaks(), machine.abandoned()), (vec![], vec![]));
    }
}

#[test]
fn an_iommu_with_larger_pages_than_the_processor_has_no_table() {
    let iommu = Iommu {
        page_sizes: 1 << 16,
        ..Iommu::default()
    };
    let machine = Machine::builder()
        .iommu(iommu)
        .device(bdf(0), GroupId(7), Copier::new().page_requests())
        .build();
    let object = device(&machine).iommufd_device().unwrap();
    assert!(DemandSpace::new(&object, DemandOptions::default()).is_err());
}

#[test]
fn a_pasid_that_the_device_does_not_have_is_refused() {
    for (number, has_it) in [(7, true), (1 << 10, false)] {
        let iommu = Iommu {
            pasid_bits: 10,
            ..Iommu::default()
        };
        let machine = Machine::builder()
            .iommu(iommu)
            .device(bdf(0), GroupId(7), Copier::new().page_requests())
            .build();
        let device = device(&machine);
        let options = DemandOptions {
            pasid: Some(number),
            ..DemandOptions::default()
        };
        let mut space = DemandSpace::new(&device.iommufd_device().unwrap(), options).unwrap();
        let attached = space.attach(&device);
        assert_eq!(attached.is_ok(), has_it, "{attached:?}");
        assert!(has_it || matches!(attached, Err(Error::Unsupported(_))));
    }
}

#[test]
fn what_the_kernel_refuses_is_not_explained_by_guessing() {
    let mut bench = bench(DemandOptions::default());
    bench.space.detach(&bench.engine.0).unwrap();
    bench.machine.fail_next("VFIO_DEVICE_ATTACH_IOMMUFD_PT", Errno::INVAL);
    let refused = bench.space.attach(&bench.engine.0);
    assert!(
        matches!(&refused, Err(Error::Kernel(error)) if error.errno() == Some(Errno::INVAL)),
        "{refused:?}"
    );
}

#[test]
fn a_limit_of_locked_memory_below_the_budget_is_lived_with() {
    let machine = Machine::builder()
        .memlock(4 * PAGE)
        .device(bdf(0), GroupId(7), Copier::new().page_requests())
        .build();
    let device = device(&machine);
    let mut space = DemandSpace::new(&device.iommufd_device().unwrap(), DemandOptions::default()).unwrap();
    space.attach(&device).unwrap();
    let pages = memory(32);
    let range = space.add(&pages, 0..pages.len(), BOTH).unwrap();
    let mut bench = Bench {
        machine,
        engine: Engine(device),
        space,
    };
    for page in 0..32 {
        let status = bench.engine.fill(Iova(range.start().0 + page * PAGE), 1, 1);
        assert_eq!(finish(&mut bench, status), Status::Done);
    }
    let statistics = bench.space.statistics();
    assert_eq!((statistics.mapped, statistics.evicted, statistics.failed), (32, 28, 0));
}

#[test]
fn a_page_that_cannot_be_mapped_is_refused_and_can_be_asked_for_again() {
    let mut bench = bench(DemandOptions::default());
    let pages = memory(1);
    let range = bench.space.add(&pages, 0..4096, BOTH).unwrap();
    assert_eq!(bench.engine.fill(range.start(), 1, 1), Status::Waits);
    bench.machine.fail_next("IOMMU_IOAS_MAP", Errno::FAULT);
    assert_eq!(finish(&mut bench, Status::Waits), Status::Failed);
    assert_eq!(bench.space.statistics().failed, 1);
    let status = bench.engine.fill(range.start(), 1, 1);
    assert_eq!(finish(&mut bench, status), Status::Done);
}

#[test]
fn a_unit_that_cannot_be_evicted_stays_and_keeps_its_iovas() {
    let mut bench = bench(DemandOptions {
        budget: 2 * PAGE,
        ..DemandOptions::default()
    });
    let pages = memory(4);
    let range = bench.space.add(&pages, 0..pages.len(), BOTH).unwrap();
    let touch = |bench: &mut Bench, page: u64| {
        let status = bench.engine.fill(Iova(range.start().0 + page * PAGE), 1, 1);
        finish(bench, status)
    };
    touch(&mut bench, 0);
    touch(&mut bench, 1);
    bench.machine.fail_next("IOMMU_IOAS_UNMAP", Errno::BUSY);
    assert_eq!(touch(&mut bench, 2), Status::Done, "another one goes");
    let statistics = bench.space.statistics();
    assert_eq!(
        (statistics.stuck, statistics.evicted, statistics.resident_bytes),
        (1, 1, 2 * PAGE)
    );
    assert_eq!(touch(&mut bench, 0), Status::Done, "what is stuck is mapped");
    assert!(bench.space.remove(range).is_err());
    let first = IovaRange::new(range.start(), PAGE).unwrap();
    assert!(matches!(
        bench.space.add(&pages, 0..4096, BOTH.at(first.start())),
        Err(Error::InUse { .. })
    ));
}
