//! Address spaces: what is mapped, copied, and held to a limit.

use super::*;

#[test]
fn ids_are_the_lowest_that_are_free() {
    let machine = Machine::builder().build();
    let iommufd = open(&machine);
    let ids = [iommufd.ioas_alloc().unwrap(), iommufd.ioas_alloc().unwrap()];
    assert_eq!(ids, [1, 2]);
    iommufd.destroy(1).unwrap();
    assert_eq!(iommufd.ioas_alloc(), Ok(1));
    assert_eq!(iommufd.destroy(0), Err(Errno::NOENT));
    assert_eq!(iommufd.destroy(3), Err(Errno::NOENT));
    assert_eq!(machine.mistakes().len(), 2);
}

#[test]
fn areas_are_unmapped_as_wholes() {
    let machine = Machine::builder().build();
    let iommufd = open(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    assert_eq!(
        iommufd.ioas_unmap(ioas, 0x1000, PAGE),
        Err(Errno::NOENT),
        "nothing there"
    );
    map(&iommufd, ioas, 0x10000, 2).unwrap();
    map(&iommufd, ioas, 0x20000, 1).unwrap();
    assert_eq!(map(&iommufd, ioas, 0x11000, 1), Err(Errno::EXIST));
    assert_eq!(iommufd.ioas_unmap(ioas, 0x10000, PAGE), Err(Errno::NOENT), "a part");
    assert_eq!(iommufd.ioas_unmap(ioas, 0x0, 0x30000), Ok(3 * PAGE), "all inside");
    assert_eq!(
        iommufd.ioas_unmap(ioas, 0, u64::MAX),
        Ok(0),
        "everything, also of nothing"
    );
}

#[test]
fn arguments_that_make_no_sense() {
    let machine = Machine::builder().build();
    let iommufd = open(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let memory = memory();
    let try_map = |part, iova, access| iommufd.ioas_map(ioas, &Lent::memory_to_fake(&memory), part, iova, access);
    assert_eq!(try_map(0..0, None, BOTH), Err(Errno::INVAL));
    assert_eq!(try_map(0..4096, Some(u64::MAX), BOTH), Err(Errno::OVERFLOW));
    assert_eq!(try_map(0..8192, Some(u64::MAX - 0xfff), BOTH), Err(Errno::OVERFLOW));
    assert_eq!(try_map(0..4096, None, Access::empty()), Err(Errno::INVAL));
    assert_eq!(try_map(0..SIZE + 1, None, BOTH), Err(Errno::FAULT));
    assert_eq!(
        iommufd.ioas_map(9, &Lent::memory_to_fake(&memory), 0..4096, None, BOTH),
        Err(Errno::NOENT)
    );
    assert_eq!(iommufd.ioas_unmap(ioas, 0x1000, u64::MAX), Err(Errno::OVERFLOW));
    assert_eq!(iommufd.ioas_unmap(ioas, 0x1000, 0), Err(Errno::INVAL));
}

#[test]
fn a_chosen_iova_keeps_the_alignment_of_the_memory() {
    let machine = Machine::builder().build();
    let iommufd = open(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let memory = Arc::new(Memory::new(8 << 20, MemoryOptions::default()).unwrap());
    let address = memory.address() as u64;
    let memory: Arc<dyn StableMemory> = memory;
    let iova = iommufd
        .ioas_map(ioas, &Lent::memory_to_fake(&memory), 0..4096, None, BOTH)
        .unwrap();
    assert_eq!(iova, PAGE, "never 0");
    // The first part that begins on a huge page.
    let start = usize::try_from(address.next_multiple_of(2 << 20) - address).unwrap();
    let iova = iommufd
        .ioas_map(
            ioas,
            &Lent::memory_to_fake(&memory),
            start..start + (4 << 20),
            None,
            BOTH,
        )
        .unwrap();
    assert_eq!(iova % (2 << 20), 0);
    let odd = iommufd
        .ioas_map(ioas, &Lent::memory_to_fake(&memory), 0x3123..0x3456, None, BOTH)
        .unwrap();
    assert_eq!(odd % PAGE, 0x123, "the offset in the page stays");
}

#[test]
fn allowed_and_reserved_ranges_exclude_each_other() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, _) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    iommufd.ioas_allow_iovas(ioas, &[(0x50000, 0x5ffff)]).unwrap();
    let chosen = iommufd
        .ioas_map(ioas, &Lent::memory_to_fake(&memory()), 0..4096, None, BOTH)
        .unwrap();
    assert!((0x50000..0x60000).contains(&chosen));
    iommufd.ioas_allow_iovas(ioas, &[(0xfee0_0000, 0xfee0_0fff)]).unwrap();
    assert_eq!(
        device.attach(ioas, None),
        Err(Errno::ADDRINUSE),
        "the MSI window is allowed"
    );
    iommufd.ioas_allow_iovas(ioas, &[]).unwrap();
    device.attach(ioas, None).unwrap();
    assert_eq!(
        iommufd.ioas_allow_iovas(ioas, &[(0xfee0_0000, 0xfee0_0fff)]),
        Err(Errno::ADDRINUSE)
    );
    assert_eq!(iommufd.ioas_allow_iovas(ioas, &[(5, 5)]), Err(Errno::INVAL));
    assert_eq!(map(&iommufd, ioas, 0xfee0_0000, 1), Err(Errno::INVAL), "reserved");
    assert_eq!(
        map(&iommufd, ioas, 1 << 48, 1),
        Err(Errno::INVAL),
        "outside the aperture"
    );
    let mut ranges = [(0, 0); 1];
    let (count, alignment) = iommufd.ioas_iova_ranges(ioas, &mut ranges).unwrap();
    assert_eq!(
        (count, alignment, ranges[0]),
        (2, PAGE, (0, 0xfedf_ffff)),
        "one of two fits"
    );
    device.detach(None).unwrap();
    assert_eq!(iommufd.ioas_iova_ranges(ioas, &mut []), Ok((1, 1)));
}

#[test]
fn an_attach_needs_what_is_mapped_to_fit() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, _) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    iommufd
        .ioas_map(ioas, &Lent::memory_to_fake(&memory()), 0..100, Some(0x1001), BOTH)
        .unwrap();
    assert_eq!(device.attach(ioas, None), Err(Errno::ADDRINUSE));
    iommufd.ioas_unmap(ioas, 0, u64::MAX).unwrap();
    device.attach(ioas, None).unwrap();
    let off = iommufd.ioas_map(ioas, &Lent::memory_to_fake(&memory()), 0..100, Some(0x1000), BOTH);
    assert_eq!(off, Err(Errno::INVAL), "no whole page");
}

#[test]
fn copies_share_what_is_pinned() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, _) = bound(&machine);
    let (from, to) = (iommufd.ioas_alloc().unwrap(), iommufd.ioas_alloc().unwrap());
    iommufd
        .ioas_map(
            from,
            &Lent::memory_to_fake(&memory()),
            0..SIZE,
            Some(0x10000),
            Access::READ,
        )
        .unwrap();
    assert_eq!(machine.pinned(), 0, "no device yet");
    let copied = iommufd
        .ioas_copy(to, Lent::to_fake((from, 0x12000)), PAGE, None, Access::READ)
        .unwrap();
    assert_eq!(copied, PAGE);
    let beyond = iommufd.ioas_copy(
        to,
        Lent::to_fake((from, 0x10000)),
        SIZE as u64 + PAGE,
        None,
        Access::READ,
    );
    assert_eq!(beyond, Err(Errno::NOENT));
    let write = iommufd.ioas_copy(to, Lent::to_fake((from, 0x10000)), PAGE, None, BOTH);
    assert_eq!(write, Err(Errno::PERM), "more than was mapped");
    device.attach(from, None).unwrap();
    assert_eq!(machine.pinned(), SIZE as u64);
    iommufd
        .ioas_copy(
            from,
            Lent::to_fake((from, 0x10000)),
            SIZE as u64,
            Some(0x80000),
            Access::READ,
        )
        .unwrap();
    assert_eq!(machine.pinned(), SIZE as u64, "pinned once");
    iommufd.ioas_unmap(from, 0x10000, SIZE as u64).unwrap();
    assert_eq!(machine.pinned(), SIZE as u64, "the copy holds it");
    device.detach(None).unwrap();
    assert_eq!(machine.pinned(), 0);
}

#[test]
fn locked_memory_has_a_limit() {
    let builder = Machine::builder().memlock(4 * PAGE);
    let machine = builder
        .device("0000:01:00.0".parse().unwrap(), GroupId(7), Copier::new())
        .build();
    let (iommufd, device, _) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    map(&iommufd, ioas, 0x10000, 5).unwrap();
    assert_eq!(
        device.attach(ioas, None),
        Err(Errno::NOMEM),
        "pinning is when a device comes"
    );
    iommufd.ioas_unmap(ioas, 0, u64::MAX).unwrap();
    device.attach(ioas, None).unwrap();
    map(&iommufd, ioas, 0x10000, 3).unwrap();
    assert_eq!(map(&iommufd, ioas, 0x20000, 2), Err(Errno::NOMEM));
    map(&iommufd, ioas, 0x20000, 1).unwrap();
    iommufd.ioas_unmap(ioas, 0x10000, 3 * PAGE).unwrap();
    assert_eq!(machine.pinned(), PAGE);
}

#[test]
fn files_must_be_shared_memory_and_long_enough() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, _) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    device.attach(ioas, None).unwrap();
    let memory = shared_memory();
    let file = memory.file().unwrap();
    let map = |file, start, len| iommufd.ioas_map_file(ioas, file, start, len, None, BOTH);
    map(file, 0, SIZE as u64).unwrap();
    assert_eq!(map(file, PAGE, SIZE as u64), Err(Errno::INVAL), "beyond the end");
    assert_eq!(map(file, u64::MAX, 2), Err(Errno::OVERFLOW));
    let regular = tempfile::tempfile().unwrap();
    regular.set_len(PAGE).unwrap();
    let on_disk = rustix::fs::fcntl_get_seals(regular.as_fd()).is_err();
    assert!(!on_disk || map(regular.as_fd(), 0, PAGE) == Err(Errno::INVAL));
    assert_eq!(iommufd.ioas_change_process(), Ok(()), "files may change hands");
    self::map(&iommufd, ioas, 0x100_0000, 1).unwrap();
    assert_eq!(iommufd.ioas_change_process(), Err(Errno::INVAL));
}

/// A mapping of the model: where, how long.
type Model = std::collections::BTreeMap<u64, u64>;

#[derive(Debug, Clone)]
enum Step {
    Map { iova: u64, pages: u64 },
    Choose { pages: u64 },
    Unmap { iova: u64, pages: u64 },
    Attach,
    Detach,
}

fn step() -> impl Strategy<Value = Step> {
    let (place, pages) = (0_u64..24, 1_u64..6);
    prop_oneof![
        4 => (place.clone(), pages.clone()).prop_map(|(place, pages)| Step::Map { iova: place * PAGE, pages }),
        2 => pages.clone().prop_map(|pages| Step::Choose { pages }),
        4 => (place, 1_u64..12).prop_map(|(place, pages)| Step::Unmap { iova: place * PAGE, pages }),
        1 => Just(Step::Attach),
        1 => Just(Step::Detach),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_address_space_is_a_set_of_ranges_that_do_not_overlap(steps in prop::collection::vec(step(), 1..60)) {
        let reserved = IovaRange::new(Iova(10 * PAGE), 2 * PAGE).unwrap();
        let iommu = Iommu { reserved: vec![reserved], ..Iommu::default() };
        let machine = one_device(iommu);
        let (iommufd, device, _) = bound(&machine);
        let ioas = iommufd.ioas_alloc().unwrap();
        let memory = memory();
        let mut model = Model::new();
        let mut attached = false;
        let hits = |model: &Model, start: u64, end: u64| model.iter().filter(|(at, len)| **at < end && start < *at + **len).map(|(at, len)| (*at, *len)).collect::<Vec<_>>();
        let is_reserved = |start: u64, end: u64| start < 12 * PAGE && 10 * PAGE < end;
        for step in steps {
            match step {
                Step::Map { iova, pages } => {
                    let len = pages * PAGE;
                    let part = 0..usize::try_from(len).unwrap();
                    let result = iommufd.ioas_map(ioas, &Lent::memory_to_fake(&memory), part, Some(iova), BOTH);
                    let expected = if attached && is_reserved(iova, iova + len) {
                        Err(Errno::INVAL)
                    } else if !hits(&model, iova, iova + len).is_empty() {
                        Err(Errno::EXIST)
                    } else {
                        model.insert(iova, len);
                        Ok(iova)
                    };
                    prop_assert_eq!(result, expected);
                }
                Step::Choose { pages } => {
                    let len = pages * PAGE;
                    let iova = iommufd.ioas_map(ioas, &Lent::memory_to_fake(&memory), 0..usize::try_from(len).unwrap(), None, BOTH).unwrap();
                    prop_assert!(hits(&model, iova, iova + len).is_empty() && iova >= PAGE);
                    prop_assert!(!attached || !is_reserved(iova, iova + len));
                    // Nothing lower would have done.
                    let alignment = len.next_power_of_two().min(1 << (memory.address() as u64).trailing_zeros());
                    for lower in (0..iova).step_by(usize::try_from(alignment).unwrap()).filter(|lower| *lower >= PAGE) {
                        let free = hits(&model, lower, lower + len).is_empty() && !(attached && is_reserved(lower, lower + len));
                        prop_assert!(!free, "{:#x} was free", lower);
                    }
                    model.insert(iova, len);
                }
                Step::Unmap { iova, pages } => {
                    let end = iova + pages * PAGE;
                    let result = iommufd.ioas_unmap(ioas, iova, pages * PAGE);
                    // Areas go one by one until one is cut.
                    let mut gone = 0;
                    let mut cut = false;
                    for (at, len) in hits(&model, iova, end) {
                        if at < iova || at + len > end {
                            cut = true;
                            break;
                        }
                        gone += len;
                        model.remove(&at);
                    }
                    let expected = if cut || gone == 0 { Err(Errno::NOENT) } else { Ok(gone) };
                    prop_assert_eq!(result, expected);
                }
                Step::Attach => {
                    let fits = attached || hits(&model, 10 * PAGE, 12 * PAGE).is_empty();
                    let result = device.attach(ioas, None).map(|_| ());
                    prop_assert_eq!(result, if fits { Ok(()) } else { Err(Errno::ADDRINUSE) });
                    attached |= fits;
                }
                Step::Detach => {
                    device.detach(None).unwrap();
                    attached = false;
                }
            }
            let mapped: u64 = model.values().sum();
            prop_assert_eq!(machine.pinned(), if attached { mapped } else { 0 });
        }
        drop((device, iommufd));
        prop_assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}
