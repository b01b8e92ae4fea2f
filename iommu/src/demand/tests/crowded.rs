//! Little room, several who want it, and devices that cannot wait.

use super::*;

#[test]
fn a_page_that_cannot_be_mapped_does_not_cost_all_others() {
    let mut bench = Bench::new(200, 100, |_| ());
    (0..100).for_each(|page| assert_eq!(bench.ask(page), Response::Success));
    bench.ledger.state().is_full = true;
    assert_eq!(bench.ask(150), Response::Invalid);
    // One for the budget, and some in the hope that they help.
    assert!(bench.resident().len() >= 80, "{}", bench.resident().len());
    bench.ledger.state().is_full = false;
    assert_eq!(bench.ask(150), Response::Success);
}

#[test]
fn a_group_does_not_take_what_was_just_brought_for_another() {
    for eviction in [Eviction::Lru, Eviction::Clock] {
        let mut bench = Bench::new(10, 1, |options| options.eviction = eviction);
        let groups = [0, 1, 1].map(|page| vec![bench.request(page)]);
        bench.script.0.lock().unwrap().waiting.extend(groups);
        assert_eq!((bench.space.serve().unwrap(), bench.resident()), (1, vec![0]));
        assert!(bench.space.is_crowded(), "the second group waits");
        assert_eq!(bench.script.0.lock().unwrap().answers, [Response::Success]);
        // Here the first device goes on.
        assert_eq!((bench.space.serve().unwrap(), bench.resident()), (2, vec![1]));
        assert!(!bench.space.is_crowded());
        assert_eq!(bench.script.0.lock().unwrap().answers, [Response::Success; 3]);
        let statistics = bench.space.statistics();
        assert_eq!((statistics.groups, statistics.requests, statistics.repeated), (3, 3, 1));
        assert_eq!((statistics.deferred, statistics.refaults), (1, 0));
        bench.ask(0);
        assert_eq!(bench.space.statistics().refaults, 1);
        // What fits nowhere does not wait.
        let too_many = vec![bench.request(0), bench.request(1)];
        let groups = [vec![bench.request(0)], too_many, vec![bench.request(0)]];
        bench.script.0.lock().unwrap().waiting.extend(groups);
        assert_eq!(bench.space.serve().unwrap(), 3);
    }
}

#[test]
fn what_is_pinned_stays_so_when_it_is_mapped_again() {
    let mut bench = Bench::new(10, 2, |_| ());
    bench.space.pin(bench.page(0)).unwrap();
    bench.space.space().unmap_all().unwrap();
    assert!(matches!(bench.space.remove(bench.range), Err(Error::InUse { .. })));
    for page in [0, 1, 2, 3] {
        assert_eq!(bench.ask(page), Response::Success);
    }
    assert_eq!(bench.resident(), [0, 3]);
    bench.space.unpin(bench.page(0));
    bench.ask(4);
    bench.ask(5);
    assert_eq!(bench.resident(), [4, 5]);
    // Nothing is left to undo.
    bench.space.unpin(bench.page(0));
    bench.space.remove(bench.range).unwrap();
}

#[test]
fn statistics_count_what_a_failed_group_mapped() {
    let mut bench = Bench::new(10, 4, |_| ());
    let next = bench.ledger.state().calls + 2;
    bench.ledger.state().fail_at = Some(next);
    let group = [0, 1].map(|page| bench.request(page)).to_vec();
    assert_eq!(bench.send(group), Response::Invalid);
    assert_eq!((bench.space.statistics().mapped, bench.resident()), (1, vec![0]));
}

#[test]
fn streams_of_several_devices_and_regions_do_not_break_one_another() {
    let mut bench = Bench::new(200, 64, |options| options.prefetch = Prefetch::Adaptive(8));
    let other = Arc::new(Memory::new(100 * 4096, MemoryOptions::default()).unwrap());
    let both = MapOptions::new(Access::READ | Access::WRITE);
    let second = bench.space.add(&other, 0..other.len(), both).unwrap();
    let mut faults = 0;
    for page in 0..100 {
        // One device goes through the first half and another through the second, while it reads from elsewhere too.
        let near = bench.request(page);
        let far = PageRequest {
            device: ObjectId(2),
            ..bench.request(100 + page)
        };
        let elsewhere = PageRequest {
            iova: Iova(second.start().0 + page * PAGE),
            ..far
        };
        for request in [near, far, elsewhere] {
            if !bench.space.is_resident(IovaRange::new(request.iova, PAGE).unwrap()) {
                faults += 1;
                assert_eq!(bench.send(vec![request]), Response::Success);
            }
        }
    }
    assert!(faults < 60, "{faults} faults for 300 pages");
}

#[test]
fn a_transfer_whose_target_was_removed_goes_nowhere() {
    let mut bench = Bench::new(10, 3, |_| ());
    let options = BufferOptions {
        pages: PageSize::Base,
        ..BufferOptions::default()
    };
    let mut backups = DmaPool::<FromDevice>::new(bench.space.space(), 1 << 16, options).unwrap();
    let other = Arc::new(Memory::new(bench.memory.len(), MemoryOptions::default()).unwrap());
    other.fill(0, other.len(), 7).unwrap();
    let posted = bench.space.post(bench.page(0), &mut backups).unwrap();
    let elsewhere = bench.space.post(bench.page(0), &mut backups).unwrap();
    bench.space.remove(bench.range).unwrap();
    let again = MapOptions::new(Access::READ).at(bench.range.start());
    assert_eq!(bench.space.add(&other, 0..other.len(), again).unwrap(), bench.range);
    assert!(matches!(bench.space.complete(posted, 4096), Err(Error::NotAllowed(_))));
    // Nor into what another space has there.
    let mut twin = Bench::new(10, 3, |_| ());
    twin.memory.fill(0, 4096, 7).unwrap();
    assert_eq!(twin.range, bench.range);
    assert!(matches!(
        twin.space.complete(elsewhere, 4096),
        Err(Error::NotAllowed(_))
    ));
    for memory in [&other, &twin.memory] {
        let mut bytes = [0; 4096];
        memory.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4096]);
    }
}

#[test]
fn a_device_that_cannot_wait_writes_to_a_backup() {
    let mut bench = Bench::new(10, 3, |_| ());
    let options = BufferOptions {
        pages: PageSize::Base,
        ..BufferOptions::default()
    };
    let mut backups = DmaPool::<FromDevice>::new(bench.space.space(), 1 << 16, options).unwrap();
    let target = IovaRange::new(bench.page(4).start().checked_add(100).unwrap(), 6000).unwrap();
    let posted = bench.space.post(target, &mut backups).unwrap();
    assert!(posted.is_backup() && !bench.range.contains(&IovaRange::new(posted.iova(), 1).unwrap()));
    // What the device writes.
    let held = bench.ledger.state().mapped.values().find_map(|(range, _, memory)| {
        (range.start() <= posted.iova() && posted.iova() <= range.last()).then(|| memory.clone().unwrap())
    });
    assert!(held.is_some(), "a backup is always mapped");
    bench.space.complete(posted, 6000).unwrap();
    assert_eq!(
        bench.resident(),
        [] as [u64; 0],
        "the target need not be mapped for the copy"
    );

    bench.ask(4);
    bench.ask(5);
    let posted = bench.space.post(target, &mut backups).unwrap();
    assert!(!posted.is_backup());
    for page in 6..10 {
        bench.ask(page);
    }
    assert!(bench.resident().contains(&4) && bench.resident().contains(&5));
    bench.space.complete(posted, 6000).unwrap();
    assert_eq!(bench.space.statistics().backups, 1);
    let elsewhere = Ledger::new().space().unwrap();
    let mut others = DmaPool::<FromDevice>::new(&elsewhere, 1 << 16, options).unwrap();
    assert!(bench.space.post(target, &mut others).is_err());
}
