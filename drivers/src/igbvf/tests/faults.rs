//! What goes wrong.

use super::super::{Offload, PortState, Why};
use super::{MAC, PEER, Rig, frame, options};
use crate::fake::igbvf::{Fault, IgbVf};
use crate::fake::{FakeBacking, Interface};
use crate::igbvf::{Port, RxOptions};
use crate::{Backing, ErrorKind};
use proptest::prelude::*;
use vfio_core::Errno;
use vfio_core::fake::Machine;

#[test]
fn a_silent_mailbox_is_a_timeout_and_once_it_speaks_the_port_recovers() {
    let (device, wire) = IgbVf::new();
    let backing = FakeBacking::new(device).unwrap();
    wire.fault(Fault::Silent);
    let error = Port::open(&backing, options()).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
    wire.repair(Fault::Silent);
    let mut rig = Rig::over(backing, wire, options()).unwrap();
    rig.wire.fault(Fault::Silent);
    let error = rig.port.set_vlan(3, true).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    rig.wire.repair(Fault::Silent);
    rig.recover();
    rig.works();
}

#[test]
fn what_the_pf_refuses_is_an_error_and_changes_nothing() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.fault(Fault::Refuse);
    let error = rig.port.set_vlan(3, true).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Refused(_)), "{error}");
    rig.wire.repair(Fault::Refuse);
    assert!(matches!(rig.port.check().unwrap(), PortState::Up(_)));
    rig.works();
}

#[test]
fn a_pf_that_forgot_the_function_makes_it_recover() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.forget();
    let error = rig.port.set_vlan(3, true).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Failed(_)), "{error}");
    let error = rig.rx.pop().unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Failed(_)), "{error}");
    rig.recover();
    rig.works();
    rig.wire.forget();
    rig.wire.greet();
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    rig.recover();
    rig.works();
}

#[test]
fn a_reset_of_the_pf_in_the_midst_of_traffic_loses_frames_and_no_buffers() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        let mut rig = Rig::new(interface, options());
        rig.wire.set_burst(3);
        for n in 0..20 {
            rig.send(&frame(PEER, MAC, &[n]));
            rig.wire.send(frame(MAC, PEER, &[n]));
        }
        rig.tx.ring();
        rig.backing.idle();
        rig.wire.begin_reset();
        assert_eq!(rig.port.check().unwrap(), PortState::Reset);
        // While it lasts, nothing is to be had; there is no report of the frames that went.
        let error = rig.tx.reap().unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Failed(_)), "{error}");
        let error = rig.port.recover().unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
        let error = rig.rx.restart().unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Failed(_)), "{error}");
        rig.wire.end_reset();
        rig.port.recover().unwrap();
        rig.rx.restart().unwrap();
        assert_eq!(rig.tx.restart().unwrap().len(), 20);
        assert_eq!((rig.tx.room(), rig.rx.room()), (31, 0));
        while rig.wire.receive().is_some() {}
        for n in 3..20 {
            assert_eq!(rig.receive().unwrap(), frame(MAC, PEER, &[n]));
        }
        rig.works();
        assert_eq!(
            rig.port.statistics().tx_frames,
            1,
            "what was counted before the reset is lost"
        );
    }
}

#[test]
fn a_pf_that_says_farewell_before_its_reset_is_waited_for() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.forget();
    rig.wire.greet();
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    // The request for a reset is under way when the PF goes down, and is lost.
    rig.wire.fault(Fault::ResetWhenAsked);
    rig.recover();
    rig.works();
    rig.wire.fault(Fault::ResetWhenAsked);
    let error = rig.port.set_vlan(3, true).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Failed(_)), "{error}");
    rig.recover();
    rig.works();
}

#[test]
fn registers_of_ones_are_a_reset_until_the_function_is_known_to_be_gone() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.fault(Fault::Unreachable);
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    let error = rig.port.recover().unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
    rig.wire.repair(Fault::Unreachable);
    rig.recover();
    rig.works();
    rig.wire.fault(Fault::Unreachable);
    rig.backing.machine().remove(rig.backing.bdf().unwrap());
    // Until the kernel says so, it looks as in a reset.
    let state = rig.port.check();
    assert!(state.map_or_else(|error| error.is_gone(), |state| state == PortState::Reset));
    assert!(rig.port.recover().unwrap_err().is_gone());
    assert!(rig.rx.pop().unwrap_err().is_gone());
    assert!(rig.port.recover().unwrap_err().is_gone());
    let piece = rig.piece(&[1; 60]);
    assert_eq!(rig.tx.push(piece, Offload::default()).unwrap_err().why, Why::Stopped);
    let machine = rig.backing.machine().clone();
    drop(rig);
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn a_function_that_is_wanted_back_still_gives_its_buffers_back() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.send(&frame(PEER, MAC, b"the last one"));
    rig.tx.ring();
    rig.backing.idle();
    rig.backing.removal().tell(crate::Presence::AskedBack);
    let piece = rig.piece(&[1; 60]);
    assert_eq!(rig.tx.push(piece, Offload::default()).unwrap_err().why, Why::Stopped);
    assert!(rig.tx.reap().unwrap().is_some());
    assert!(rig.tx.reap().unwrap_err().is_gone());
    assert_eq!(rig.rx.stop().unwrap().len(), 31);
    assert_eq!(rig.tx.stop().unwrap().len(), 0);
}

#[test]
fn a_head_beyond_the_tail_stops_the_queue_until_it_is_restarted() {
    let with_head = crate::igbvf::PortOptions {
        interrupts: true,
        ..options()
    };
    let mut rig = Rig::new(Interface::Iommufd, with_head);
    rig.wire.fault(Fault::WrongHead);
    rig.send(&frame(PEER, MAC, b"out"));
    rig.tx.ring();
    let error = rig.drain().unwrap_err();
    assert!(error.to_string().contains("head"), "{error}");
    assert!(rig.tx.reap().is_err());
    assert_eq!(rig.tx.restart().unwrap().len(), 1);
    assert!(rig.wire.receive().is_some());
    rig.works();
}

#[test]
fn a_length_beyond_the_buffer_stops_the_queue_until_it_is_restarted() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.fault(Fault::WrongLength);
    rig.wire.send(frame(MAC, PEER, b"in"));
    rig.backing.idle();
    let error = rig.rx.pop().unwrap_err();
    assert!(error.to_string().contains("65535 bytes"), "{error}");
    assert!(rig.rx.pop().is_err());
    rig.rx.restart().unwrap();
    assert_eq!(rig.rx.room(), 0);
    rig.works();
}

#[test]
fn dma_that_the_iommu_stops_ends_the_queue_and_nothing_else() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    // Bus mastering goes off below the driver.
    let config = rig.backing.device().config().unwrap();
    config.set_bus_master(false).unwrap();
    rig.send(&frame(PEER, MAC, b"out"));
    rig.tx.ring();
    assert_eq!(rig.drain().unwrap(), 0);
    assert_ne!(rig.backing.machine().faults(), []);
    config.set_bus_master(true).unwrap();
    assert_eq!(rig.tx.restart().unwrap().len(), 1);
    rig.works();
}

#[test]
fn a_queue_that_stays_on_costs_the_bus_and_not_the_memory() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.fault(Fault::QueueStaysOn);
    rig.wire.fault(Fault::Unreachable);
    let machine = rig.backing.machine().clone();
    assert_eq!(rig.rx.stop().unwrap().len(), 31);
    assert!(!rig.backing.device().config().unwrap().bus_master().unwrap());
    assert_eq!(rig.port.check().unwrap(), PortState::Reset);
    drop((rig.tx, rig.port, rig.pool, rig.backing));
    assert_eq!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn a_queue_that_does_not_go_on_is_a_timeout() {
    let (device, wire) = IgbVf::new();
    let backing = FakeBacking::new(device).unwrap();
    let mut port = Port::open(&backing, options()).unwrap();
    wire.fault(Fault::QueueStaysOff);
    let error = port.rx_queue(0, RxOptions::default()).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Timeout(_)), "{error}");
    wire.repair(Fault::QueueStaysOff);
    drop(port.rx_queue(0, RxOptions::default()).unwrap());
}

#[test]
fn other_devices_are_not_touched() {
    let backing = FakeBacking::new(vfio_core::fake::Copier::new()).unwrap();
    let error = Port::open(&backing, options()).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}");
}

#[test]
fn whichever_call_fails_nothing_is_left() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        for n in 0.. {
            let bdf = "0000:01:00.0".parse().unwrap();
            let (device, wire) = IgbVf::new();
            let machine = Machine::builder().device(bdf, pci::GroupId(1), device).build();
            machine.fail_nth(n, Errno::NOMEM);
            let with_interrupts = crate::igbvf::PortOptions {
                interrupts: true,
                ..options()
            };
            let opened = FakeBacking::open(&machine, bdf, interface)
                .and_then(|backing| Rig::over(backing, wire, with_interrupts));
            drop(opened);
            assert_eq!(machine.leaks(), Vec::<String>::new(), "{interface:?}, call {n}");
            assert_eq!(machine.mistakes(), Vec::<String>::new(), "{interface:?}, call {n}");
            if machine.failed().is_none() {
                break;
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send(u16),
    Ring,
    Reap,
    Arrive(u16),
    Pop,
    Post,
    Idle,
    Check,
    Recover,
    Restart,
    Vlan(u16),
    Fault(Fault),
    Repair(Fault),
    BeginReset,
    EndReset,
    Forget,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![
        Fault::Silent,
        Fault::Refuse,
        Fault::Unreachable,
        Fault::QueueStaysOn,
        Fault::QueueStaysOff,
        Fault::WrongHead,
        Fault::WrongLength,
        Fault::ResetWhenAsked,
    ])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..1500_u16).prop_map(Step::Send),
        6 => Just(Step::Ring),
        6 => Just(Step::Reap),
        6 => (1..1500_u16).prop_map(Step::Arrive),
        8 => Just(Step::Pop),
        6 => Just(Step::Post),
        10 => Just(Step::Idle),
        2 => Just(Step::Check),
        2 => Just(Step::Recover),
        3 => Just(Step::Restart),
        1 => (0..4200_u16).prop_map(Step::Vlan),
        2 => fault().prop_map(Step::Fault),
        3 => fault().prop_map(Step::Repair),
        1 => Just(Step::BeginReset),
        2 => Just(Step::EndReset),
        1 => Just(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is called and whatever the device does: no panic, no DMA outside, and every buffer is somewhere.
    #[test]
    fn no_buffer_is_lost(steps in prop::collection::vec(step(), 1..120)) {
        let mut rig = Rig::new(Interface::Iommufd, options());
        let (mut free, mut total) = (Vec::new(), 31);
        for step in steps {
            match step {
                Step::Send(len) => {
                    let buffer = free.pop().unwrap_or_else(|| {
                        total += 1;
                        rig.pool.take(2048).unwrap()
                    });
                    if let Err(refused) = rig.tx.push(super::Piece { buffer, len }, Offload::default()) {
                        free.extend(refused.pieces.map(|piece| piece.buffer));
                    }
                }
                Step::Ring => {
                    rig.tx.ring();
                    rig.rx.ring();
                }
                Step::Reap => while let Ok(Some(buffer)) = rig.tx.reap() { free.push(buffer) },
                Step::Arrive(len) => rig.wire.send(frame(MAC, PEER, &vec![5; len.into()])),
                Step::Pop => while let Ok(Some(received)) = rig.rx.pop() { free.push(received.buffer) },
                Step::Post => while let Some(buffer) = free.pop() {
                    if let Err(buffer) = rig.rx.post(buffer) {
                        free.push(buffer);
                        break;
                    }
                },
                Step::Idle => rig.backing.idle(),
                Step::Check => drop(rig.port.check()),
                Step::Recover => drop(rig.port.recover()),
                Step::Restart => {
                    drop(rig.rx.restart());
                    free.extend(rig.tx.restart().into_iter().flatten());
                }
                Step::Vlan(vlan) => drop(rig.port.set_vlan(vlan, true)),
                Step::Fault(fault) => rig.wire.fault(fault),
                Step::Repair(fault) => rig.wire.repair(fault),
                Step::BeginReset => rig.wire.begin_reset(),
                Step::EndReset => rig.wire.end_reset(),
                Step::Forget => rig.wire.forget(),
            }
        }
        free.extend(rig.rx.stop().unwrap());
        free.extend(rig.tx.stop().unwrap());
        prop_assert_eq!(free.len(), total);
        let not_quieted = |fault: &vfio_core::fake::DmaFault| fault.reason != vfio_core::fake::FaultReason::NotMaster;
        prop_assert_eq!(rig.backing.machine().faults().iter().filter(|fault| not_quieted(fault)).count(), 0);
    }
}
