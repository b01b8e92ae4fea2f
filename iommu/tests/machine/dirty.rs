use crate::bench::{Bench, Engine, Status, memory, open, two};
use iommu::dirty::{DirtyTracker, Written};
use iommu::space::{AddressSpace, MapOptions};
use iommu::{Error, Iova, IovaRange, Result};
use vfio_core::fake::Iommu;
use vfio_core::iommufd::Iommufd;
use vfio_core::{Access, Errno, StableMemory};

const BOTH: MapOptions = MapOptions::new(Access::READ.union(Access::WRITE));

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova(start), len).unwrap()
}

fn take(tracker: &mut DirtyTracker) -> Vec<IovaRange> {
    let mapped = |written: Result<Written>| match written.unwrap() {
        Written::Mapped(range) => range,
        Written::Unmapped(bytes) => panic!("{bytes:x?} was unmapped"),
    };
    tracker.dirty().map(mapped).collect()
}

fn take_all(tracker: &mut DirtyTracker) -> Vec<Written> {
    tracker.dirty().collect::<Result<_>>().unwrap()
}

#[test]
fn what_was_written_before_it_was_unmapped_is_told() {
    for (whole, bench) in [false, true]
        .into_iter()
        .zip(Bench::both())
        .chain([(true, Bench::iommufd(two()))])
    {
        let pages = memory(8);
        let first = pages.address().addr();
        let page = |page: usize| Written::Unmapped(first + page * 4096..first + (page + 1) * 4096);
        let mapping = bench.space.map(&pages, 0..pages.len(), BOTH).unwrap();
        let mut tracker = DirtyTracker::new(&bench.space, 4096).unwrap();
        tracker.track_device(&bench.engine.0).unwrap();
        let at = mapping.iova();
        assert_eq!(bench.engine.fill(Iova(at.0 + 3 * 4096), 1, 1), Status::Done);
        if whole {
            bench.space.unmap_all().unwrap();
        } else {
            mapping.unmap().unwrap();
        }
        // Other memory at the same IOVAs is not what was written.
        let other = memory(8);
        let _other = bench.space.map(&other, 0..other.len(), BOTH.at(at)).unwrap();
        assert_eq!(take_all(&mut tracker), [page(3)]);
        assert_eq!(take_all(&mut tracker), []);
    }
}

#[test]
fn memory_may_be_unmapped_while_the_logs_are_read() {
    for bench in Bench::both() {
        let pages = memory(4);
        let at = |page: u64| Iova(0x10_0000 + page * 0x10_0000);
        let mut mappings: Vec<_> = (0..4)
            .map(|page| {
                let part = page * 4096..(page + 1) * 4096;
                bench.space.map(&pages, part, BOTH.at(at(page as u64))).unwrap()
            })
            .collect();
        let mut tracker = DirtyTracker::new(&bench.space, 4096).unwrap();
        tracker.track_device(&bench.engine.0).unwrap();
        for page in 0..4 {
            bench.engine.fill(at(page), 1, 1);
        }
        let mut dirty = tracker.dirty();
        let mut found = vec![dirty.next().unwrap().unwrap()];
        mappings.pop().unwrap().unmap().unwrap();
        found.extend(dirty.map(Result::unwrap));
        assert_eq!(found, [0, 1, 2].map(|page| Written::Mapped(range(at(page).0, 4096))));
        let last = pages.address().addr() + 3 * 4096;
        assert_eq!(take_all(&mut tracker), [Written::Unmapped(last..last + 4096)]);
    }
}

#[test]
fn logs_of_page_tables_and_containers_are_read_before_unmapping() {
    let machine = two().build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let space = AddressSpace::iommufd(&iommufd).unwrap();
    let mut tracker = DirtyTracker::new(&space, 4096).unwrap();
    let table = tracker.table_for(&device.iommufd_device().unwrap()).unwrap();
    let _attached = space.attach_table(&device, &table).unwrap();
    tracker.track_table(&table).unwrap();
    let pages = memory(4);
    let first = pages.address().addr();
    let engine = Engine(device);
    // Mapped again and again, as a guest with an IOMMU of its own does.
    for page in [0, 2, 2, 1] {
        let mapping = space.map(&pages, page * 4096..(page + 1) * 4096, BOTH).unwrap();
        engine.fill(mapping.iova(), 1, 1);
    }
    let _quiet = space.map(&pages, 3 * 4096..4 * 4096, BOTH).unwrap();
    assert_eq!(take_all(&mut tracker), [Written::Unmapped(first..first + 3 * 4096)]);
    // What cannot be read counts as written.
    let unknown = space.map(&pages, 0..4096, BOTH).unwrap();
    machine.fail_next("IOMMU_HWPT_GET_DIRTY_BITMAP", Errno::NOMEM);
    unknown.unmap().unwrap();
    assert_eq!(take_all(&mut tracker), [Written::Unmapped(first..first + 4096)]);

    let type1 = Bench::type1(two());
    let mapping = type1.space.map(&pages, 0..4096, BOTH).unwrap();
    let mut tracker = DirtyTracker::new(&type1.space, 4096).unwrap();
    tracker.track_container().unwrap();
    mapping.unmap().unwrap();
    assert_eq!(take_all(&mut tracker), [Written::Unmapped(first..first + 4096)]);
}

#[test]
fn what_is_mapped_after_a_device_began_to_log_is_dirty() {
    let [bench, _] = Bench::both();
    let pages = memory(8);
    let _logged = bench.space.map(&pages, 0..4096, BOTH.at(Iova(0x10_0000))).unwrap();
    let mut tracker = DirtyTracker::new(&bench.space, 4096).unwrap();
    assert!(matches!(
        DirtyTracker::new(
            &AddressSpace::iommufd(&Iommufd::open(&bench.machine.system()).unwrap()).unwrap(),
            4096
        )
        .unwrap()
        .track_device(&bench.engine.0),
        Err(Error::Invalid(_))
    ));
    tracker.track_device(&bench.engine.0).unwrap();
    assert_eq!(take(&mut tracker), []);
    let _later = bench.space.map(&pages, 4096..8192, BOTH.at(Iova(0x20_0000))).unwrap();
    bench.engine.fill(Iova(0x10_0000), 1, 1);
    assert_eq!(take(&mut tracker), [range(0x10_0000, 4096), range(0x20_0000, 4096)]);
    assert_eq!(take(&mut tracker), [range(0x20_0000, 4096)]);
}

#[test]
fn a_device_logs_any_number_of_mappings() {
    for bench in Bench::both() {
        let pages = memory(300);
        let at = |page: u64| Iova(0x10_0000 + page * 0x3000);
        let mappings: Vec<_> = (0..300)
            .map(|page| {
                bench
                    .space
                    .map(&pages, page * 4096..(page + 1) * 4096, BOTH.at(at(page as u64)))
                    .unwrap()
            })
            .collect();
        let mut tracker = DirtyTracker::new(&bench.space, 4096).unwrap();
        tracker.track_device(&bench.engine.0).unwrap();
        for page in [0, 7, 299] {
            assert_eq!(bench.engine.fill(at(page), 1, 1), Status::Done);
        }
        assert_eq!(take(&mut tracker), [0, 7, 299].map(|page| range(at(page).0, 4096)));
        drop(mappings);
    }
}

#[test]
fn the_iommu_knows_exactly_what_was_written() {
    let machine = two().build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let space = AddressSpace::iommufd(&iommufd).unwrap();
    let mut tracker = DirtyTracker::new(&space, 4096).unwrap();
    let table = tracker.table_for(&device.iommufd_device().unwrap()).unwrap();
    let _attached = space.attach_table(&device, &table).unwrap();
    tracker.track_table(&table).unwrap();
    let pages = memory(16);
    // Two mappings that touch: what goes across both is one range.
    let _low = space.map(&pages, 0..8 * 4096, BOTH.at(Iova(0x10_0000))).unwrap();
    let _high = space
        .map(&pages, 8 * 4096..16 * 4096, BOTH.at(Iova(0x10_8000)))
        .unwrap();
    let engine = Engine(device);
    assert_eq!(take(&mut tracker), []);
    engine.fill(Iova(0x10_2010), 1, 1);
    engine.fill(Iova(0x10_7fff), 2, 1);
    engine.copy(Iova(0x10_a000), Iova(0x10_5000), 8);
    assert_eq!(
        take(&mut tracker),
        [
            range(0x10_2000, 0x1000),
            range(0x10_5000, 0x1000),
            range(0x10_7000, 0x2000)
        ]
    );
    assert_eq!(take(&mut tracker), [], "asked once, clean again");
    drop(tracker);
    assert!(
        machine
            .calls()
            .iter()
            .filter(|step| step.as_str() == "IOMMU_HWPT_SET_DIRTY_TRACKING")
            .count()
            == 2
    );
}

#[test]
fn a_mapping_of_more_than_a_gibibyte_is_asked_about_as_a_whole() {
    const LEN: usize = (1 << 30) + 8192;
    // Entries of one page each, so that it is seen which were written.
    let small = Iommu {
        page_sizes: 4096,
        ..Iommu::default()
    };
    let machine = two().iommu(small).build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let space = AddressSpace::iommufd(&iommufd).unwrap();
    let mut tracker = DirtyTracker::new(&space, 4096).unwrap();
    let table = tracker.table_for(&device.iommufd_device().unwrap()).unwrap();
    let _attached = space.attach_table(&device, &table).unwrap();
    tracker.track_table(&table).unwrap();
    let pages = memory(LEN / 4096);
    let mapping = space.map(&pages, 0..LEN, BOTH).unwrap();
    let engine = Engine(device);
    for around in [0, (1 << 30) - 1] {
        assert_eq!(engine.fill(Iova(mapping.iova().0 + around), 2, 1), Status::Done);
    }
    let start = mapping.iova().0;
    assert_eq!(
        take(&mut tracker),
        [range(start, 4096), range(start + (1 << 30) - 4096, 8192)]
    );
    assert_eq!(take(&mut tracker), []);
}

#[test]
fn type1_knows_what_may_have_been_written() {
    let bench = Bench::type1(two());
    let pages = memory(4);
    let _written = bench.space.map(&pages, 0..8192, BOTH.at(Iova(0x10_0000))).unwrap();
    let _read = bench
        .space
        .map(
            &pages,
            8192..4 * 4096,
            MapOptions::new(Access::READ).at(Iova(0x20_0000)),
        )
        .unwrap();
    let mut tracker = DirtyTracker::new(&bench.space, 4096).unwrap();
    let other = Bench::iommufd(two());
    let stranger = other.engine.0.iommufd_device().unwrap();
    assert!(matches!(tracker.table_for(&stranger), Err(Error::Unsupported(_))));
    tracker.track_container().unwrap();
    let dirty = take(&mut tracker);
    assert!(dirty.contains(&range(0x10_0000, 8192)), "{dirty:?}");
}

#[test]
fn a_device_can_keep_the_log_itself() {
    for bench in Bench::both() {
        let pages = memory(8);
        let mapping = bench.space.map(&pages, 0..pages.len(), BOTH).unwrap();
        let mut tracker = DirtyTracker::new(&bench.space, 4096).unwrap();
        tracker.track_device(&bench.engine.0).unwrap();
        assert_eq!(
            bench.engine.fill(Iova(mapping.iova().0 + 3 * 4096), 4097, 1),
            Status::Done
        );
        assert_eq!(take(&mut tracker), [range(mapping.iova().0 + 3 * 4096, 8192)]);
        assert_eq!(take(&mut tracker), []);
    }
}

#[test]
fn several_logs_are_one() {
    let machine = two().build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let [tracked, logging] = [0, 1].map(|function| open(&machine, &iommufd, function).unwrap());
    let space = AddressSpace::iommufd(&iommufd).unwrap();
    let pages = memory(8);
    let mapping = space.map(&pages, 0..pages.len(), BOTH.at(Iova(0x10_0000))).unwrap();
    let mut tracker = DirtyTracker::new(&space, 4096).unwrap();
    let table = tracker.table_for(&tracked.iommufd_device().unwrap()).unwrap();
    let _first = tracked.attach(&table, None).unwrap();
    let _second = space.attach(&logging).unwrap();
    tracker.track_table(&table).unwrap();
    tracker.track_device(&logging).unwrap();
    Engine(tracked).fill(mapping.iova(), 1, 1);
    Engine(logging).fill(Iova(mapping.iova().0 + 4096), 1, 1);
    assert_eq!(take(&mut tracker), [range(0x10_0000, 8192)]);
}

#[test]
fn a_failed_read_ends_the_sequence() {
    let bench = Bench::iommufd(two());
    let pages = memory(2);
    let _mapping = bench.space.map(&pages, 0..8192, BOTH).unwrap();
    let mut tracker = DirtyTracker::new(&bench.space, 4096).unwrap();
    tracker.track_device(&bench.engine.0).unwrap();
    bench
        .machine
        .fail_next("VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT", Errno::NOMEM);
    let results: Vec<_> = tracker.dirty().collect();
    assert!(
        results.len() == 1 && results[0].is_err(),
        "{results:?} {:?}",
        bench.machine.calls().last()
    );
}

#[test]
fn logs_that_are_not_there_are_refused() {
    let without = Iommu {
        dirty_tracking: false,
        ..Iommu::default()
    };
    let bench = Bench::iommufd(two().iommu(without));
    let mut tracker = DirtyTracker::new(&bench.space, 4096).unwrap();
    assert!(tracker.table_for(&bench.engine.0.iommufd_device().unwrap()).is_err());
    assert!(matches!(tracker.track_container(), Err(Error::Unsupported(_))));
    for size in [0, 3000, 2048, 1 << 40] {
        assert!(DirtyTracker::new(&bench.space, size).is_err());
    }
    let type1 = Bench::type1(two());
    let mut tracker = DirtyTracker::new(&type1.space, 8192).unwrap();
    assert!(matches!(tracker.track_container(), Err(Error::Unsupported(_))));
}
