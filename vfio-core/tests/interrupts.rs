//! Interrupts on the fake machine: vectors, who is in charge of them, and what becomes of what a device raises.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use pci::{Bdf, GroupId};
use std::time::Duration;
use vfio_core::fake::{Description, Machine, Plain, Region};
use vfio_core::iommufd::Iommufd;
use vfio_core::{BoundDevice, CdevFile, ErrorKind, EventFd, IrqFlags, IrqIndex};

fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

fn one(device: Plain) -> Machine {
    Machine::builder()
        .device(bdf("0000:01:00.0"), GroupId(7), device)
        .build()
}

fn bind(machine: &Machine) -> (Iommufd, BoundDevice) {
    let iommufd = Iommufd::open(&machine.system()).unwrap();
    let cdev = CdevFile::open(&machine.system(), "/dev/vfio/devices/vfio0").unwrap();
    let device = cdev.bind(&iommufd, None).unwrap();
    (iommufd, device)
}

fn description() -> Description {
    Description::new(0x1af4, 0x10f0).region(Region::bar(0, 64 << 10))
}

fn events<const N: usize>() -> [EventFd; N] {
    [(); N].map(|()| EventFd::new().unwrap())
}

#[test]
fn vectors_come_and_go_one_by_one() {
    let machine = one(Plain::new(description().msix(8, 0, 0x8000)));
    let (_iommufd, device) = bind(&machine);
    let [a, b, c, d] = events();
    let interrupts = device.interrupts(IrqIndex::Msix).unwrap();
    assert!(!interrupts.info().flags.contains(IrqFlags::NORESIZE));
    interrupts.enable(2, &[Some(&a), Some(&b)]).unwrap();
    interrupts.enable(6, &[Some(&c), Some(&d)]).unwrap();
    interrupts.enable(3, &[None]).unwrap();
    interrupts
        .trigger_each(2, &[true, true, false, false, true, false])
        .unwrap();
    let got = [&a, &b, &c, &d].map(|event| event.try_read().unwrap());
    assert_eq!(
        got,
        [Some(1), None, Some(1), None],
        "the second was dropped, the fourth not triggered"
    );
    for (start, len) in [(8, 1), (7, 2), (0, 0), (u32::MAX, 1)] {
        let refused = interrupts.enable(start, &vec![None; len]).unwrap_err();
        assert!(
            matches!(refused.kind, ErrorKind::Invalid(_)),
            "{start} {len}: {refused}"
        );
    }
    interrupts.disable().unwrap();
    assert!(interrupts.trigger(2).is_err());
}

#[test]
fn interrupts_of_a_function_that_is_no_bus_master_are_lost() {
    let device = Plain::new(description().intx().msix(8, 0, 0x8000));
    let machine = one(device.on_poke(|_, bus| bus.msix(0)));
    let (_iommufd, device) = bind(&machine);
    let [event] = events();
    let interrupts = device.interrupts(IrqIndex::Msix).unwrap();
    interrupts.enable(0, &[Some(&event)]).unwrap();
    machine.poke(bdf("0000:01:00.0"));
    assert_eq!(
        (event.try_read().unwrap(), interrupts.is_silent().unwrap()),
        (None, true)
    );
    device.config().unwrap().set_bus_master(true).unwrap();
    machine.poke(bdf("0000:01:00.0"));
    let came = event.wait_timeout(Duration::ZERO).unwrap();
    assert_eq!((came, interrupts.is_silent().unwrap()), (Some(1), false));
    device.config().unwrap().set_bus_master(false).unwrap();
    assert!(!device.interrupts(IrqIndex::Intx).unwrap().is_silent().unwrap());
}

#[test]
fn whether_they_are_lost_is_looked_up_for_the_first_event() {
    let machine = one(Plain::new(description().msix(8, 0, 0x8000)));
    let (_iommufd, device) = bind(&machine);
    let [event] = events();
    let interrupts = device.interrupts(IrqIndex::Msix).unwrap();
    let looked = |events: &[Option<&EventFd>]| {
        machine.forget_calls();
        let enabled = interrupts.enable(0, events);
        (
            enabled.is_ok(),
            machine.calls().iter().any(|step| step.as_str() == "pread"),
        )
    };
    assert!(!looked(&[None, None]).1);
    assert_eq!(looked(&[None, Some(&event)]), (true, true));
    assert_eq!(looked(&[Some(&event)]), (true, false));
}

#[test]
fn an_index_that_does_not_resize_says_so() {
    let machine = one(Plain::new(description().msix(8, 0, 0x8000).without_dynamic_msix()));
    let (_iommufd, device) = bind(&machine);
    let [event] = events();
    let interrupts = device.interrupts(IrqIndex::Msix).unwrap();
    assert!(interrupts.info().flags.contains(IrqFlags::NORESIZE));
    interrupts.enable(0, &[Some(&event), Some(&event)]).unwrap();
    let refused = interrupts.enable(2, &[Some(&event)]).unwrap_err();
    assert!(refused.to_string().contains("NORESIZE"), "{refused}");
    interrupts.disable().unwrap();
    interrupts
        .enable(0, &[Some(&event), Some(&event), Some(&event)])
        .unwrap();
}

#[test]
fn one_guard_is_in_charge_and_its_end_disables() {
    let machine = one(Plain::new(description().msi(2).msix(8, 0, 0x8000)));
    let (_iommufd, device) = bind(&machine);
    let [event] = events();
    let msix = device.interrupts(IrqIndex::Msix).unwrap();
    let second = device.interrupts(IrqIndex::Msix).unwrap_err();
    assert!(matches!(second.kind, ErrorKind::Busy(_)), "{second}");
    msix.enable(0, &[Some(&event)]).unwrap();
    let msi = device.interrupts(IrqIndex::Msi).unwrap();
    assert!(
        msi.enable(0, &[Some(&event)]).is_err(),
        "MSI and MSI-X exclude each other"
    );
    drop(msix);
    msi.enable(0, &[Some(&event)]).unwrap();
    assert!(device.interrupts(IrqIndex::Msix).is_ok());
    assert_eq!(device.interrupts(IrqIndex::Other(9)).unwrap().info().count, 0);
}

#[test]
fn intx_is_masked_by_a_signal_until_it_is_unmasked() {
    let device = Plain::new(description().intx()).on_poke(|_, bus| bus.intx(true));
    let machine = one(device);
    let (_iommufd, device) = bind(&machine);
    let [event, resample] = events();
    let intx = device.interrupts(IrqIndex::Intx).unwrap();
    intx.enable(0, &[Some(&event)]).unwrap();
    machine.poke(bdf("0000:01:00.0"));
    machine.poke(bdf("0000:01:00.0"));
    assert_eq!(event.try_read().unwrap(), Some(1), "masked after the first");
    intx.unmask(0).unwrap();
    assert_eq!(event.try_read().unwrap(), Some(1), "the line is still asserted");
    intx.set_resample(0, Some(&resample)).unwrap();
    resample.signal().unwrap();
    machine.settle();
    assert_eq!(event.try_read().unwrap(), Some(1), "unmasked by the event");
    intx.set_resample(0, None).unwrap();
    intx.mask(0).unwrap();
}
