//! Devices on the fake machine: what guards hold and end, and what errors say.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use pci::{Bdf, GroupId, Sysfs};
use rustix::io::Errno;
use std::sync::Arc;
use vfio_core::fake::{Copier, Description, Machine, MigrationSupport, Plain, Region as FakeRegion};
use vfio_core::iommufd::Iommufd;
use vfio_core::migration::{MigrationState, StreamRead};
use vfio_core::{
    Access, Backend, BoundDevice, CdevFile, Container, ContainerPath, DirtyBitmap, ErrorKind, EventFd, Feature,
    FeatureAccess, Group, IommuType, Iova, IovaRange, IrqIndex, Pasid, RegionIndex, RegionMapOptions, VfToken, Width,
};

const GROUP: GroupId = GroupId(7);

fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

fn one(device: Plain) -> Machine {
    Machine::builder().device(bdf("0000:01:00.0"), GROUP, device).build()
}

fn bind(machine: &Machine) -> (Iommufd, BoundDevice) {
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let cdev = CdevFile::open(&machine.system(), "/dev/vfio/devices/vfio0").unwrap();
    let device = cdev.bind(&iommufd, None).unwrap();
    (iommufd, device)
}

fn description() -> Description {
    Description::new(0x1af4, 0x10f0).region(FakeRegion::bar(0, 64 << 10))
}

fn events<const N: usize>() -> [EventFd; N] {
    [(); N].map(|()| EventFd::new().unwrap())
}

#[test]
fn a_device_is_shown_in_few_words_and_without_its_token() {
    let [pf, vf] = ["0000:01:00.0", "0000:01:10.0"].map(bdf);
    let machine = Machine::builder()
        .device(pf, GROUP, Plain::new(description()))
        .virtual_function(vf, GroupId(8), pf, Plain::new(description()))
        .build();
    let token = VfToken([0xa5; 16]);
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let cdev = CdevFile::open(&machine.system(), "/dev/vfio/devices/vfio0").unwrap();
    assert_eq!(format!("{cdev:?}"), "CdevFile { bdf: None, is_bound: false }");
    let device = cdev.bind(&iommufd, Some(token)).unwrap();
    assert_eq!(format!("{device:?}"), "BoundDevice { bdf: None, iommufd: 1 }");
    let group = Group::open(&machine.system(), GroupId(8)).unwrap();
    let (path, kind) = (ContainerPath::Vfio, IommuType::Type1v2);
    let group = Container::with_group(&machine.system(), path, kind, &group).unwrap();
    let of_group = group.device(vf, Some(token)).unwrap();
    assert_eq!(
        format!("{of_group:?}"),
        "BoundDevice { bdf: Some(0000:01:10.0), name: \"0000:01:10.0\", container: Vfio }"
    );
    let region = of_group.region(RegionIndex::BAR0).unwrap();
    let interrupts = device.interrupts(IrqIndex::Req).unwrap();
    let all = format!("{machine:?} {iommufd:?} {group:?} {region:?} {interrupts:?} {token:?}");
    assert!(!all.contains("165") && !all.to_lowercase().contains("a5a5"), "{all}");
    assert!(all.len() < 2000, "{all}");
}

#[test]
fn an_index_that_fails_shifts_no_other() {
    let description = description()
        .region(FakeRegion::bar(4, 16 << 10))
        .region(FakeRegion::special(0, 8192, 0x8000_8086, 2));
    let machine = one(Plain::new(description).register(4, 0, 4, 0x1234_5678));
    let (_iommufd, device) = bind(&machine);
    machine.fail_next("VFIO_DEVICE_GET_REGION_INFO", Errno::NOMEM);
    let regions: Vec<_> = device.regions().collect();
    assert_eq!(regions.len(), 10);
    for (place, (index, _)) in regions.iter().enumerate() {
        assert_eq!(index.0 as usize, place);
    }
    let failed = regions[0].1.as_ref().unwrap_err();
    assert_eq!(failed.errno(), Some(Errno::NOMEM));
    assert_eq!(regions[4].1.as_ref().unwrap().read_u32(0).unwrap(), 0x1234_5678);
    assert_eq!(regions[9].1.as_ref().unwrap().info().kind.unwrap().subtype, 2);
    assert!(matches!(regions[1].1.as_ref().unwrap_err().kind, ErrorKind::Invalid(_)));
}

#[test]
fn an_access_outside_a_region_reaches_no_device() {
    let machine = one(Plain::new(description()));
    let (_iommufd, device) = bind(&machine);
    let bar = device.region(RegionIndex::BAR0).unwrap();
    machine.forget_calls();
    for offset in [(64 << 10) - 3, 64 << 10, u64::MAX, u64::MAX - 3] {
        let outside = ErrorKind::OutOfRegion {
            index: 0,
            offset,
            len: 4,
            size: 64 << 10,
        };
        assert_eq!(bar.read_u32(offset).unwrap_err().kind, outside);
        assert_eq!(bar.write_u32(offset, 1).unwrap_err().kind, outside);
    }
    assert_eq!(machine.calls(), []);
    bar.write_u64(8, 0x0102_0304_0506_0708).unwrap();
    assert_eq!((bar.read_u8(8).unwrap(), bar.read_u16(10).unwrap()), (0x08, 0x0506));
}

#[test]
fn a_map_lies_in_what_can_be_mapped() {
    let sparse = FakeRegion::bar(2, 64 << 10).sparse(vec![0..0x4000, 0x8000..0x1_0000]);
    let machine = one(Plain::new(description().region(sparse).region(FakeRegion::bar(4, 16))));
    let (_iommufd, device) = bind(&machine);
    device.config().unwrap().set_memory_decode(true).unwrap();
    let bar = device.region(RegionIndex::BAR2).unwrap();
    assert_eq!(bar.map(0x8000..0xa000).unwrap().part(), 0x8000..0xa000);
    for part in [0x3000..0x5000, 0..0x1_0000, 0x100..0x1000, 0x1000..0x1000] {
        let refused = bar.map(part.clone()).unwrap_err();
        assert!(
            matches!(refused.kind, ErrorKind::Invalid(_) | ErrorKind::Misaligned { .. }),
            "{part:x?}: {refused}"
        );
    }
    let outside = bar.map(0xf000..0x1_1000).unwrap_err();
    assert!(matches!(outside.kind, ErrorKind::OutOfRegion { .. }), "{outside}");
    assert!(
        device.region(RegionIndex::BAR4).unwrap().map(0..16).is_err(),
        "smaller than a page"
    );
    let read_only = RegionMapOptions {
        access: Some(Access::READ),
        ..RegionMapOptions::default()
    };
    let map = bar.map_with(0..0x1000, read_only).unwrap();
    assert_eq!((map.read_u32(0), map.write_u32(0, 1)), (Some(0), None));
    assert!(
        Arc::new(map).to_memory().is_none(),
        "registers of a fake machine have no address"
    );
}

#[test]
fn whatever_came_of_a_device_holds_it_open() {
    let machine = one(Plain::new(description().msix(8, 0, 0x8000)));
    let (iommufd, device) = bind(&machine);
    device.config().unwrap().set_memory_decode(true).unwrap();
    let map = device.region(RegionIndex::BAR0).unwrap().map(0..0x1000).unwrap();
    let interrupts = device.interrupts(IrqIndex::Msix).unwrap();
    let attachment = device.attach(&iommufd.alloc_ioas().unwrap(), None).unwrap();
    drop((iommufd, device));
    assert_eq!(map.write_u32(0, 7), Some(()));
    drop(map);
    interrupts.disable().unwrap();
    drop(interrupts);
    assert_ne!(machine.leaks(), Vec::<String>::new(), "the attachment holds it");
    attachment.detach().unwrap();
    assert_eq!(machine.leaks(), Vec::<String>::new());
    assert_eq!(machine.abandoned(), Vec::<String>::new());
}

#[test]
fn an_attachment_moves_and_excludes_a_second_one() {
    let machine = one(Plain::new(description().pasid(20)));
    let (iommufd, device) = bind(&machine);
    let (first, second) = (iommufd.alloc_ioas().unwrap(), iommufd.alloc_ioas().unwrap());
    let mut attachment = device.attach(&first, None).unwrap();
    let again = device.attach(&second, None).unwrap_err();
    assert!(matches!(again.kind, ErrorKind::Busy(_)), "{again}");
    attachment.replace(&second).unwrap();
    drop(first);
    let foreign = Iommufd::open(&machine.system()).unwrap().alloc_ioas().unwrap();
    let refused = attachment.replace(&foreign).unwrap_err();
    assert!(matches!(refused.kind, ErrorKind::Invalid(_)), "{refused}");
    attachment.detach().unwrap();
    assert!(device.attach(&second, None).is_ok());
    assert!(device.attach(&foreign, Pasid::new(1)).is_err());
}

#[test]
fn a_vf_opens_with_the_token_of_its_pf() {
    let machine = Machine::builder()
        .device(bdf("0000:01:00.0"), GROUP, Copier::new())
        .virtual_function(bdf("0000:01:10.0"), GroupId(8), bdf("0000:01:00.0"), Copier::new())
        .build();
    let (iommufd, pf) = bind(&machine);
    let (token, other) = (VfToken::random().unwrap(), VfToken::random().unwrap());
    pf.set_vf_token(token).unwrap();
    let open = |token| {
        let cdev = CdevFile::open(&machine.system(), "/dev/vfio/devices/vfio1").unwrap();
        cdev.bind(&iommufd, token)
    };
    for wrong in [None, Some(other)] {
        let refused = open(wrong).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Token);
        assert!(refused.fix().is_some());
    }
    machine.fail_next("VFIO_DEVICE_BIND_IOMMUFD", Errno::TOOBIG);
    let unread = open(Some(token)).unwrap_err();
    assert!(matches!(unread.kind, ErrorKind::Unsupported { .. }), "{unread}");
    let vf = open(Some(token)).unwrap();
    let not_a_pf = vf.set_vf_token(other).unwrap_err();
    assert!(matches!(not_a_pf.kind, ErrorKind::Unsupported { .. }), "{not_a_pf}");
}

#[test]
fn a_device_that_is_open_is_busy() {
    let machine = one(Plain::default());
    let (iommufd, _device) = bind(&machine);
    let again = CdevFile::open(&machine.system(), "/dev/vfio/devices/vfio0").unwrap();
    let again = again.bind(&iommufd, None).unwrap_err();
    assert!(matches!(again.kind, ErrorKind::Busy(_)), "{again}");
    assert!(again.fix().is_some());
}

#[test]
fn features_are_those_of_the_device() {
    let support = MigrationSupport {
        pre_copy: true,
        ..MigrationSupport::default()
    };
    let plain = one(Plain::new(description()));
    let able = one(Plain::new(description().migration(support).dma_logging()));
    let (_iommufd, plain) = bind(&plain);
    let (_iommufd, able) = bind(&able);
    assert!(plain.migration().unwrap().is_none());
    assert!(!plain.features().unwrap().contains(Feature::MIGRATION));
    let features = able.features().unwrap();
    assert_eq!(features.access(Feature::MIGRATION), Some(FeatureAccess::GET));
    assert_eq!(
        features.access(Feature::MIG_DEVICE_STATE),
        Some(FeatureAccess::GET | FeatureAccess::SET)
    );
    let range = IovaRange::new(Iova(0), 1 << 20).unwrap();
    let log = able.dma_logging(4096, &[range]).unwrap();
    assert!(able.dma_logging(4096, &[range]).is_err(), "it logs already");
    log.report(&mut DirtyBitmap::new(range, 4096).unwrap()).unwrap();
    drop(log);
    drop(able.dma_logging(4096, &[range]).unwrap());
    let refused = plain.dma_logging(4096, &[range]).unwrap_err();
    assert!(matches!(refused.kind, ErrorKind::Unsupported { .. }), "{refused}");
    assert!(able.dma_logging(4096, &[IovaRange::ALL]).is_err());
}

#[test]
fn a_state_is_saved_while_running_and_stopped() {
    let support = MigrationSupport {
        pre_copy: true,
        ..MigrationSupport::default()
    };
    let machine = one(Plain::new(description().migration(support)).register(0, 0, 4, 0xfeed));
    let (_iommufd, device) = bind(&machine);
    let migration = device.migration().unwrap().unwrap();
    assert_eq!(migration.state().unwrap(), MigrationState::Running);
    let stream = migration.set_state(MigrationState::PreCopy).unwrap().stream.unwrap();
    stream.precopy_info().unwrap();
    let stopped = migration.set_state(MigrationState::StopCopy).unwrap();
    assert_eq!(stopped.state, MigrationState::StopCopy);
    assert!(stopped.stream.is_none(), "the session goes on");
    assert!(
        migration.set_state(MigrationState::PreCopy).is_err(),
        "no way leads back"
    );
    assert!(
        migration.set_state(MigrationState::Error).is_err(),
        "nobody asks for that"
    );
    assert!(
        migration.set_state(MigrationState::RunningP2p).is_err(),
        "it has no such state"
    );
    let (mut state, mut buffer) = (Vec::new(), [0; 16]);
    while let StreamRead::Data(len) = stream.read(&mut buffer).unwrap() {
        state.extend_from_slice(&buffer[..len]);
    }
    assert_eq!(migration.state().unwrap(), MigrationState::StopCopy);

    let target = migration.set_state(MigrationState::Resuming).unwrap().stream.unwrap();
    let mut rest = state.as_slice();
    while !rest.is_empty() {
        rest = &rest[target.write(rest).unwrap()..];
    }
    assert_eq!(
        migration.set_state(MigrationState::Running).unwrap().state,
        MigrationState::Running
    );
}

#[test]
fn an_ioeventfd_writes_until_it_is_dropped() {
    let machine = one(Plain::new(description()));
    let (_iommufd, device) = bind(&machine);
    device.config().unwrap().set_memory_decode(true).unwrap();
    let bar = device.region(RegionIndex::BAR0).unwrap();
    let [event] = events();
    let doorbell = bar.ioeventfd(0x10, Width::Bits32, 5, &event).unwrap();
    event.signal().unwrap();
    machine.settle();
    assert_eq!(bar.read_u32(0x10).unwrap(), 5);
    bar.write_u32(0x10, 0).unwrap();
    drop(doorbell);
    event.signal().unwrap();
    machine.settle();
    assert_eq!(bar.read_u32(0x10).unwrap(), 0);
    assert!(bar.ioeventfd(64 << 10, Width::Bits8, 0, &event).is_err());
    assert!(
        device
            .config()
            .unwrap()
            .region()
            .ioeventfd(4, Width::Bits16, 0, &event)
            .is_err()
    );
}

#[test]
fn a_device_without_reset_says_what_would_help() {
    let machine = one(Plain::new(description().without_reset()));
    let (_iommufd, device) = bind(&machine);
    let refused = device.reset().unwrap_err();
    assert!(matches!(refused.kind, ErrorKind::Unsupported { .. }), "{refused}");
    assert_eq!(refused.step.as_str(), "VFIO_DEVICE_RESET");
}

#[test]
fn a_device_that_is_gone_is_let_go_of_quietly() {
    let machine = one(Plain::default());
    let (iommufd, device) = bind(&machine);
    let interrupts = device.interrupts(IrqIndex::Msix).unwrap();
    let attachment = device.attach(&iommufd.alloc_ioas().unwrap(), None).unwrap();
    machine.remove(bdf("0000:01:00.0"));
    let gone = device.region(RegionIndex::BAR0).unwrap_err();
    assert!(matches!(gone.kind, ErrorKind::Gone(_)), "{gone}");
    drop((interrupts, attachment, device, iommufd));
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn every_way_tells_why_it_is_none() {
    let reasons = |machine: &Machine| -> Vec<bool> {
        let sysfs = Sysfs::at("/nonexistent");
        let answers = Backend::probe(&machine.system(), &sysfs, None);
        answers.iter().map(|(_, usable)| usable.is_ok()).collect()
    };
    let all = Machine::builder().build();
    assert_eq!(reasons(&all), [true, true, true, true, true, false]);
    let legacy = Machine::builder().iommufd(false).build();
    assert_eq!(reasons(&legacy), [false, true, true, false, false, false]);
    let modern = Machine::builder().type1(false).build();
    assert_eq!(reasons(&modern), [true, false, false, true, true, false]);
}
