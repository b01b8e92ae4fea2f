//! Page tables, virtual IOMMUs and what the hardware can do.

use super::*;

#[test]
fn what_is_used_is_not_destroyed() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    assert_eq!(iommufd.destroy(id), Err(Errno::BUSY), "a bound device");
    let automatic = device.attach(ioas, None).unwrap();
    assert_eq!(iommufd.destroy(ioas), Err(Errno::BUSY));
    assert_eq!(iommufd.destroy(automatic), Err(Errno::BUSY));
    device.detach(None).unwrap();
    assert_eq!(
        iommufd.destroy(automatic),
        Err(Errno::NOENT),
        "it went with the last device"
    );
    let table = iommufd.hwpt_alloc(&hwpt(id, ioas, 0)).unwrap();
    assert_eq!(iommufd.destroy(ioas), Err(Errno::BUSY));
    iommufd.destroy(table).unwrap();
    iommufd.destroy(ioas).unwrap();
    let (queue, file) = iommufd.fault_queue_alloc().unwrap();
    assert_eq!(iommufd.destroy(queue), Err(Errno::BUSY), "its file is open");
    drop(file);
    iommufd.destroy(queue).unwrap();
}

#[test]
fn page_tables_are_replaced_and_compared() {
    let machine = one_device(Iommu::default());
    let (iommufd, device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let plain = iommufd.hwpt_alloc(&hwpt(id, ioas, 0)).unwrap();
    let pasid = iommufd.hwpt_alloc(&hwpt(id, ioas, super::super::hwpt::PASID)).unwrap();
    assert_eq!(device.attach(99, None), Err(Errno::NOENT));
    assert_eq!(device.attach(id, None), Err(Errno::INVAL), "a device is no page table");
    assert_eq!(device.attach(plain, None), Ok(plain));
    assert_eq!(
        device.attach(pasid, Some(1)),
        Err(Errno::INVAL),
        "the other one knows no PASIDs"
    );
    assert_eq!(device.attach(pasid, None), Ok(pasid), "a second attach replaces");
    assert_eq!(device.attach(pasid, Some(1)), Ok(pasid));
    assert_eq!(device.attach(plain, None), Err(Errno::INVAL));
    assert_eq!(device.attach(plain, Some(1)), Err(Errno::INVAL));
    assert_eq!(
        device.attach(ioas, Some(2)),
        Err(Errno::INVAL),
        "what the kernel makes knows none"
    );
    assert_eq!(
        device.attach(pasid, Some(1 << 20)),
        Err(Errno::INVAL),
        "too large a PASID"
    );
    assert_eq!(iommufd.destroy(pasid), Err(Errno::BUSY));
    device.detach(Some(1)).unwrap();
    device.detach(Some(1)).unwrap();
    assert_eq!(device.attach(plain, None), Ok(plain));
}

#[test]
fn devices_of_a_group_use_one_page_table() {
    let builder = Machine::builder().device("0000:01:00.0".parse().unwrap(), GroupId(7), Copier::new());
    let machine = builder
        .device("0000:01:00.1".parse().unwrap(), GroupId(7), Copier::new())
        .build();
    let (iommufd, first, _) = bound(&machine);
    let second = cdev(&machine, 1);
    second.bind_iommufd(iommufd.number(), None).unwrap();
    let (a, b) = (iommufd.ioas_alloc().unwrap(), iommufd.ioas_alloc().unwrap());
    let table = first.attach(a, None).unwrap();
    assert_eq!(second.attach(b, None), Err(Errno::INVAL));
    assert_eq!(second.attach(a, None), Ok(table));
    let moved = first.attach(b, None).unwrap();
    assert_ne!(moved, table);
    assert_eq!(iommufd.destroy(a), Ok(()), "both moved");
    first.detach(None).unwrap();
    assert_eq!(iommufd.destroy(b), Err(Errno::BUSY), "the second is still there");
    second.detach(None).unwrap();
    iommufd.destroy(b).unwrap();
    // Somebody else's iommufd cannot have a part of the group.
    drop(second);
    let other = open(&machine);
    assert_eq!(cdev(&machine, 1).bind_iommufd(other.number(), None), Err(Errno::PERM));
}

#[test]
fn flags_need_an_iommu_that_has_them() {
    let iommu = Iommu {
        dirty_tracking: false,
        pasid_bits: 0,
        ..Iommu::default()
    };
    let machine = one_device(iommu);
    let (iommufd, device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    for flags in [
        super::super::hwpt::DIRTY_TRACKING,
        super::super::hwpt::PASID,
        super::super::hwpt::NEST_PARENT,
        1 << 9,
    ] {
        assert_eq!(
            iommufd.hwpt_alloc(&hwpt(id, ioas, flags)),
            Err(Errno::OPNOTSUPP),
            "{flags}"
        );
    }
    let bare = HwptAlloc {
        kind: 1,
        ..hwpt(id, ioas, 0)
    };
    assert_eq!(iommufd.hwpt_alloc(&bare), Err(Errno::INVAL), "a type without data");
    let table = iommufd.hwpt_alloc(&hwpt(id, ioas, 0)).unwrap();
    assert_eq!(iommufd.hwpt_set_dirty_tracking(table, true), Err(Errno::OPNOTSUPP));
    let info = iommufd.get_hw_info(id, None, &mut [0xff; 4]).unwrap();
    assert_eq!(
        (info.kind, info.len, info.capabilities, info.max_pasid_log2),
        (0, 0, 0, 0)
    );
    // Page requests of a device without them.
    let other = cdev(&machine, 1);
    other.bind_iommufd(iommufd.number(), None).unwrap();
    let (queue, _file) = iommufd.fault_queue_alloc().unwrap();
    let fault = HwptAlloc {
        fault: Some(queue),
        ..hwpt(id, ioas, 0)
    };
    let with_queue = iommufd.hwpt_alloc(&fault).unwrap();
    assert_eq!(other.attach(with_queue, None), Err(Errno::NODEV));
    device.attach(with_queue, None).unwrap();
}

#[test]
fn hardware_information_is_cut_or_filled_up() {
    let iommu = Iommu {
        hw_info: (1, (1..=24).collect()),
        ..Iommu::default()
    };
    let machine = one_device(iommu);
    let (iommufd, _device, id) = bound(&machine);
    let mut long = [0xff; 30];
    let info = iommufd.get_hw_info(id, None, &mut long).unwrap();
    assert_eq!((info.kind, info.len, info.max_pasid_log2), (1, 24, 20));
    assert_eq!(&long[22..], [23, 24, 0, 0, 0, 0, 0, 0]);
    let mut short = [0; 2];
    assert_eq!(iommufd.get_hw_info(id, None, &mut short).unwrap().len, 24);
    assert_eq!(short, [1, 2]);
    assert_eq!(iommufd.get_hw_info(id, Some(3), &mut short), Err(Errno::OPNOTSUPP));
}

#[test]
fn options() {
    use iommufd_bindings::iommufd::{
        iommufd_option_IOMMU_OPTION_HUGE_PAGES as HUGE, iommufd_option_IOMMU_OPTION_RLIMIT_MODE as RLIMIT,
    };
    let machine = one_device(Iommu::default());
    let iommufd = open(&machine);
    assert_eq!(iommufd.option_get(RLIMIT, 0), Ok(0));
    assert_eq!(iommufd.option_set(RLIMIT, 0, 2), Err(Errno::INVAL));
    iommufd.option_set(RLIMIT, 0, 1).unwrap();
    assert_eq!(iommufd.option_get(HUGE, 1), Err(Errno::NOENT));
    let ioas = iommufd.ioas_alloc().unwrap();
    assert_eq!(iommufd.option_set(RLIMIT, 0, 0), Err(Errno::BUSY), "an object exists");
    assert_eq!(iommufd.option_get(HUGE, ioas), Ok(1));
    iommufd.option_set(HUGE, ioas, 0).unwrap();
    assert_eq!(iommufd.option_set(HUGE, ioas, 2), Err(Errno::INVAL));
    assert_eq!(iommufd.option_get(7, 0), Err(Errno::OPNOTSUPP));
    assert_eq!(iommufd.vfio_ioas_get(), Err(Errno::NODEV));
    assert_eq!(iommufd.vfio_ioas_set(9), Err(Errno::NOENT));
    iommufd.vfio_ioas_set(ioas).unwrap();
    assert_eq!(iommufd.vfio_ioas_get(), Ok(ioas));
    iommufd.destroy(ioas).unwrap();
    assert_eq!(iommufd.vfio_ioas_get(), Err(Errno::NODEV));
}

#[test]
fn nested_tables_and_virtual_iommus() {
    let iommu = Iommu {
        nesting: Some(1),
        viommu: Some(1),
        hw_queue: Some(1),
        ..Iommu::default()
    };
    let machine = one_device(iommu);
    let (iommufd, device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let plain = iommufd.hwpt_alloc(&hwpt(id, ioas, 0)).unwrap();
    let parent = iommufd
        .hwpt_alloc(&hwpt(id, ioas, super::super::hwpt::NEST_PARENT))
        .unwrap();
    let data = [0; 24];
    let nested = |parent, kind| HwptAlloc {
        kind,
        data: &data,
        ..hwpt(id, parent, 0)
    };
    assert_eq!(
        iommufd.hwpt_alloc(&nested(plain, 1)),
        Err(Errno::INVAL),
        "not made to be a parent"
    );
    assert_eq!(
        iommufd.hwpt_alloc(&nested(parent, 2)),
        Err(Errno::OPNOTSUPP),
        "another kind"
    );
    let table = iommufd.hwpt_alloc(&nested(parent, 1)).unwrap();
    assert_eq!(
        iommufd.hwpt_alloc(&nested(table, 1)),
        Err(Errno::INVAL),
        "nested on nested"
    );
    assert_eq!(iommufd.destroy(parent), Err(Errno::BUSY));
    let mut entries = [0_u8; 48];
    assert_eq!(iommufd.hwpt_invalidate(table, 0, 24, &entries), (2, Ok(())));
    entries[24] = 1;
    assert_eq!(
        iommufd.hwpt_invalidate(table, 0, 24, &entries),
        (1, Err(Errno::INVAL)),
        "the second"
    );
    assert_eq!(iommufd.hwpt_invalidate(plain, 0, 24, &entries), (0, Err(Errno::INVAL)));
    let viommu = iommufd.viommu_alloc(id, parent, 1, &mut []).unwrap();
    assert_eq!(iommufd.viommu_alloc(id, plain, 1, &mut []), Err(Errno::INVAL));
    assert_eq!(iommufd.viommu_alloc(id, parent, 2, &mut []), Err(Errno::OPNOTSUPP));
    let vdevice = iommufd.vdevice_alloc(viommu, id, 5).unwrap();
    assert_eq!(iommufd.vdevice_alloc(viommu, id, 6), Err(Errno::EXIST));
    map(&iommufd, ioas, 0x10000, 2).unwrap();
    assert_eq!(
        iommufd.hw_queue_alloc(viommu, 1, 1, 0x10000, PAGE),
        Err(Errno::IO),
        "out of order"
    );
    let queue = iommufd.hw_queue_alloc(viommu, 1, 0, 0x10000, PAGE).unwrap();
    assert_eq!(
        iommufd.ioas_unmap(ioas, 0x10000, 2 * PAGE),
        Err(Errno::BUSY),
        "read by hardware"
    );
    iommufd.destroy(queue).unwrap();
    iommufd.ioas_unmap(ioas, 0x10000, 2 * PAGE).unwrap();
    assert_eq!(iommufd.destroy(viommu), Err(Errno::BUSY));
    drop(device);
    assert_eq!(iommufd.destroy(vdevice), Err(Errno::NOENT), "it went with its device");
    iommufd.destroy(viommu).unwrap();
}

#[test]
fn events_that_do_not_fit_leave_a_note() {
    let iommu = Iommu {
        nesting: Some(1),
        viommu: Some(1),
        ..Iommu::default()
    };
    let device = Plain::default().on_poke(|_, bus| bus.report_vevent(1, b"12345678").unwrap());
    let bdf = "0000:01:00.0".parse().unwrap();
    let machine = Machine::builder().iommu(iommu).device(bdf, GroupId(7), device).build();
    let (iommufd, _device, id) = bound(&machine);
    let ioas = iommufd.ioas_alloc().unwrap();
    let parent = iommufd
        .hwpt_alloc(&hwpt(id, ioas, super::super::hwpt::NEST_PARENT))
        .unwrap();
    let viommu = iommufd.viommu_alloc(id, parent, 1, &mut []).unwrap();
    iommufd.vdevice_alloc(viommu, id, 5).unwrap();
    assert_eq!(iommufd.veventq_alloc(viommu, 1, 0).map(|_| ()), Err(Errno::INVAL));
    let (_, queue) = iommufd.veventq_alloc(viommu, 1, 2).unwrap();
    assert_eq!(iommufd.veventq_alloc(viommu, 1, 2).map(|_| ()), Err(Errno::EXIST));
    (0..4).for_each(|_| machine.poke(bdf));
    let mut bytes = [0; 64];
    assert_eq!(queue.read(&mut bytes[..7]), Err(Errno::INVAL));
    assert_eq!(
        queue.read(&mut bytes[..8]),
        Err(Errno::INVAL),
        "no room for the first event"
    );
    assert_eq!(queue.read(&mut bytes), Ok(16 + 16 + 8));
    let sequences = [&bytes[4..8], &bytes[20..24], &bytes[36..40]].map(|bytes| bytes[0]);
    assert_eq!(sequences, [0, 1, 3], "the note has the number of the last one lost");
    assert_eq!(bytes[32], 1, "lost events");
    assert_eq!(queue.read(&mut bytes), Ok(0));
    assert_eq!(queue.write(&bytes), Err(Errno::INVAL));
}
