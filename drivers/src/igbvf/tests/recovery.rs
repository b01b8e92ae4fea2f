//! How the port and its queues come back.

use super::super::{Offload, PortState, Report, TxOptions, TxQueue, Why};
use super::{MAC, PEER, Piece, Rig, frame, options};
use crate::fake::igbvf::{Fault, IgbVf};
use crate::fake::{FakeBacking, Interface};
use crate::igbvf::{MacAddress, Port, PortOptions};
use crate::{Backing, ErrorKind, Result};
use std::time::Duration;

fn with_interrupts() -> PortOptions {
    PortOptions {
        interrupts: true,
        ..options()
    }
}

#[test]
fn a_queue_that_was_given_up_never_finds_its_memory_again() {
    let Rig {
        tx,
        rx,
        port,
        pool,
        wire,
        backing,
    } = Rig::new(Interface::Iommufd, options());
    wire.fault(Fault::QueueStaysOn);
    wire.fault(Fault::IgnoresReset);
    assert_eq!(rx.stop().unwrap().len(), 31);
    drop((tx, port, pool));
    let port = Port::open(&backing, options()).unwrap();
    wire.send(frame(MAC, PEER, b"for nobody"));
    backing.idle();
    assert_eq!(backing.machine().faults(), []);
    drop(port);
}

#[test]
fn a_function_that_was_made_quiet_recovers() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    let second = rig.port.tx_queue(1, TxOptions::default()).unwrap();
    rig.wire.fault(Fault::QueueStaysOn);
    drop(second);
    rig.wire.repair(Fault::QueueStaysOn);
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    rig.recover();
    rig.works();
}

#[test]
fn a_device_without_a_reset_of_its_own_is_refused() {
    let (device, _wire) = IgbVf::new();
    let backing = FakeBacking::new(device.without_reset()).unwrap();
    assert!(Port::open(&backing, options()).is_err());
    assert!(!backing.device().config().unwrap().bus_master().unwrap());
}

#[test]
fn a_report_that_does_not_come_is_a_failure_unless_there_is_no_link() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.fault(Fault::NoReport);
    rig.wire.set_link(false);
    rig.send(&frame(PEER, MAC, b"out"));
    rig.tx.ring();
    let poll = |tx: &mut TxQueue<FakeBacking>, limit| -> Result<()> {
        let start = rig.backing.now();
        while rig.backing.now() - start < limit {
            for _ in 0..1000 {
                tx.reap()?;
            }
            rig.backing
                .wait(rig.backing.removal().event(), Some(Duration::from_millis(100)))?;
        }
        Ok(())
    };
    poll(&mut rig.tx, Duration::from_secs(3)).unwrap();
    rig.wire.set_link(true);
    poll(&mut rig.tx, Duration::from_secs(1)).unwrap();
    let error = poll(&mut rig.tx, Duration::from_secs(3)).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Failed(_)), "{error}");
    rig.wire.repair(Fault::NoReport);
    assert_eq!(rig.tx.restart().unwrap().len(), 1);
    while rig.wire.receive().is_some() {}
    rig.works();
}

#[test]
fn who_waits_hears_of_a_reset_and_of_a_recovery() {
    let mut rig = Rig::new(Interface::Iommufd, with_interrupts());
    let taken = |rig: &Rig| rig.rx.event().unwrap().try_read().unwrap().is_some();
    taken(&rig);
    assert!(rig.rx.arm().unwrap());
    rig.wire.begin_reset();
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    assert!(taken(&rig));
    assert!(matches!(rig.rx.arm().unwrap_err().kind, ErrorKind::Failed(_)));
    rig.wire.end_reset();
    rig.port.recover().unwrap();
    assert!(taken(&rig));
    rig.backing.removal().tell(crate::Presence::AskedBack);
    assert!(rig.port.check().unwrap_err().is_gone());
    assert!(taken(&rig));
}

#[test]
fn queues_are_not_told_of_a_recovery_before_it_is_complete() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.port.set_vlan(3, true).unwrap();
    rig.wire.forget();
    rig.wire.greet();
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    rig.backing.removal().tell(crate::Presence::AskedBack);
    assert!(rig.port.recover().unwrap_err().is_gone());
    assert!(rig.rx.restart().is_err());
}

#[test]
fn what_is_not_granted_any_more_does_not_stop_a_recovery() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.port.add_mac(MacAddress([2, 0, 0, 0, 0, 9])).unwrap();
    rig.port.set_vlan(7, true).unwrap();
    rig.wire.set_address(Some(PEER));
    rig.wire.begin_reset();
    rig.wire.end_reset();
    rig.recover();
    let granted = rig.wire.granted();
    assert_eq!((rig.port.mac(), granted.mac), (PEER, Some(PEER)));
    assert_eq!((granted.macs, granted.vlans), ([].into(), [7].into()));
    // The one that was asked for comes back with the next recovery that may have it.
    rig.wire.set_address(None);
    rig.recover();
    assert_eq!(rig.port.mac(), MAC);
    rig.works();
}

#[test]
fn a_pf_that_is_reset_over_and_over_is_a_timeout() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    let start = rig.backing.now();
    rig.wire.fault(Fault::AlwaysReset);
    let error = rig.port.recover().unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
    assert!(rig.backing.now() - start < Duration::from_millis(500));
    rig.wire.repair(Fault::AlwaysReset);
    rig.recover();
    rig.works();
}

#[test]
fn a_message_that_cannot_be_read_now_is_read_later() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.forget();
    rig.wire.greet();
    rig.wire.fault(Fault::HoldsMailbox);
    assert!(matches!(rig.port.check().unwrap(), PortState::Up(_)));
    rig.wire.repair(Fault::HoldsMailbox);
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
}

#[test]
fn a_reset_that_was_not_noticed_yet_counts_nothing() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.works();
    assert_eq!(rig.port.statistics().tx_frames, 1);
    rig.wire.begin_reset();
    rig.wire.end_reset();
    assert_eq!(rig.port.statistics().tx_frames, 1);
    rig.recover();
    rig.wire.fault(Fault::Unreachable);
    assert_eq!(rig.port.statistics().tx_frames, 1);
}

#[test]
fn a_queue_takes_as_many_frames_as_it_has_room_and_none_while_it_is_down() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    let mut count = 0;
    while rig.tx.room() > 0 {
        rig.send(&frame(PEER, MAC, b"out"));
        count += 1;
    }
    assert_eq!(count, 31);
    rig.tx.ring();
    assert_eq!(rig.drain().unwrap(), 31);
    rig.wire.begin_reset();
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    let piece = rig.piece(&[1; 60]);
    assert_eq!(rig.tx.push(piece, Offload::default()).unwrap_err().why, Why::Stopped);
}

#[test]
fn a_tag_alone_goes_behind_the_addresses() {
    for (interface, options) in [(Interface::Iommufd, options()), (Interface::Type1, with_interrupts())] {
        let mut rig = Rig::new(interface, options);
        let Piece { buffer, len } = rig.piece(&frame(PEER, MAC, b"tagged"));
        let offload = Offload {
            vlan: Some(0x6005),
            checksums: None,
        };
        rig.tx.push(Piece { buffer, len }, offload).unwrap();
        rig.tx.ring();
        assert_eq!(rig.drain().unwrap(), 1);
        assert_eq!(rig.wire.receive().unwrap()[12..18], [0x81, 0, 0x60, 5, 0x88, 0xb5]);
    }
}

#[test]
fn vectors_of_a_queue_that_was_dropped_are_sent_nowhere() {
    let mut rig = Rig::new(Interface::Iommufd, with_interrupts());
    let tx_options = TxOptions {
        depth: 32,
        interrupt: true,
        report: Report::Head,
    };
    assert_eq!(rig.wire.register(0x1700), 0x0000_8081);
    rig.tx.stop().unwrap();
    assert_eq!(rig.wire.register(0x1700), 0x0000_0081);
    rig.tx = rig.port.tx_queue(0, tx_options).unwrap();
    rig.works();
}

#[test]
fn a_function_has_one_port_at_a_time_and_another_once_its_queues_have_gone() {
    let Rig {
        port, tx, rx, backing, ..
    } = Rig::new(Interface::Iommufd, options());
    let again = || Port::open(&backing.clone(), options());
    let is_refused = || matches!(again().unwrap_err().kind, ErrorKind::Invalid(_));
    assert!(is_refused());
    drop(port);
    assert!(is_refused());
    drop(tx);
    assert!(is_refused());
    drop(rx);
    drop(again().unwrap());
    // One that fails to open leaves nothing behind.
    let too_long = PortOptions {
        frame_len: u16::MAX,
        ..options()
    };
    assert!(Port::open(&backing, too_long).is_err());
    drop(again().unwrap());
}
