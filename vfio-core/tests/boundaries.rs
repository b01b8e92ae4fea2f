//! Where a device's file comes from, and what takes its registers and its dma-bufs away.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use pci::GroupId;
use vfio_core::fake::{Description, Machine, Plain, Region};
use vfio_core::iommufd::Iommufd;
use vfio_core::{BoundDevice, CdevFile, ErrorKind, RegionIndex, VfToken};

fn machine() -> Machine {
    let device = Plain::new(Description::new(0x1af4, 0x10f0).region(Region::bar(0, 64 << 10)));
    Machine::builder()
        .device("0000:01:00.0".parse().unwrap(), GroupId(7), device)
        .build()
}

fn bind(machine: &Machine) -> (Iommufd, BoundDevice) {
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let cdev = CdevFile::open(&machine.system(), "/dev/vfio/devices/vfio0").unwrap();
    let device = cdev.bind(&iommufd, None).unwrap();
    (iommufd, device)
}

#[test]
fn a_file_that_nothing_is_known_of_is_refused() {
    let machine = machine();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let file = || tempfile::tempfile().unwrap().into();
    let refused = CdevFile::from_fd(file(), None).bind(&iommufd, None).unwrap_err();
    assert!(refused.to_string().contains("guards"), "{refused}");
    let container = vfio_core::Container::open(&machine.system(), vfio_core::ContainerPath::Vfio).unwrap();
    let refused = container.add(&vfio_core::Group::from_fd(file(), None)).unwrap_err();
    assert!(refused.to_string().contains("guards"), "{refused}");
}

#[test]
fn a_file_that_was_not_bound_can_be_tried_again_until_it_is() {
    let machine = machine();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let cdev = CdevFile::open(&machine.system(), "/dev/vfio/devices/vfio0").unwrap();
    let token = "a5a5a5a5-0000-4000-8000-000000000001".parse::<VfToken>().unwrap();
    assert!(cdev.bind(&iommufd, Some(token)).is_err(), "a token where none is due");
    let device = cdev.bind(&iommufd, None).unwrap();
    let again = cdev.bind(&iommufd, None).unwrap_err();
    assert!(matches!(again.kind, ErrorKind::Invalid(_)), "{again}");
    drop((device, iommufd));
    assert_eq!(
        machine.leaks(),
        Vec::<String>::new(),
        "closed with the device, not with the file's first owner"
    );
    drop(cdev);
}

#[test]
fn files_of_two_systems_do_not_mix() {
    let machine = machine();
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    // A character device that has a name, and knows no request of VFIO.
    let null = std::fs::File::open("/dev/null").unwrap();
    let refused = CdevFile::from_fd(null.into(), None).bind(&iommufd, None).unwrap_err();
    assert!(matches!(refused.kind, ErrorKind::Invalid(_)), "{refused}");
}

#[test]
fn low_power_and_maps_exclude_each_other() {
    let machine = machine();
    let (_iommufd, device) = bind(&machine);
    device.config().unwrap().set_memory_decode(true).unwrap();
    let bar = device.region(RegionIndex::BAR0).unwrap();
    let map = bar.map(0..4096).unwrap();
    let refused = device.low_power_entry().unwrap_err();
    assert!(matches!(refused.kind, ErrorKind::Invalid(_)), "{refused}");
    drop(map);
    device.low_power_entry().unwrap();
    assert!(bar.map(0..4096).is_err());
    assert!(device.low_power_entry().is_err(), "it is there already");
    assert!(bar.map(0..4096).is_err(), "and still is");
    device.low_power_exit().unwrap();
    assert!(bar.map(0..4096).is_ok());
}

#[test]
fn what_takes_dma_bufs_back_is_counted() {
    let machine = machine();
    let (_iommufd, device) = bind(&machine);
    let config = device.config().unwrap();
    let counted = |act: &dyn Fn()| {
        let before = device.revocations();
        act();
        device.revocations() - before
    };
    assert_eq!(counted(&|| config.set_memory_decode(true).unwrap()), 0);
    assert_eq!(counted(&|| config.set_bus_master(true).unwrap()), 0);
    assert_eq!(counted(&|| config.set_memory_decode(false).unwrap()), 1);
    assert_eq!(
        counted(&|| config.write(0x03, &[0, 0, 0]).unwrap()),
        1,
        "from before the register"
    );
    assert_eq!(counted(&|| config.write_u16(0x44, 3).unwrap()), 1, "D3hot");
    assert_eq!(counted(&|| config.write_u16(0x3c, 3).unwrap()), 0);
    assert_eq!(counted(&|| drop(device.reset())), 1);
    assert_eq!(counted(&|| drop(device.hot_reset(&[]))), 1);
    assert_eq!(counted(&|| device.clone().low_power_entry().unwrap()), 1);
}
