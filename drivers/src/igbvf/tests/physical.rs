//! The physical function, which has nobody to ask.

use super::super::{Link, PortState};
use super::{MAC, PEER, Rig, frame, options};
use crate::fake::igbvf::{Fault, IgbVf};
use crate::fake::{FakeBacking, Interface};
use crate::igbvf::{MacAddress, Port, PortOptions, Report, TxOptions};
use crate::{Backing, ErrorKind, Woken};
use std::time::Duration;
use vfio_core::Errno;
use vfio_core::fake::Machine;

fn rig(interface: Interface, options: PortOptions) -> Rig {
    let (device, wire) = IgbVf::physical();
    let backing = FakeBacking::through(interface, device).unwrap();
    Rig::over(backing, wire, options).unwrap()
}

/// Whether a frame comes.
fn arrives(rig: &mut Rig, frame: &[u8]) -> bool {
    rig.wire.send(frame);
    for _ in 0..20 {
        if let Some(received) = rig.rx.pop().unwrap() {
            rig.rx.post(received.buffer).unwrap();
            rig.rx.ring();
            return true;
        }
        rig.backing.idle();
    }
    false
}

fn tagged(vlan: u8) -> Vec<u8> {
    [&MAC.0[..], &PEER.0, &[0x81, 0, 0, vlan, 0x88, 0xb5, 9]].concat()
}

#[test]
fn frames_go_both_ways_polled_and_with_interrupts() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        for interrupts in [false, true] {
            let options = PortOptions {
                interrupts,
                ..options()
            };
            let mut rig = rig(interface, options);
            let up = PortState::Up(Link {
                speed: 1000,
                is_full_duplex: true,
            });
            assert_eq!(rig.port.check().unwrap(), up);
            rig.works();
            rig.works();
            let statistics = rig.port.statistics();
            assert_eq!((statistics.tx_frames, statistics.rx_frames), (2, 2));
            assert_eq!((statistics.tx_octets, statistics.rx_octets), (2 * 21, 2 * 21));
            assert_eq!(
                rig.port.statistics(),
                statistics,
                "reading clears what the device counted"
            );
        }
    }
}

#[test]
fn its_address_is_the_asked_for_or_that_in_its_memory() {
    for wanted in [None, Some(MAC)] {
        let (device, _wire) = IgbVf::physical();
        let options = PortOptions {
            mac: wanted,
            ..options()
        };
        let port = Port::open(&FakeBacking::new(device).unwrap(), options).unwrap();
        assert_eq!(port.mac(), wanted.unwrap_or(MacAddress([2, 0, 0, 0, 0, 0x82])));
    }
}

#[test]
fn only_what_was_asked_for_comes_and_still_does_after_a_reset() {
    let mut rig = rig(Interface::Iommufd, options());
    let group = MacAddress([1, 0, 0x5e, 0, 0, 0xfb]);
    let other_group = MacAddress([1, 0, 0x5e, 0, 0, 0xfa]);
    let to = |mac| frame(mac, PEER, &[]);
    assert!(arrives(&mut rig, &to(MacAddress([0xff; 6]))));
    for refused in [to(PEER), to(group), tagged(7), frame(MAC, PEER, &[0; 1515])] {
        assert!(!arrives(&mut rig, &refused), "{refused:x?}");
    }
    rig.port.set_multicast(&[group]).unwrap();
    rig.port.set_vlan(7, true).unwrap();
    rig.port.set_vlan(8, true).unwrap();
    rig.port.set_vlan(8, false).unwrap();
    rig.port.add_mac(PEER).unwrap();
    for after_reset in [false, true] {
        if after_reset {
            rig.wire.begin_reset();
            assert_eq!(rig.port.check().unwrap(), PortState::Reset);
            assert!(rig.port.set_vlan(9, true).is_err());
            rig.recover();
        }
        for taken in [to(PEER), to(group), tagged(7)] {
            assert!(arrives(&mut rig, &taken), "{taken:x?}");
        }
        for refused in [to(other_group), tagged(8)] {
            assert!(!arrives(&mut rig, &refused), "{refused:x?}");
        }
    }
    rig.port.set_all_multicast(true).unwrap();
    rig.port.clear_macs().unwrap();
    assert!(arrives(&mut rig, &to(other_group)));
    assert!(!arrives(&mut rig, &to(PEER)));
    rig.port.set_all_multicast(false).unwrap();
    assert!(!arrives(&mut rig, &to(other_group)));
}

#[test]
fn there_are_places_for_sixteen_addresses() {
    let mut rig = rig(Interface::Iommufd, options());
    for last in 1..16 {
        rig.port.add_mac(MacAddress([2, 1, 0, 0, 0, last])).unwrap();
    }
    let error = rig.port.add_mac(PEER).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Refused(_)), "{error}");
    rig.works();
    rig.port.clear_macs().unwrap();
    rig.port.add_mac(PEER).unwrap();
}

#[test]
fn a_change_of_the_link_interrupts_each_time() {
    let with_interrupts = PortOptions {
        interrupts: true,
        ..options()
    };
    let mut rig = rig(Interface::Iommufd, with_interrupts);
    for is_up in [false, true, false] {
        rig.wire.set_link(is_up);
        let event = rig.port.event().unwrap();
        let woken = rig.backing.wait(event, Some(Duration::from_secs(1))).unwrap();
        assert!(matches!(woken, Woken::Signalled), "{is_up}");
        let state = rig.port.check().unwrap();
        assert_eq!(matches!(state, PortState::Up(_)), is_up, "{state:?}");
    }
}

#[test]
fn interrupts_of_the_second_queue_go_to_its_own_vector() {
    let with_interrupts = PortOptions {
        interrupts: true,
        ..options()
    };
    let mut rig = rig(Interface::Iommufd, with_interrupts);
    rig.rx.stop().unwrap();
    let tx_options = TxOptions {
        depth: 32,
        interrupt: true,
        report: Report::Descriptor,
    };
    rig.tx = rig.port.tx_queue(1, tx_options).unwrap();
    assert_eq!((rig.wire.register(0x1700), rig.wire.register(0x1704)), (0, 0x8100));
    let piece = {
        let mut buffer = rig.pool.take(2048).unwrap();
        buffer.write(0, &frame(PEER, MAC, &[])).unwrap();
        crate::igbvf::Piece { buffer, len: 17 }
    };
    rig.tx.push(piece, crate::igbvf::Offload::default()).unwrap();
    rig.tx.ring();
    let woken = rig.tx.wait(Some(Duration::from_secs(1))).unwrap();
    assert!(matches!(woken, Woken::Signalled), "{woken:?}");
    assert!(rig.tx.reap().unwrap().is_some());
}

#[test]
fn one_that_does_not_answer_for_a_while_recovers() {
    let mut rig = rig(Interface::Iommufd, options());
    rig.wire.fault(Fault::Unreachable);
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    let error = rig.port.recover().unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
    rig.wire.repair(Fault::Unreachable);
    rig.recover();
    rig.works();
    rig.backing.removal().tell(crate::Presence::AskedBack);
    assert!(rig.port.recover().unwrap_err().is_gone());
}

#[test]
fn whichever_call_fails_nothing_is_left() {
    for n in 0.. {
        let bdf = "0000:01:00.0".parse().unwrap();
        let (device, wire) = IgbVf::physical();
        let machine = Machine::builder().device(bdf, pci::GroupId(1), device).build();
        machine.fail_nth(n, Errno::NOMEM);
        let opened = FakeBacking::open(&machine, bdf, Interface::Iommufd)
            .and_then(|backing| Rig::over(backing, wire, options()));
        drop(opened);
        assert_eq!(machine.leaks(), Vec::<String>::new(), "call {n}");
        assert_eq!(machine.mistakes(), Vec::<String>::new(), "call {n}");
        if machine.failed().is_none() {
            break;
        }
    }
}
