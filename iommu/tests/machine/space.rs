use crate::bench::{Bench, Status, bdf, bytes, memory, open, two};
use iommu::buffer::{Both, BufferOptions, DmaBuffer, FromDevice, ToDevice};
use iommu::pool::DmaPool;
use iommu::space::{AddressSpace, MapOptions};
use iommu::{Error, Iova, IovaRange};
use pci::GroupId;
use std::ops::ControlFlow;
use std::sync::Arc;
use vfio_core::fake::{Copier, FaultReason, Iommu, Machine};
use vfio_core::iommufd::{Hwpt, HwptData, HwptFlags, HwptParent, Iommufd};
use vfio_core::{Access, Backing, Errno, ErrorKind, Memory, MemoryOptions, PageSize, Pasid, RegionIndex};

const READ: MapOptions = MapOptions::new(Access::READ);
const WRITE: MapOptions = MapOptions::new(Access::WRITE);
const BOTH: MapOptions = MapOptions::new(Access::READ.union(Access::WRITE));

#[test]
fn a_device_reads_and_writes_what_is_mapped_and_nothing_else() {
    for bench in Bench::both() {
        let (source, target) = (memory(2), memory(2));
        source.write(0, b"hello").unwrap();
        let from = bench.space.map(&source, 0..4096, READ).unwrap();
        let to = bench.space.map(&target, 4096..8192, WRITE).unwrap();
        assert_eq!(bench.engine.copy(from.iova(), to.iova(), 4096), Status::Done);
        assert_eq!(bytes(&target, 4096, 5), b"hello");
        // The other way round neither is allowed.
        assert_eq!(bench.engine.fill(from.iova(), 1, 0xff), Status::Failed);
        assert_eq!(bench.engine.copy(to.iova(), to.iova(), 1), Status::Failed);
        let past = Iova(from.range().last().0 + 1);
        from.unmap().unwrap();
        assert_eq!(bench.engine.copy(past, to.iova(), 1), Status::Failed);
        let reasons: Vec<_> = bench.machine.faults().iter().map(|fault| fault.reason).collect();
        assert_eq!(reasons[..2], [FaultReason::NotPermitted, FaultReason::NotPermitted]);
    }
}

#[test]
fn iovas_that_no_device_may_use_are_never_chosen() {
    for bench in Bench::both() {
        let window = IovaRange::from_bounds(Iova(0xfee0_0000), Iova(0xfeef_ffff)).unwrap();
        assert!(!bench.space.allowed().iter().any(|range| range.overlaps(&window)));
        let one = memory(1);
        assert!(matches!(
            bench.space.map(&one, 0..4096, READ.at(window.start())),
            Err(Error::NotAllowed(_))
        ));
        let below = bench.space.map(&one, 0..4096, READ.within(32)).unwrap();
        assert!(below.range().last().0 < 1 << 32);
    }
}

#[test]
fn memory_in_a_file_is_mapped_by_it_where_the_kernel_can() {
    for (bench, call) in Bench::both()
        .into_iter()
        .zip(["IOMMU_IOAS_MAP_FILE", "VFIO_IOMMU_MAP_DMA"])
    {
        let options = MemoryOptions {
            backing: Backing::Shared,
            ..MemoryOptions::default()
        };
        let shared = Arc::new(Memory::new(8192, options).unwrap());
        let mapping = bench.space.map_shared(&shared, 4096..8192, BOTH).unwrap();
        assert!(bench.machine.calls().iter().any(|step| step.as_str() == call));
        assert_eq!(bench.engine.fill(mapping.iova(), 3, 0x55), Status::Done);
        assert_eq!(bytes(&shared, 4095, 5), [0, 0x55, 0x55, 0x55, 0]);
        assert_eq!(bench.space.lookup_part(&*shared, 4096..8192), Some(mapping.iova()));
    }
}

#[test]
fn a_watched_map_is_made_in_pieces_and_is_one_mapping() {
    const PIECE: usize = 1 << 30;
    for (bench, call) in Bench::both().into_iter().zip(["IOMMU_IOAS_MAP", "VFIO_IOMMU_MAP_DMA"]) {
        // Hardly any of it is touched.
        let large = Arc::new(Memory::new(2 * PIECE, MemoryOptions::default()).unwrap());
        let fixed = BOTH.at(Iova(PIECE as u64));
        bench.machine.forget_calls();
        let mut told = 0;
        let mut count = |_| {
            told += 1;
            ControlFlow::Continue(())
        };
        let mapping = bench
            .space
            .map(&large, 0..2 * PIECE, fixed.progress(&mut count))
            .unwrap();
        let maps = bench.machine.calls().into_iter().filter(|step| step.as_str() == call);
        assert_eq!((maps.count(), told, bench.space.mappings()), (2, 2, 1));
        let across = Iova(mapping.iova().0 + PIECE as u64 - 2);
        assert_eq!(bench.engine.fill(across, 4, 7), Status::Done);
        assert_eq!(bytes(&large, PIECE - 3, 6), [0, 7, 7, 7, 7, 0]);
        mapping.unmap().unwrap();
        assert_eq!(bench.engine.fill(across, 4, 7), Status::Failed);
        let mut stop = |_| ControlFlow::Break(());
        let cancelled = bench.space.map(&large, 0..2 * PIECE, fixed.progress(&mut stop));
        assert!(matches!(cancelled, Err(Error::Cancelled)));
        bench.machine.fail_nth(1, Errno::NOMEM);
        let failed = bench
            .space
            .map(&large, 0..2 * PIECE, fixed.progress(&mut |_| ControlFlow::Continue(())));
        assert_eq!(failed.unwrap_err().errno(), Some(Errno::NOMEM));
        assert_eq!((bench.space.mappings(), bench.machine.pinned()), (0, 0));
        assert_eq!(Arc::strong_count(&large), 1);
    }
}

#[test]
fn a_limit_of_locked_memory_is_named_and_costs_no_iova() {
    let builders = [two().memlock(1 << 14), two().memlock(1 << 14)];
    let [first, second] = builders;
    for bench in [Bench::iommufd(first), Bench::type1(second)] {
        let (small, large) = (memory(2), memory(16));
        let fixed = READ.at(Iova(0x10_0000));
        let error = bench.space.map(&large, 0..16 * 4096, fixed).unwrap_err();
        let Error::Kernel(error) = error else { panic!("{error}") };
        assert!(matches!(error.kind, ErrorKind::MemlockExceeded { .. }), "{error}");
        bench.space.map(&small, 0..8192, fixed).unwrap().unmap().unwrap();
    }
}

#[test]
fn a_device_moves_between_spaces_without_a_gap() {
    let machine = two().build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let engine = crate::bench::Engine(device.clone());
    let [one, other] = [0, 1].map(|_| AddressSpace::iommufd(&iommufd).unwrap());
    let pages = memory(2);
    let at = BOTH.at(Iova(0x10_0000));
    let _first = one.map(&pages, 0..4096, at).unwrap();
    let _second = other.map(&pages, 4096..8192, at).unwrap();
    let mut attached = one.attach(&device).unwrap();
    assert!(one.attach(&device).is_err(), "one space at a time");
    assert_eq!(engine.fill(Iova(0x10_0000), 1, 1), Status::Done);
    attached.move_to(&other).unwrap();
    assert!(attached.space().is_same(&other));
    assert_eq!(engine.fill(Iova(0x10_0000), 1, 2), Status::Done);
    assert_eq!((bytes(&pages, 0, 1), bytes(&pages, 4096, 1)), (vec![1], vec![2]));
    machine.fail_next("VFIO_DEVICE_ATTACH_IOMMUFD_PT", Errno::NOMEM);
    assert!(attached.move_to(&one).is_err());
    assert!(attached.space().is_same(&other), "it stays where it was");
    attached.detach().unwrap();
    assert_eq!(engine.fill(Iova(0x10_0000), 1, 3), Status::Failed);
}

#[test]
fn a_device_that_has_moved_is_not_said_to_have_stayed() {
    let machine = two().build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let [one, other] = [0, 1].map(|_| AddressSpace::iommufd(&iommufd).unwrap());
    let mut attached = one.attach(&device).unwrap();
    let limited = one.allowed();
    for (from, to) in [(&one, &other), (&other, &one)] {
        machine.fail_next("IOMMU_IOAS_IOVA_RANGES", Errno::NOMEM);
        attached.move_to(to).unwrap();
        assert!(machine.failed().is_some() && attached.space().is_same(to));
        assert_eq!(from.allowed(), [IovaRange::ALL], "read although the other could not be");
        to.refresh().unwrap();
        assert_eq!(to.allowed(), limited);
    }
    machine.fail_next("IOMMU_IOAS_IOVA_RANGES", Errno::NOMEM);
    attached.detach().unwrap();
    assert!(machine.failed().is_some());
}

#[test]
fn a_device_is_not_moved_off_a_page_table_made_on_purpose_by_the_way() {
    let machine = two().build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let object = device.iommufd_device().unwrap();
    let [one, other] = [0, 1].map(|_| AddressSpace::iommufd(&iommufd).unwrap());
    let [own, others] = [&one, &other].map(|space| {
        let parent = HwptParent::Ioas(space.ioas().unwrap());
        Hwpt::alloc(&object, parent, HwptFlags::empty(), HwptData::None, None).unwrap()
    });
    let mut attached = one.attach_table(&device, &own).unwrap();
    assert!(matches!(attached.move_to(&other), Err(Error::Invalid(_))));
    assert!(attached.space().is_same(&one));
    attached.move_to_table(&other, &others).unwrap();
    assert!(attached.space().is_same(&other));
    let page = memory(1);
    let mapping = other.map(&page, 0..4096, BOTH).unwrap();
    assert_eq!(crate::bench::Engine(device).fill(mapping.iova(), 1, 9), Status::Done);
    let type1 = Bench::type1(two());
    let mut attached = type1.space.attach(&type1.engine.0).unwrap();
    assert!(matches!(
        attached.move_to_table(&other, &others),
        Err(Error::Unsupported(_))
    ));
}

#[test]
fn type1_says_that_it_moves_no_devices() {
    let bench = Bench::type1(two());
    let mut attached = bench.space.attach(&bench.engine.0).unwrap();
    let other = Bench::type1(two());
    assert!(matches!(attached.move_to(&other.space), Err(Error::Unsupported(_))));
    assert!(matches!(other.space.attach(&bench.engine.0), Err(Error::Invalid(_))));
    assert!(matches!(
        Bench::iommufd(two()).space.attach(&bench.engine.0),
        Err(Error::Kernel(_))
    ));
}

#[test]
fn attaching_a_device_narrows_the_space() {
    let narrow = Iommu {
        aperture: IovaRange::from_bounds(Iova(0), Iova((1 << 39) - 1)).unwrap(),
        ..Iommu::default()
    };
    let machine = two().iommu(narrow).build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let space = AddressSpace::iommufd(&iommufd).unwrap();
    assert_eq!(space.allowed(), [IovaRange::ALL], "no device, no limit");
    let device = open(&machine, &iommufd, 0).unwrap();
    let attached = space.attach(&device).unwrap();
    assert_eq!(space.allowed().last().map(IovaRange::last), Some(Iova((1 << 39) - 1)));
    attached.detach().unwrap();
    assert_eq!(space.allowed(), [IovaRange::ALL]);
}

#[test]
fn pasids_have_spaces_of_their_own() {
    let machine = two().build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let engine = crate::bench::Engine(device.clone());
    let spaces = [0, 1, 2].map(|_| AddressSpace::iommufd(&iommufd).unwrap());
    let pages = memory(3);
    let at = BOTH.at(Iova(0x10_0000));
    let _mappings: Vec<_> = spaces
        .iter()
        .enumerate()
        .map(|(i, space)| space.map(&pages, i * 4096..(i + 1) * 4096, at).unwrap())
        .collect();
    let own = spaces[0].attach_beside_pasids(&device).unwrap();
    let mut five = spaces[1].attach_pasid(&device, Pasid::new(5).unwrap()).unwrap();
    for (pasid, byte) in [(None, 10), (Some(5), 11)] {
        engine.set_pasid(pasid);
        assert_eq!(engine.fill(Iova(0x10_0000), 1, byte), Status::Done);
    }
    five.move_to(&spaces[2]).unwrap();
    assert_eq!(engine.fill(Iova(0x10_0000), 1, 12), Status::Done);
    assert_eq!([0, 1, 2].map(|page| bytes(&pages, page * 4096, 1)[0]), [10, 11, 12]);
    assert_eq!(five.pasid(), Pasid::new(5));
    five.detach().unwrap();
    assert_eq!(engine.fill(Iova(0x10_0000), 1, 13), Status::Failed);
    own.detach().unwrap();
}

#[test]
fn a_device_without_pasids_is_told_so() {
    let without = Iommu {
        pasid_bits: 0,
        ..Iommu::default()
    };
    let machine = two().iommu(without).build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let space = AddressSpace::iommufd(&iommufd).unwrap();
    let refused = space.attach_pasid(&device, Pasid::new(5).unwrap());
    assert!(matches!(refused, Err(Error::Unsupported(_))));
    let few = Iommu {
        pasid_bits: 4,
        ..Iommu::default()
    };
    let machine = two().iommu(few).build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let device = open(&machine, &iommufd, 0).unwrap();
    let space = AddressSpace::iommufd(&iommufd).unwrap();
    let beyond = space.attach_pasid(&device, Pasid::new(16).unwrap());
    assert!(matches!(beyond, Err(Error::Unsupported(_))));
    drop(space.attach_pasid(&device, Pasid::new(15).unwrap()).unwrap());
    let type1 = Bench::type1(two());
    assert!(matches!(
        type1.space.attach_pasid(&type1.engine.0, Pasid::new(1).unwrap()),
        Err(Error::Unsupported(_))
    ));
}

#[test]
fn one_function_reaches_anothers_bar_while_that_decodes() {
    let machine = two().build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let [device, peer] = [0, 1].map(|function| open(&machine, &iommufd, function).unwrap());
    let engine = crate::bench::Engine(device.clone());
    let space = AddressSpace::iommufd(&iommufd).unwrap();
    let _attached = space.attach(&device).unwrap();
    peer.config().unwrap().set_memory_decode(true).unwrap();
    let mut bar = space.map_bar(&peer, RegionIndex::BAR0, 0..4096, BOTH).unwrap();
    let page = memory(1);
    let target = space.map(&page, 0..4096, WRITE).unwrap();
    let reads_id = |iova| {
        page.fill(0, 4, 0).unwrap();
        (engine.copy(iova, target.iova(), 4), page.read_value::<u32>(0).unwrap())
    };
    let iova = bar.iova();
    assert_eq!(
        reads_id(iova),
        (Status::Done, 0x4350_4d45),
        "the other engine's ID register"
    );
    machine.forget_calls();
    assert!(bar.is_mapped() && bar.refresh().unwrap());
    assert_eq!(machine.calls(), [], "nothing has happened");
    peer.config().unwrap().set_memory_decode(false).unwrap();
    assert!(!bar.is_mapped() && !bar.refresh().unwrap());
    assert_eq!(reads_id(iova).0, Status::Failed);
    assert!(
        matches!(space.map(&page, 0..4096, READ.at(iova)), Err(Error::InUse { .. })),
        "its place is kept"
    );
    peer.config().unwrap().set_memory_decode(true).unwrap();
    assert!(bar.refresh().unwrap() && bar.iova() == iova);
    assert_eq!(reads_id(iova), (Status::Done, 0x4350_4d45));
    drop(bar);
    drop(space.map(&page, 0..4096, READ.at(iova)).unwrap());
    assert!(space.map_bar(&peer, RegionIndex::BAR0, 0..1 << 30, BOTH).is_err());
    #[expect(clippy::reversed_empty_ranges, reason = "what a caller may get wrong")]
    let backwards = space.map_bar(&peer, RegionIndex::BAR0, 4096..0, BOTH);
    assert!(matches!(backwards, Err(Error::Invalid(_))));
}

#[test]
fn a_bar_is_mapped_anew_after_whatever_takes_it_back() {
    let machine = two().build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let [device, peer] = [0, 1].map(|function| open(&machine, &iommufd, function).unwrap());
    let engine = crate::bench::Engine(device.clone());
    let space = AddressSpace::iommufd(&iommufd).unwrap();
    let _attached = space.attach(&device).unwrap();
    let config = peer.config().unwrap();
    config.set_memory_decode(true).unwrap();
    let mut bar = space.map_bar(&peer, RegionIndex::BAR0, 0..4096, BOTH).unwrap();
    let page = memory(1);
    let target = space.map(&page, 0..4096, WRITE).unwrap();
    let iova = bar.iova();
    let off_and_on: &dyn Fn() = &|| {
        config.set_memory_decode(false).unwrap();
        config.set_memory_decode(true).unwrap();
    };
    let reset: &dyn Fn() = &|| peer.reset().unwrap();
    let sleep: &dyn Fn() = &|| {
        peer.low_power_entry().unwrap();
        peer.low_power_exit().unwrap();
    };
    for happening in [off_and_on, reset, sleep] {
        assert_eq!(engine.copy(iova, target.iova(), 4), Status::Done);
        happening();
        assert_eq!(
            engine.copy(iova, target.iova(), 4),
            Status::Failed,
            "what was taken back does not come back by itself"
        );
        assert!(!bar.is_mapped());
        assert!(bar.refresh().unwrap() && bar.is_mapped());
        assert_eq!(bar.iova(), iova);
    }
    // A failure on the way leaves something that can be tried again.
    peer.reset().unwrap();
    machine.fail_next("IOMMU_IOAS_MAP_FILE", Errno::NOMEM);
    assert!(bar.refresh().is_err() && !bar.is_mapped());
    assert!(bar.refresh().unwrap());
    assert_eq!(engine.copy(iova, target.iova(), 4), Status::Done);
    // A reset that this process has not asked for is not noticed; what is asked for in any case helps.
    bar.suspend().unwrap();
    assert!(!bar.is_mapped());
    bar.resume().unwrap();
    assert_eq!(engine.copy(iova, target.iova(), 4), Status::Done);
    bar.resume().unwrap();
    assert!(bar.is_mapped());
}

#[test]
fn buffers_of_a_pool_are_where_the_device_finds_them() {
    let options = BufferOptions {
        pages: PageSize::Base,
        ..BufferOptions::default()
    };
    for bench in Bench::both() {
        let mut out = DmaPool::<ToDevice>::new(&bench.space, 1 << 16, options).unwrap();
        let mut back = DmaPool::<FromDevice>::new(&bench.space, 1 << 16, options).unwrap();
        let mut request = out.take(300).unwrap();
        request.write(100, b"payload").unwrap();
        let answer = back.take(300).unwrap();
        assert_eq!(bench.engine.copy(request.iova(), answer.iova(), 300), Status::Done);
        let mut got = [0; 7];
        answer.read(100, &mut got).unwrap();
        assert_eq!(&got, b"payload");
        assert_eq!(
            bench.engine.fill(request.iova(), 1, 0),
            Status::Failed,
            "the IOMMU keeps the direction"
        );
        let ring = DmaBuffer::<Both>::new(&bench.space, 3 * 4096, &options).unwrap();
        assert_eq!(bench.engine.fill(ring.iova(), 3 * 4096, 0xaa), Status::Done);
        assert_eq!(
            ring.atomic_u64(3 * 4096 - 8)
                .unwrap()
                .load(std::sync::atomic::Ordering::Relaxed),
            0xaaaa_aaaa_aaaa_aaaa
        );
    }
}

#[test]
fn devices_of_one_group_share_one_space_on_iommufd() {
    let machine = Machine::builder()
        .device(bdf(0), GroupId(7), Copier::new())
        .device(bdf(1), GroupId(7), Copier::new())
        .build();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let [one, other] = [0, 1].map(|function| open(&machine, &iommufd, function).unwrap());
    let [shared, apart] = [0, 1].map(|_| AddressSpace::iommufd(&iommufd).unwrap());
    let first = shared.attach(&one).unwrap();
    assert!(apart.attach(&other).is_err());
    let second = shared.attach(&other).unwrap();
    drop((first, one));
    let page = memory(1);
    let mapping = shared.map(&page, 0..4096, BOTH).unwrap();
    assert_eq!(crate::bench::Engine(other).fill(mapping.iova(), 1, 7), Status::Done);
    drop(second);
}
