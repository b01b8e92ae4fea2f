use crate::fake::{FakeBacking, Interface};
use crate::{Backing, Presence, VectorKind};
use std::time::Duration;
use vfio_core::Errno;
use vfio_core::fake::{Copier, Description, Machine, Plain, Region};

#[test]
fn what_is_left_of_it_keeps_the_function_open_and_then_it_is_quiet() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        let backing = FakeBacking::through(interface, Copier::new()).unwrap();
        let machine = backing.machine().clone();
        backing.start().unwrap();
        let device = backing.device().clone();
        let registers = backing.map_bar(0, 0..4096).unwrap();
        drop(backing);
        assert!(device.config().unwrap().bus_master().unwrap());
        drop(registers);
        assert!(!device.config().unwrap().bus_master().unwrap());
        drop(device);
        assert_eq!(machine.leaks(), Vec::<String>::new(), "{interface:?}");
    }
}

#[test]
fn vectors_are_of_the_best_kind_and_no_more_than_there_are() {
    let base = || Description::new(1, 2).region(Region::bar(0, 8192));
    for (description, kind, count) in [
        (base().intx().msi(4).msix(3, 0, 4096), VectorKind::Msix, 3),
        (base().intx().msi(4), VectorKind::Msi, 4),
        (base().intx(), VectorKind::Intx, 1),
    ] {
        let backing = FakeBacking::new(Plain::new(description)).unwrap();
        let vectors = backing.vectors(8).unwrap();
        assert_eq!((vectors.kind(), vectors.count()), (kind, count));
        vectors.acknowledge(0).unwrap();
        assert_eq!(vectors.disarm(0).is_ok(), vectors.can_disarm());
        assert_eq!(vectors.arm(0).is_ok(), vectors.can_disarm());
    }
    let without = FakeBacking::new(Plain::new(base())).unwrap();
    assert!(without.vectors(1).is_err());
}

#[test]
fn a_device_that_is_wanted_back_says_so_and_one_that_is_gone_is_quiet() {
    let backing = FakeBacking::new(Copier::new()).unwrap();
    let bdf = backing.bdf().unwrap();
    backing.start().unwrap();
    assert_eq!(backing.presence(), Presence::Present);
    backing.machine().request_release(bdf);
    let event = [backing.removal().event()];
    assert_eq!(vfio_core::wait_any(&event, Some(Duration::from_secs(60))).unwrap(), [0]);
    assert_eq!(backing.presence(), Presence::AskedBack);
    backing.machine().remove(bdf);
    assert_eq!(backing.presence(), Presence::Gone);
    backing.quiesce().unwrap();
    backing.removal().tell(Presence::Gone);
    assert!(backing.start().unwrap_err().is_gone());
}

#[test]
fn a_device_that_does_not_answer_for_a_while_is_not_gone() {
    for silence in [1, 2, 5, 20] {
        let backing = FakeBacking::new(Copier::new()).unwrap();
        let (bdf, device) = (backing.bdf().unwrap(), backing.device().clone());
        backing.start().unwrap();
        backing.machine().silence(bdf, silence);
        assert_eq!(backing.presence(), Presence::Present);
        backing.machine().silence(bdf, silence);
        backing.quiesce().unwrap();
        assert!(!device.config().unwrap().bus_master().unwrap(), "{silence} accesses");
        backing.start().unwrap();
        backing.machine().silence(bdf, silence);
        drop(backing);
        assert!(!device.config().unwrap().bus_master().unwrap(), "{silence} accesses");
    }
}

#[test]
fn a_device_that_does_not_answer_any_more_is_quiet() {
    let backing = FakeBacking::new(Copier::new()).unwrap();
    backing.start().unwrap();
    backing.machine().silence(backing.bdf().unwrap(), u32::MAX);
    assert_eq!(backing.presence(), Presence::Gone);
    backing.quiesce().unwrap();
}

#[test]
fn a_device_that_is_only_said_to_be_gone_is_made_quiet() {
    let backing = FakeBacking::new(Copier::new()).unwrap();
    let device = backing.device().clone();
    backing.start().unwrap();
    backing.removal().tell(Presence::Gone);
    drop(backing);
    assert!(!device.config().unwrap().bus_master().unwrap());
}

#[test]
fn a_quiet_device_does_no_dma() {
    let backing = FakeBacking::new(Copier::new()).unwrap();
    backing.start().unwrap();
    backing.quiesce().unwrap();
    backing.quiesce().unwrap();
    assert!(!backing.device().config().unwrap().bus_master().unwrap());
}

#[test]
fn whichever_call_fails_nothing_is_left() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        for n in 0.. {
            let bdf = "0000:01:00.0".parse().unwrap();
            let builder = Machine::builder().device(bdf, pci::GroupId(1), Copier::new());
            let machine = builder.build();
            machine.fail_nth(n, Errno::NOMEM);
            let opened = FakeBacking::open(&machine, bdf, interface).and_then(|backing| {
                backing.start()?;
                let had = (backing.vectors(1)?, backing.map_bar(0, 0..4096)?);
                backing.quiesce()?;
                Ok(had)
            });
            drop(opened);
            assert_eq!(machine.leaks(), Vec::<String>::new(), "{interface:?}, call {n}");
            assert_eq!(machine.mistakes(), Vec::<String>::new(), "{interface:?}, call {n}");
            if machine.failed().is_none() {
                break;
            }
        }
    }
}
