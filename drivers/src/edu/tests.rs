use super::*;
use crate::fake::{self, FakeBacking, Interface};
use proptest::prelude::*;
use vfio_core::Errno;
use vfio_core::fake::Machine;

fn edu(interface: Interface) -> (Edu<FakeBacking>, FakeBacking) {
    let backing = FakeBacking::through(interface, fake::Edu::new()).unwrap();
    (Edu::new(backing.clone()).unwrap(), backing)
}

#[test]
fn it_computes_copies_and_interrupts() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        let (mut edu, backing) = edu(interface);
        assert_eq!(edu.version(), (1, 0));
        edu.check().unwrap();
        assert_eq!(edu.factorial(10).unwrap(), 3_628_800);
        edu.interrupt(0x10).unwrap();
        edu.write(100, b"through the device").unwrap();
        let mut got = [0; 18];
        edu.read(100, &mut got).unwrap();
        assert_eq!(&got, b"through the device");
        let machine = backing.machine().clone();
        assert!(machine.faults().is_empty());
        drop((edu, backing));
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_copied_in_comes_out(offset in 0..MEMORY_LEN + 2, bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (mut edu, _backing) = edu(Interface::Iommufd);
        let fits = !bytes.is_empty() && offset + bytes.len() <= MEMORY_LEN;
        prop_assert_eq!(edu.write(offset, &bytes).is_ok(), fits);
        let mut got = vec![0; bytes.len()];
        prop_assert_eq!(edu.read(offset, &mut got).is_ok(), fits);
        if fits {
            prop_assert_eq!(got, bytes);
        }
    }
}

#[test]
fn another_device_is_refused() {
    let backing = FakeBacking::new(vfio_core::fake::Copier::new()).unwrap();
    let error = Edu::new(backing).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}");
}

#[test]
fn one_that_is_gone_says_so_and_one_that_is_asked_back_still_works() {
    let (mut edu, backing) = edu(Interface::Iommufd);
    let bdf = backing.bdf().unwrap();
    backing.machine().request_release(bdf);
    assert_eq!(edu.factorial(5).unwrap(), 120);
    edu.write(0, b"more").unwrap();
    backing.machine().remove(bdf);
    for result in [
        edu.check(),
        edu.factorial(3).map(drop),
        edu.write(0, b"lost"),
        edu.read(0, &mut [0; 4]),
    ] {
        assert!(result.unwrap_err().is_gone());
    }
}

#[test]
fn one_that_never_answers_times_out() {
    let backing = FakeBacking::new(fake::Edu::new().mute()).unwrap();
    let edu = Edu::new(backing).unwrap();
    assert!(matches!(edu.factorial(3).unwrap_err().kind, ErrorKind::Timeout(_)));
}

#[test]
fn whichever_call_fails_nothing_is_left() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        for n in 0.. {
            let bdf = "0000:01:00.0".parse().unwrap();
            let machine = Machine::builder()
                .device(bdf, pci::GroupId(1), fake::Edu::new())
                .build();
            machine.fail_nth(n, Errno::NOMEM);
            let used = FakeBacking::open(&machine, bdf, interface)
                .and_then(Edu::new)
                .and_then(|mut edu| {
                    edu.factorial(4)?;
                    edu.write(0, b"bytes")
                });
            drop(used);
            assert_eq!(machine.leaks(), Vec::<String>::new(), "{interface:?}, call {n}");
            assert_eq!(machine.mistakes(), Vec::<String>::new(), "{interface:?}, call {n}");
            if machine.failed().is_none() {
                break;
            }
        }
    }
}
