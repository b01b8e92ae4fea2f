use super::*;
use proptest::prelude::*;

const PAGE: u64 = 4096;

fn range(first: u64, count: u64) -> IovaRange {
    IovaRange::new(Iova(first * PAGE), count * PAGE).unwrap()
}

/// One flag per page, and a search that looks everywhere.
#[derive(Clone)]
struct Model {
    allowed: Vec<bool>,
    live: Vec<(usize, usize)>,
}

impl Model {
    fn is_free(&self, page: usize) -> bool {
        self.allowed[page]
            && !self
                .live
                .iter()
                .any(|&(first, count)| (first..first + count).contains(&page))
    }

    fn fits(&self, count: usize, align: usize, from: usize, limit: usize) -> bool {
        let end = self.allowed.len().min(limit);
        let mut starts = (0..end).step_by(align);
        starts
            .any(|first| first >= from && first + count <= end && (first..first + count).all(|page| self.is_free(page)))
    }
}

#[derive(Debug, Clone)]
enum Action {
    Allocate {
        count: usize,
        order: Option<u32>,
        bits: u32,
    },
    Reserve {
        first: usize,
        count: usize,
    },
    Release(usize),
    Allow(Vec<(usize, usize)>),
}

const PAGES: usize = 96;

fn action() -> impl Strategy<Value = Action> {
    let allocate = (
        1_usize..12,
        prop::option::of(0_u32..5),
        prop::sample::select(vec![0_u32, 4, 5, 6, 20, 38]),
    );
    prop_oneof![
        8 => allocate.prop_map(|(count, order, bits)| Action::Allocate { count, order, bits }),
        2 => (0_usize..PAGES, 1_usize..9).prop_map(|(first, count)| Action::Reserve { first, count }),
        7 => any::<usize>().prop_map(Action::Release),
        1 => prop::collection::vec((0..PAGES, 1..PAGES / 2), 0..4).prop_map(Action::Allow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 512 }))]

    #[test]
    fn finds_a_range_exactly_if_a_search_of_every_page_does(
        actions in prop::collection::vec(action(), 1..120), shift in prop::sample::select(vec![12_u32, 26]),
        waiting in prop::sample::select(vec![1_u64, 8, WAITING]),
    ) {
        // With large grains some lie above 4 GiB.
        let page = 1_u64 << shift;
        let range = |first: u64, count: u64| IovaRange::new(Iova(first * page), count * page).unwrap();
        let mut allocator = IovaAllocator::new(&[range(0, PAGES as u64)], page).unwrap();
        allocator.recent = Recent::new(waiting);
        let wide = if shift == 26 { 64 } else { PAGES };
        let mut model = Model { allowed: vec![true; PAGES], live: vec![] };
        for action in actions {
            match action {
                Action::Allocate { count, order, bits } => {
                    let mut request = Request::new(count as u64 * page).within(bits + shift);
                    let align = order.map_or(count.next_power_of_two(), |order| 1 << order);
                    if let Some(order) = order {
                        request = request.aligned_to(page << order);
                    }
                    let limit = 1 << bits;
                    let expected = model.fits(count, align, 1, limit);
                    match allocator.allocate(request) {
                        Ok(got) => {
                            let first = usize::try_from(got.start().0 / page).unwrap();
                            prop_assert_eq!(got, range(first as u64, count as u64));
                            prop_assert!(first != 0 && first.is_multiple_of(align) && first + count <= limit);
                            prop_assert!((first..first + count).all(|page| model.is_free(page)));
                            let is_last_resort = !model.fits(count, align, wide, limit);
                            prop_assert!(first >= wide || is_last_resort, "below 4 GiB: {first}");
                            model.live.push((first, count));
                        }
                        Err(Error::NoSpace { .. }) => prop_assert!(!expected, "a fit was missed"),
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    }
                }
                Action::Reserve { first, count } => {
                    let pages = first..first + count;
                    let allowed = pages.end <= PAGES && pages.clone().all(|page| model.allowed[page]);
                    let free = allowed && pages.clone().all(|page| model.is_free(page));
                    match allocator.reserve(range(first as u64, count as u64)) {
                        Ok(_) => {
                            prop_assert!(free);
                            model.live.push((first, count));
                        }
                        Err(Error::InUse { wanted, range: found, .. }) => {
                            prop_assert!(allowed && !free && found.overlaps(&wanted));
                            let is_live = |&(first, count): &(usize, usize)| range(first as u64, count as u64) == found;
                            prop_assert!(found == wanted || model.live.iter().any(is_live));
                        }
                        Err(error) => prop_assert!(matches!(error, Error::NotAllowed(_)) && !allowed),
                    }
                }
                Action::Release(_) if model.live.is_empty() => {}
                Action::Release(which) => {
                    let (first, count) = model.live.swap_remove(which % model.live.len());
                    let released = range(first as u64, count as u64);
                    allocator.release(released).unwrap();
                    prop_assert!(matches!(allocator.release(released), Err(Error::NotAllocated(_))));
                }
                Action::Allow(ranges) => {
                    let inside = |page: usize| ranges.iter().any(|&(first, count)| (first..first + count).contains(&page));
                    model.allowed = (0..PAGES).map(inside).collect();
                    let ranges: Vec<_> = ranges.iter().map(|&(first, count)| {
                        range(first as u64, count.min(PAGES - first) as u64)
                    }).collect();
                    let mut expected: Vec<_> = model.live.iter()
                        .filter(|&&(first, count)| !(first..first + count).all(|page| model.allowed[page]))
                        .map(|&(first, count)| range(first as u64, count as u64)).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(allocator.set_allowed(&ranges), expected);
                }
            }
            prop_assert_eq!(allocator.live(), model.live.len());
        }
    }
}

#[test]
fn narrow_addresses_are_left_while_wide_ones_wait() {
    const GIB: u64 = 1 << 30;
    let allowed = IovaRange::from_bounds(Iova(0), Iova((1 << 39) - 1)).unwrap();
    let mut allocator = IovaAllocator::new(&[allowed], PAGE).unwrap();
    let mut allocate = |len: u64, bits: u32| allocator.allocate(Request::new(len).within(bits));
    let all: Vec<_> = (0..508).map(|_| allocate(GIB, 64).unwrap()).collect();
    let narrow = allocate(GIB, 32).unwrap();
    assert!(all.iter().all(|range| range.start().0 >= 4 * GIB) && narrow.last().0 < 4 * GIB);
    for range in all.into_iter().chain([narrow]) {
        allocator.release(range).unwrap();
    }
    let again = allocator.allocate(Request::new(GIB)).unwrap();
    assert!(again.start().0 >= 4 * GIB, "not the narrow one that came back last");
    for _ in 0..250 {
        let other = allocator.allocate(Request::new(GIB + PAGE)).unwrap();
        assert!(other.start().0 >= 4 * GIB, "{other}");
    }
}

#[test]
fn what_is_in_the_way_is_named_without_a_search() {
    let mut allocator = IovaAllocator::new(&[range(0, 1 << 20)], PAGE).unwrap();
    let mut in_the_way = |first, count| match allocator.reserve(range(first, count)) {
        Ok(_) => None,
        Err(Error::InUse { range, .. }) => Some(range),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(in_the_way(0, 1), None);
    assert_eq!(in_the_way(0, 9), Some(range(0, 1)));
    assert_eq!(in_the_way(100, 50), None);
    assert_eq!(in_the_way(90, 11), Some(range(100, 50)));
    assert_eq!(in_the_way(120, 3), Some(range(100, 50)));
    for first in 150..300 {
        assert_eq!(in_the_way(first, 1), None);
    }
    assert_eq!(in_the_way(170, 1), Some(range(170, 1)));
    assert_eq!(in_the_way(300, 2), None);
    // Too many lie before it.
    assert_eq!(in_the_way(301, 2), Some(range(301, 2)));
}

#[test]
fn a_fragmented_space_coalesces_to_one_range() {
    let mut allocator = IovaAllocator::new(&[range(0, 4096)], PAGE).unwrap();
    let mut pages: Vec<_> = (1..4096)
        .map(|_| allocator.allocate(Request::new(PAGE)).unwrap())
        .collect();
    assert!(matches!(
        allocator.allocate(Request::new(1)),
        Err(Error::NoSpace { .. })
    ));
    pages.sort_unstable();
    let (even, odd): (Vec<_>, Vec<_>) = pages.into_iter().partition(|page| page.start().is_aligned_to(2 * PAGE));
    for page in odd {
        allocator.release(page).unwrap();
    }
    assert!(allocator.allocate(Request::new(2 * PAGE)).is_err());
    for page in even {
        allocator.release(page).unwrap();
    }
    let all = allocator.allocate(Request::new(4095 * PAGE).aligned_to(PAGE)).unwrap();
    assert_eq!(all, range(1, 4095));
}

#[test]
fn the_whole_address_space_can_be_allowed() {
    let mut allocator = IovaAllocator::new(&[IovaRange::ALL], 2).unwrap();
    let top = IovaRange::from_bounds(Iova(u64::MAX - 1), Iova(u64::MAX)).unwrap();
    assert_eq!(allocator.reserve(top).unwrap(), top);
    let half = allocator.allocate(Request::new(1 << 63)).unwrap();
    assert!(!half.overlaps(&top) && half.start().is_aligned_to(1 << 30));
    assert_eq!(allocator.allowed().collect::<Vec<_>>(), [IovaRange::ALL]);
}

#[test]
fn address_zero_is_only_reserved() {
    let mut allocator = IovaAllocator::new(&[range(0, 2)], PAGE).unwrap();
    assert_eq!(allocator.allocate(Request::new(1)).unwrap(), range(1, 1));
    assert!(allocator.allocate(Request::new(1)).is_err());
    let zero = allocator.reserve(range(0, 1)).unwrap();
    assert!(matches!(allocator.reserve(range(0, 1)), Err(Error::InUse { .. })));
    allocator.release(zero).unwrap();
    assert!(allocator.allocate(Request::new(1)).is_err());
    allocator.reserve(range(0, 1)).unwrap();
}

#[test]
fn low_addresses_are_kept_for_narrow_devices() {
    for allowed in [1 << 39, 1 << 47] {
        let allowed = IovaRange::new(Iova(0), allowed).unwrap();
        let mut allocator = IovaAllocator::new(&[allowed], PAGE).unwrap();
        // More than lies below 4 GiB, in pieces large and small.
        for _ in 0..6 {
            let wide = allocator.allocate(Request::new(1 << 30)).unwrap();
            assert!(wide.start().0 >= 1 << 32, "{wide}");
            let wide = allocator.allocate(Request::new(PAGE)).unwrap();
            assert!(wide.start().0 >= 1 << 32, "{wide}");
        }
        let narrow = allocator.allocate(Request::new(1 << 30).within(32)).unwrap();
        assert!((1 << 28..1 << 32).contains(&narrow.start().0) && narrow.last().0 < 1 << 32);
        let narrower = allocator.allocate(Request::new(PAGE).within(24)).unwrap();
        assert!(narrower.last().0 < 1 << 24);
        let low = IovaRange::new(Iova(PAGE), (1 << 23) - PAGE).unwrap();
        assert_eq!(allocator.reserve(low).unwrap(), low, "the lowest are kept longest");
        assert!(matches!(
            allocator.allocate(Request::new(PAGE).within(12)),
            Err(Error::NoSpace { .. })
        ));
        assert!(allocator.allocate(Request::new(PAGE).within(0)).is_err());
    }
}

#[test]
fn addresses_that_few_devices_reach_come_last_as_well() {
    let mut allocator = IovaAllocator::new(&[IovaRange::ALL], PAGE).unwrap();
    let first = allocator.allocate(Request::new(1 << 30)).unwrap();
    assert!(first.last().0 < 1 << 34, "{first}");
}

#[test]
fn what_is_left_below_four_gib_serves_wide_devices_too() {
    let mut allocator = IovaAllocator::new(&[range(1, 1 << 20)], PAGE).unwrap();
    let all = allocator.allocate(Request::new(PAGE << 20).aligned_to(PAGE)).unwrap();
    assert_eq!(all, range(1, 1 << 20));
}

#[test]
fn many_allowed_ranges_cost_no_more_than_few() {
    let time = |ranges: u64| {
        let allowed: Vec<_> = (0..ranges).map(|index| range(1 + index * 4, 2)).collect();
        let mut allocator = IovaAllocator::new(&allowed, PAGE).unwrap();
        let begin = std::time::Instant::now();
        for _ in 0..2000 {
            let last = allocator.reserve(*allowed.last().unwrap()).unwrap();
            allocator.release(last).unwrap();
        }
        begin.elapsed()
    };
    // Looking through all of them would take 4000 times as long. The best of several, as other work may come in between.
    let many = (0..5).map(|_| time(65536)).min().unwrap();
    assert!(many < 200 * time(16), "{many:?}");
}

#[test]
fn senseless_requests_are_refused() {
    assert!(IovaAllocator::new(&[], 3).is_err() && IovaAllocator::new(&[], 1).is_err());
    let mut allocator = IovaAllocator::new(&[range(0, 16)], PAGE).unwrap();
    assert!(matches!(allocator.allocate(Request::new(0)), Err(Error::Invalid(_))));
    assert!(matches!(
        allocator.allocate(Request::new(1).aligned_to(3)),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(
        allocator.allocate(Request::new(u64::MAX)),
        Err(Error::NoSpace { .. })
    ));
    assert!(allocator.allocate(Request::new(1).aligned_to(1 << 63)).is_err());
    let part = allocator.allocate(Request::new(2 * PAGE)).unwrap();
    let half = IovaRange::new(part.start(), PAGE).unwrap();
    assert!(matches!(allocator.release(half), Err(Error::NotAllocated(_))));
}

#[test]
fn a_size_that_recurs_needs_no_search() {
    let mut allocator = IovaAllocator::new(&[range(1, 1 << 20)], PAGE).unwrap();
    let first = allocator.allocate(Request::new(3 * PAGE)).unwrap();
    allocator.release(first).unwrap();
    let before = format!("{:?}", allocator.free);
    for _ in 0..100 {
        let again = allocator.allocate(Request::new(3 * PAGE)).unwrap();
        assert_eq!(again, first);
        allocator.release(again).unwrap();
    }
    assert_eq!(format!("{:?}", allocator.free), before, "the index is not touched");
}

#[test]
fn more_recurring_sizes_than_are_remembered_lose_nothing() {
    let mut allocator = IovaAllocator::new(&[range(1, 1 << 20)], PAGE).unwrap();
    for _ in 0..3 {
        let taken: Vec<_> = (1..200)
            .map(|count| allocator.allocate(Request::new(count * PAGE)).unwrap())
            .collect();
        for range in taken {
            allocator.release(range).unwrap();
        }
    }
    let all = allocator.allocate(Request::new(PAGE << 20).aligned_to(PAGE)).unwrap();
    assert_eq!(all, range(1, 1 << 20));
}

#[test]
fn a_range_begins_where_its_memory_begins_in_a_large_page() {
    const MIB: u64 = 1 << 20;
    let allowed = IovaRange::new(Iova(0), 1 << 39).unwrap();
    let mut allocator = IovaAllocator::new(&[allowed], PAGE).unwrap();
    let address = 0x7f12_3456_7000;
    for (len, size) in [(2 * MIB, 2 * MIB), (513 * MIB, 2 * MIB), (3 << 30, 1 << 30)] {
        let mut before = None;
        for _ in 0..2 {
            let range = allocator.allocate(Request::new(len).congruent_to(address)).unwrap();
            assert_eq!(range.start().0 % size, address % size, "{range} for {len:#x}");
            assert!(before.is_none_or(|before| before == range), "released and found again");
            allocator.release(range).unwrap();
            before = Some(range);
        }
    }
    // Short, or aligned anyway.
    let short = allocator.allocate(Request::new(MIB).congruent_to(address)).unwrap();
    assert!(short.start().is_aligned_to(MIB));
    let aligned = allocator.allocate(Request::new(4 * MIB).congruent_to(2 * MIB)).unwrap();
    assert!(aligned.start().is_aligned_to(4 * MIB));
}

#[test]
fn a_range_that_cannot_begin_as_its_memory_does_is_found_all_the_same() {
    let allowed = IovaRange::new(Iova(1 << 30), 1 << 30).unwrap();
    let mut allocator = IovaAllocator::new(&[allowed], PAGE).unwrap();
    let whole = Request::new(1 << 30).congruent_to(0x7f12_3456_7000);
    assert_eq!(allocator.allocate(whole).unwrap(), allowed);
}

#[test]
fn a_range_that_waits_is_reserved_without_a_search() {
    let mut allocator = IovaAllocator::new(&[range(0, 1 << 20)], PAGE).unwrap();
    let [one, other] = [(); 2].map(|()| allocator.allocate(Request::new(PAGE)).unwrap());
    allocator.release(one).unwrap();
    allocator.release(other).unwrap();
    assert_eq!(allocator.reserve(one).unwrap(), one);
    // Had it been searched for among the free ranges, the other would have joined them.
    assert!(!allocator.is_free(Grains::new(other.start().0 / PAGE, 1)));
    assert!(allocator.reserve(one).is_err());
    assert_eq!(allocator.reserve(other).unwrap(), other);
}
