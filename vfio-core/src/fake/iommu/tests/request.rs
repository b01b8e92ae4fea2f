//! Page requests, and an address space against a model.

use super::*;

/// A device that asks for pages when it is poked, as its registers say.
fn asking() -> Plain {
    let description = Description::new(1, 2)
        .region(Region::bar(0, 4096))
        .page_requests()
        .pasid(8);
    Plain::new(description)
        .on_poke(|registers, bus| {
            let (group, count) = (registers.get(0, 0, 2), registers.get(0, 8, 8));
            for at in 0..count {
                let request = crate::fake::PageRequest {
                    pasid: None,
                    group: u16::try_from(group).unwrap(),
                    iova: Iova(0x10000 + at * PAGE),
                    read: true,
                    write: at % 2 == 1,
                    last: at + 1 == count,
                };
                let taken = bus.request_page(request).is_ok();
                registers.set(0, 16, 1, u64::from(taken));
            }
        })
        .on_page_response(|registers, response, _| {
            let count = registers.get(0, 32, 8);
            registers.set(0, 32, 8, count + 1);
            registers.set(0, 24, 1, u64::from(response.success));
            registers.set(0, 26, 2, response.group.into());
        })
}

#[test]
fn page_requests_come_in_groups() {
    let bdf = "0000:01:00.0".parse().unwrap();
    let iommu = Iommu {
        page_requests: 2,
        ..Iommu::default()
    };
    let machine = Machine::builder()
        .iommu(iommu)
        .device(bdf, GroupId(7), asking())
        .build();
    let (iommufd, device, id) = bound(&machine);
    device.write(7 << 40 | 4, &[6, 0]).unwrap();
    let ioas = iommufd.ioas_alloc().unwrap();
    let (queue_id, queue) = iommufd.fault_queue_alloc().unwrap();
    let fault = HwptAlloc {
        fault: Some(queue_id),
        ..hwpt(id, ioas, 0)
    };
    let table = iommufd.hwpt_alloc(&fault).unwrap();
    let ask = |group: u16, count: u8| {
        device.write(0, &group.to_le_bytes()).unwrap();
        device.write(8, &[count]).unwrap();
        machine.poke(bdf);
        let mut taken = [0];
        device.read(16, &mut taken).unwrap();
        taken[0] == 1
    };
    let answered = || {
        let mut bytes = [0; 16];
        device.read(24, &mut bytes).unwrap();
        (bytes[8], bytes[0] == 1, bytes[2])
    };
    assert!(!ask(3, 1), "nothing is attached");
    device.attach(table, None).unwrap();
    assert!(ask(3, 3));
    let mut bytes = [0; 400];
    assert_eq!(queue.read(&mut bytes[..39]), Err(Errno::SPIPE));
    assert_eq!(queue.read(&mut bytes[..80]), Err(Errno::INVAL), "the group is larger");
    assert_eq!(queue.read(&mut bytes), Ok(120));
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!([word(0), word(40), word(80)], [0, 0, 2], "only the last says so");
    assert_eq!([word(4), word(12), word(16), word(56)], [id, 3, 1, 3]);
    assert_eq!([word(24), word(64), word(104)], [0x10000, 0x11000, 0x12000]);
    let cookie = word(116);
    assert_eq!(queue.read(&mut bytes), Ok(0));
    let answer = |cookie: u32, code: u32| queue.write(&[cookie.to_ne_bytes(), code.to_ne_bytes()].concat());
    assert_eq!(answer(cookie, 2), Err(Errno::INVAL), "no such code");
    assert_eq!(answer(cookie + 1, 0), Err(Errno::INVAL), "no such group");
    assert_eq!(answer(cookie, 0), Ok(8));
    assert_eq!(answered(), (1, true, 3));
    assert_eq!(answer(cookie, 0), Err(Errno::INVAL), "answered already");
    assert!(ask(4, 1) && ask(5, 1));
    assert!(!ask(6, 1), "two wait already");
    assert_eq!(queue.read(&mut bytes[..40]), Ok(40));
    device.detach(None).unwrap();
    assert_eq!(answered(), (3, false, 4), "both were refused, the read one last");
    assert_eq!(queue.read(&mut bytes), Ok(0));
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
                    let result = iommufd.ioas_map(ioas, &memory, part, Some(iova), BOTH);
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
                    let iova = iommufd.ioas_map(ioas, &memory, 0..usize::try_from(len).unwrap(), None, BOTH).unwrap();
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
