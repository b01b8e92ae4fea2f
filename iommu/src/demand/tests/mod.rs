mod crowded;

use super::*;
use crate::buffer::{BufferOptions, FromDevice};
use crate::pool::DmaPool;
use crate::space::testing::Ledger;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Mutex;
use vfio_core::iommufd::{PageAccess, PageRequest, Response};
use vfio_core::{Errno, ErrorKind, MemoryOptions, PageSize};

const PAGE: u64 = 4096;

/// Requests that a test sends, and the answers to them. Clones share it.
#[derive(Debug, Clone, Default)]
struct Script(Arc<Mutex<Sent>>);

#[derive(Debug, Default)]
struct Sent {
    waiting: VecDeque<Vec<PageRequest>>,
    answers: Vec<Response>,
    detached: bool,
}

impl FaultSource for Script {
    fn next(&mut self) -> Result<Option<PageRequestGroup>> {
        let requests = self.0.lock().unwrap().waiting.pop_front();
        let sent = Arc::clone(&self.0);
        let group = |requests| {
            PageRequestGroup::new(0, requests, move |response| {
                let mut sent = sent.lock().unwrap();
                sent.answers.push(response);
                let late = vfio_core::Error::new("answer", ErrorKind::NotFound(Errno::NOENT));
                if sent.detached { Err(late) } else { Ok(()) }
            })
        };
        Ok(requests.map(group))
    }
}

struct Bench {
    ledger: Ledger,
    script: Script,
    space: DemandSpace,
    memory: Arc<Memory>,
    range: IovaRange,
}

impl Bench {
    /// A region of `pages` pages, and a budget of `budget` pages.
    #[track_caller]
    fn new(pages: usize, budget: u64, change: impl FnOnce(&mut DemandOptions)) -> Self {
        let mut options = DemandOptions {
            budget: budget * PAGE,
            ..DemandOptions::default()
        };
        change(&mut options);
        let (ledger, script) = (Ledger::new(), Script::default());
        let mut space = DemandSpace::with_source(ledger.space().unwrap(), Box::new(script.clone()), options).unwrap();
        let memory = Arc::new(Memory::new(pages * 4096, MemoryOptions::default()).unwrap());
        let both = MapOptions::new(Access::READ | Access::WRITE);
        let range = space.add(&memory, 0..memory.len(), both).unwrap();
        Self {
            ledger,
            script,
            space,
            memory,
            range,
        }
    }

    fn page(&self, page: u64) -> IovaRange {
        IovaRange::new(self.range.start().checked_add(page * PAGE).unwrap(), PAGE).unwrap()
    }

    fn request(&self, page: u64) -> PageRequest {
        PageRequest {
            device: ObjectId(1),
            pasid: None,
            access: PageAccess::WRITE,
            iova: self.page(page).start(),
            length: 4096,
        }
    }

    /// Sends a group and serves it.
    #[track_caller]
    fn send(&mut self, requests: Vec<PageRequest>) -> Response {
        let before = self.script.0.lock().unwrap().answers.len();
        self.script.0.lock().unwrap().waiting.push_back(requests);
        assert_eq!(self.space.serve().unwrap(), 1);
        let sent = self.script.0.lock().unwrap();
        assert_eq!(sent.answers.len(), before + 1);
        *sent.answers.last().unwrap()
    }

    fn ask(&mut self, page: u64) -> Response {
        self.send(vec![self.request(page)])
    }

    fn resident(&self) -> Vec<u64> {
        let state = self.ledger.state();
        let page = |iova: &Iova| iova.offset_from(self.range.start()).unwrap() / PAGE;
        state
            .mapped
            .keys()
            .filter(|iova| (self.range.start()..=self.range.last()).contains(iova))
            .map(page)
            .collect()
    }
}

#[test]
fn a_region_of_which_a_unit_may_be_mapped_is_leaked() {
    let mut bench = Bench::new(4, 4, |_| ());
    assert_eq!(bench.ask(1), Response::Success);
    let next = bench.ledger.state().calls + 1;
    bench.ledger.state().fail_at = Some(next);
    bench.ledger.state().tells_nothing = true;
    assert!(bench.space.space().unmap_all().is_err());
    assert_eq!(bench.ask(1), Response::Invalid);
    assert_eq!(bench.space.statistics().stuck, 1);
    assert!(bench.space.remove(bench.range).is_err());
    let again = MapOptions::new(Access::READ).at(bench.range.start());
    let refused = bench.space.add(&bench.memory, 0..4096, again).unwrap_err();
    let by = Obstacle::Leaked;
    assert!(matches!(refused, Error::InUse { by: found, .. } if found == by));
}

#[test]
fn nothing_is_mapped_before_a_device_asks() {
    let mut bench = Bench::new(1000, 8, |_| ());
    assert_eq!(bench.ledger.mapped_bytes(), 0);
    assert_eq!(bench.ask(500), Response::Success);
    assert_eq!(bench.resident(), [500]);
    assert_eq!(
        bench.space.space().lookup_part(&*bench.memory, 500 * 4096..501 * 4096),
        Some(bench.page(500).start())
    );
    let statistics = bench.space.statistics();
    assert_eq!(
        (statistics.groups, statistics.mapped, statistics.resident_bytes),
        (1, 1, PAGE)
    );
    drop(bench.space);
    assert_eq!((bench.ledger.mapped_bytes(), Arc::strong_count(&bench.memory)), (0, 1));
}

#[test]
fn the_budget_is_never_exceeded_and_the_least_recent_goes() {
    let mut bench = Bench::new(100, 3, |_| ());
    for page in [1, 2, 3] {
        bench.ask(page);
    }
    bench.space.touch(bench.page(1));
    bench.ask(4);
    assert_eq!(bench.resident(), [1, 3, 4]);
    let statistics = bench.space.statistics();
    assert_eq!((statistics.evicted, statistics.peak_bytes), (1, 3 * PAGE));
}

#[test]
fn what_was_evicted_comes_back_with_its_content() {
    let mut bench = Bench::new(4, 1, |_| ());
    bench.ask(0);
    bench.memory.write(5, b"kept").unwrap();
    bench.ask(1);
    assert_eq!(bench.resident(), [1]);
    assert_eq!(bench.ask(0), Response::Success);
    let mut bytes = [0; 4];
    bench.memory.read(5, &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");
}

#[test]
fn a_group_is_served_whole_and_its_pages_do_not_evict_one_another() {
    let mut bench = Bench::new(100, 4, |_| ());
    bench.ask(1);
    bench.ask(2);
    let group = [2, 7, 8, 9].map(|page| bench.request(page)).to_vec();
    assert_eq!(bench.send(group), Response::Success);
    assert_eq!(bench.resident(), [2, 7, 8, 9]);
    assert_eq!(bench.space.statistics().repeated, 1);
    let too_many = (20..25).map(|page| bench.request(page)).collect();
    assert_eq!(bench.send(too_many), Response::Invalid);
    assert_eq!(
        (bench.space.statistics().over_budget, bench.resident()),
        (1, vec![2, 7, 8, 9])
    );
}

#[test]
fn bad_requests_are_invalid_and_change_nothing() {
    let mut bench = Bench::new(4, 4, |_| ());
    let read_only = MapOptions::new(Access::READ);
    let memory = Arc::new(Memory::new(4096, MemoryOptions::default()).unwrap());
    let readable = bench.space.add(&memory, 0..4096, read_only).unwrap();
    let good = bench.request(0);
    let bad = [
        PageRequest {
            iova: Iova(bench.range.last().0 + 1),
            ..good
        },
        PageRequest {
            iova: Iova(u64::MAX),
            ..good
        },
        PageRequest {
            length: 5 * 4096,
            ..good
        },
        PageRequest {
            iova: readable.start(),
            ..good
        },
        PageRequest { pasid: Some(1), ..good },
        PageRequest {
            access: PageAccess::PRIV,
            ..good
        },
    ];
    for request in bad {
        // A good request in the same group does not save it.
        assert_eq!(bench.send(vec![good, request]), Response::Invalid, "{request:?}");
    }
    assert_eq!((bench.space.statistics().refused, bench.ledger.mapped_bytes()), (6, 0));
    let read = PageRequest {
        iova: readable.start(),
        access: PageAccess::READ,
        length: 0,
        ..good
    };
    assert_eq!(bench.send(vec![read]), Response::Success);
}

#[test]
fn a_pasid_has_its_own_requests() {
    let mut bench = Bench::new(4, 4, |options| options.pasid = Some(7));
    assert_eq!(bench.ask(0), Response::Invalid);
    let request = PageRequest {
        pasid: Some(7),
        ..bench.request(0)
    };
    assert_eq!(bench.send(vec![request]), Response::Success);
}

#[test]
fn a_detached_device_does_not_stop_the_service() {
    let mut bench = Bench::new(4, 4, |_| ());
    bench.script.0.lock().unwrap().detached = true;
    bench.ask(0);
    bench.script.0.lock().unwrap().detached = false;
    assert_eq!((bench.ask(1), bench.space.statistics().late), (Response::Success, 1));
}

#[test]
fn a_flood_is_served_in_batches() {
    let mut bench = Bench::new(4, 4, |_| ());
    let group = vec![bench.request(0)];
    bench.script.0.lock().unwrap().waiting.extend(vec![group; 1000]);
    let served: Vec<_> = std::iter::repeat_with(|| bench.space.serve().unwrap())
        .take(5)
        .collect();
    assert_eq!(served, [256, 256, 256, 232, 0]);
}

#[test]
fn a_stream_is_mapped_ahead() {
    let mut bench = Bench::new(100, 32, |options| options.prefetch = Prefetch::Adaptive(8));
    let mut faults = 0;
    for page in 0..100 {
        if !bench.space.is_resident(bench.page(page)) {
            faults += 1;
            assert_eq!(bench.ask(page), Response::Success);
        }
    }
    assert!(faults < 20, "{faults} faults for 100 pages");
    let statistics = bench.space.statistics();
    assert_eq!(statistics.mapped + statistics.prefetched, 100);
    assert!(statistics.peak_bytes <= 32 * PAGE);
}

#[test]
fn what_is_mapped_ahead_never_leaves_the_region_or_half_of_the_budget() {
    let mut bench = Bench::new(10, 4, |options| options.prefetch = Prefetch::Next(100));
    bench.ask(0);
    assert_eq!(bench.resident(), [0, 1, 2]);
    bench.ask(9);
    assert!(bench.resident().contains(&9) && bench.space.statistics().prefetched == 2);
}

#[test]
fn pinned_pages_stay() {
    let mut bench = Bench::new(10, 3, |_| ());
    let two = IovaRange::from_bounds(bench.page(0).start(), bench.page(1).last()).unwrap();
    bench.space.pin(two).unwrap();
    bench.space.pin(bench.page(1)).unwrap();
    for page in 2..8 {
        assert_eq!(bench.ask(page), Response::Success);
    }
    assert_eq!(bench.resident(), [0, 1, 7]);
    assert!(matches!(bench.space.remove(bench.range), Err(Error::InUse { .. })));
    let three = (4..6).map(|page| bench.request(page)).collect();
    assert_eq!(bench.send(three), Response::Invalid);
    bench.space.unpin(two);
    bench.ask(8);
    bench.ask(9);
    assert_eq!(bench.resident(), [1, 8, 9], "pinned twice, and unpinned once");
    bench.space.unpin(bench.page(1));
    bench.space.remove(bench.range).unwrap();
    assert_eq!((bench.ledger.mapped_bytes(), bench.ask(0)), (0, Response::Invalid));
}

#[test]
fn a_space_that_was_unmapped_as_a_whole_is_mapped_again() {
    let mut bench = Bench::new(4, 4, |_| ());
    bench.ask(0);
    bench.space.space().unmap_all().unwrap();
    assert!(!bench.space.is_resident(bench.page(0)));
    assert_eq!(bench.ask(0), Response::Success);
    assert_eq!(
        (bench.resident(), bench.space.statistics().resident_bytes),
        (vec![0], PAGE)
    );
}

proptest! {
    #[test]
    fn whatever_fails_the_budget_holds_and_nothing_is_lost(
        actions in prop::collection::vec((0_u8..8, 0_u64..24, 1_u64..4), 1..60),
        fail_at in 2_u32..80, clock: bool, ahead in 0_u32..4,
    ) {
        let mut bench = Bench::new(24, 6, |options| {
            options.eviction = if clock { Eviction::Clock } else { Eviction::Lru };
            options.prefetch = Prefetch::Adaptive(ahead);
        });
        bench.ledger.state().fail_at = Some(fail_at);
        let mut pinned = vec![];
        for (kind, page, count) in actions {
            match kind {
                0 => if bench.space.pin(bench.page(page)).is_ok() { pinned.push(page) },
                1 => if let Some(page) = pinned.pop() { bench.space.unpin(bench.page(page)) },
                2 => bench.space.touch(bench.page(page)),
                _ => {
                    let requests: Vec<_> = (page..(page + count).min(24)).map(|page| bench.request(page)).collect();
                    let response = bench.send(requests.clone());
                    if response == Response::Success {
                        prop_assert!(requests.iter().all(|request| bench.resident().contains(
                            &(request.iova.offset_from(bench.range.start()).unwrap() / PAGE))));
                    }
                }
            }
            let statistics = bench.space.statistics();
            prop_assert_eq!(bench.ledger.mapped_bytes(), statistics.resident_bytes);
            prop_assert!(statistics.resident_bytes <= 6 * PAGE);
            prop_assert!(pinned.iter().all(|page| bench.resident().contains(page)));
        }
        let space = bench.space.space().clone();
        drop(bench.space);
        bench.ledger.state().fail_at = None;
        let stuck = bench.ledger.state().stuck.len();
        prop_assert_eq!(bench.ledger.state().mapped.len(), stuck);
        // The IOVAs can be had again exactly if no device can still reach memory there.
        let again = space.map(&bench.memory, 0..bench.memory.len(), MapOptions::new(Access::READ).at(bench.range.start()));
        prop_assert_eq!(again.is_ok(), stuck == 0);
    }
}
