//! Frames, addresses and filters.

use super::super::spec::Message;
use super::super::{Checksums, L4, Link, Offload, PortState, Why};
use super::{MAC, PEER, Rig, frame, options};
use crate::fake::Interface;
use crate::fake::igbvf::IgbVf;
use crate::igbvf::{MacAddress, Port, PortOptions, RxOptions, TxOptions};
use crate::wait::Reactor;
use crate::{Backing, ErrorKind, Woken};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

#[test]
fn frames_go_both_ways_with_one_doorbell_for_a_batch_and_no_call_of_the_kernel() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        let mut rig = Rig::new(interface, options());
        let before = rig.wire.doorbells();
        let pieces: Vec<_> = (0..20).map(|n| rig.piece(&frame(PEER, MAC, &[n; 100]))).collect();
        rig.backing.machine().forget_calls();
        for piece in pieces {
            rig.tx.push(piece, Offload::default()).unwrap();
        }
        rig.tx.ring();
        rig.tx.ring();
        assert_eq!(rig.drain().unwrap(), 20);
        assert_eq!(rig.wire.doorbells() - before, 1);
        for n in 0..20 {
            assert_eq!(rig.wire.receive(), Some(frame(PEER, MAC, &[n; 100])));
            rig.wire.send(frame(MAC, PEER, &[n; 60]));
        }
        for n in 0..20 {
            assert_eq!(rig.receive().unwrap(), frame(MAC, PEER, &[n; 60]));
        }
        assert_eq!(rig.backing.machine().calls(), Vec::<vfio_core::Step>::new());
        let statistics = rig.port.statistics();
        assert_eq!((statistics.tx_frames, statistics.rx_frames), (20, 20));
        assert_eq!((statistics.tx_octets, statistics.rx_octets), (20 * 118, 20 * 78));
        assert_eq!(rig.backing.machine().faults(), []);
    }
}

#[test]
fn a_ring_goes_round_many_times_and_is_full_in_between() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    let mut sent = 0_u32;
    for n in 0..500_u32 {
        let piece = rig.piece(&frame(PEER, MAC, &n.to_le_bytes()));
        match rig.tx.push(piece, Offload::default()) {
            Ok(()) => sent += 1,
            Err(refused) => assert_eq!(refused.why, Why::Full),
        }
        if n % 7 == 0 {
            rig.tx.ring();
        }
        if n % 40 == 0 {
            rig.drain().unwrap();
        }
    }
    rig.tx.ring();
    rig.drain().unwrap();
    assert_eq!(rig.tx.room(), 31);
    let received = std::iter::from_fn(|| rig.wire.receive()).count();
    assert_eq!(received, sent as usize);
}

#[test]
fn a_received_buffer_is_sent_on_without_a_copy() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.send(frame(MAC, PEER, b"to be sent on"));
    let received = loop {
        match rig.rx.pop().unwrap() {
            Some(received) => break received,
            None => rig.backing.idle(),
        }
    };
    let iova = received.buffer.iova();
    let piece = super::Piece {
        len: received.status.length(),
        buffer: received.buffer,
    };
    rig.tx.push(piece, Offload::default()).unwrap();
    rig.tx.ring();
    let back = loop {
        match rig.tx.reap().unwrap() {
            Some(buffer) => break buffer,
            None => rig.backing.idle(),
        }
    };
    assert_eq!(back.iova(), iova);
    assert_eq!(rig.wire.receive(), Some(frame(MAC, PEER, b"to be sent on")));
    rig.rx.post(back).unwrap();
}

#[test]
fn a_frame_of_several_pieces_and_one_of_several_buffers() {
    let long = PortOptions {
        frame_len: 9000,
        ..options()
    };
    let mut rig = Rig::new(Interface::Iommufd, long);
    let whole = frame(PEER, MAC, &[7; 4000]);
    let pieces = [&whole[..14], &whole[14..2000], &whole[2000..]].map(|part| rig.piece(part));
    rig.tx.push_pieces(pieces, Offload::default()).unwrap();
    rig.tx.ring();
    assert_eq!(rig.drain().unwrap(), 3);
    assert_eq!(rig.wire.receive(), Some(whole));
    let whole = frame(
        MAC,
        PEER,
        &(0..5000).map(|n: u16| n.to_le_bytes()[0]).collect::<Vec<_>>(),
    );
    rig.wire.send(whole.clone());
    let mut parts = Vec::new();
    while parts.len() < whole.len() {
        let Some(received) = rig.rx.pop().unwrap() else {
            rig.backing.idle();
            continue;
        };
        let mut part = vec![0; received.status.length().into()];
        received.buffer.read(0, &mut part).unwrap();
        parts.extend(part);
        assert_eq!(received.status.is_end(), parts.len() == whole.len());
    }
    assert_eq!(parts, whole);
}

#[test]
fn the_device_puts_in_checksums_and_tags() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    let mut packet = frame(PEER, MAC, &[]);
    packet.truncate(14);
    (packet[12], packet[13]) = (8, 0);
    packet.extend([0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend([0, 1, 0, 2, 0, 11, 0, 0, 1, 2, 3]);
    let mut prepared = packet.clone();
    let checksums = Checksums::prepare(&mut prepared).unwrap();
    assert_eq!((checksums.l4, checksums.ip_len), (Some(L4::Udp), 20));
    let offload = Offload {
        vlan: Some(5),
        checksums: Some(checksums),
    };
    let room = rig.tx.room();
    for _ in 0..2 {
        let piece = rig.piece(&prepared);
        rig.tx.push(piece, offload).unwrap();
    }
    // One context for both.
    assert_eq!(room - rig.tx.room(), 3);
    rig.send(&packet);
    rig.tx.ring();
    assert_eq!(rig.drain().unwrap(), 3);
    for _ in 0..2 {
        let got = rig.wire.receive().unwrap();
        assert_eq!(got[12..16], [0x81, 0, 0, 5]);
        assert!(Checksums::are_right(&got, super::super::spec::RxStatus::new()));
        assert_ne!(got[4 + 24..4 + 26], [0, 0], "a checksum of IPv4");
    }
    assert_eq!(rig.wire.receive(), Some(packet));
}

#[test]
fn an_address_is_the_asked_for_or_the_given_or_a_random_one() {
    let open = |given, wanted| {
        let (device, wire) = IgbVf::new();
        wire.set_address(given);
        let backing = crate::fake::FakeBacking::new(device).unwrap();
        let options = PortOptions {
            mac: wanted,
            ..PortOptions::default()
        };
        let mac = Port::open(&backing, options).map(|port| port.mac());
        (mac, wire.granted().mac)
    };
    let (mac, granted) = open(None, Some(MAC));
    assert_eq!((mac.unwrap(), granted), (MAC, Some(MAC)));
    let (mac, granted) = open(Some(PEER), None);
    assert_eq!((mac.unwrap(), granted), (PEER, Some(PEER)));
    let (mac, granted) = open(None, None);
    assert!(granted.unwrap().is_station());
    assert_eq!(mac.unwrap(), granted.unwrap());
    let (mac, _) = open(Some(PEER), Some(MAC));
    assert!(matches!(mac.unwrap_err().kind, ErrorKind::Refused(_)));
    let (mac, _) = open(None, Some(MacAddress([0xff; 6])));
    assert!(matches!(mac.unwrap_err().kind, ErrorKind::Invalid(_)));
}

#[test]
fn filters_reach_the_pf_and_survive_its_reset() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    let group = MacAddress([1, 0, 0x5e, 0, 0, 0xfb]);
    rig.port.set_multicast(&[group]).unwrap();
    rig.port.set_vlan(7, true).unwrap();
    rig.port.set_vlan(8, true).unwrap();
    rig.port.set_vlan(8, false).unwrap();
    rig.port.add_mac(PEER).unwrap();
    rig.port.set_all_multicast(true).unwrap();
    let granted = rig.wire.granted();
    assert_eq!(
        (granted.multicast.clone(), granted.frame_len),
        (vec![group.hash()], 1522)
    );
    assert_eq!(granted.vlans, [7].into());
    assert_eq!(granted.macs, [PEER].into());
    assert!(granted.all_multicast);
    rig.wire.begin_reset();
    assert_eq!(rig.wire.granted().vlans, [].into());
    rig.wire.end_reset();
    rig.recover();
    assert_eq!(rig.wire.granted(), granted);
    rig.port.clear_macs().unwrap();
    rig.port.set_all_multicast(false).unwrap();
    assert_eq!(rig.wire.granted().macs, [].into());
    assert!(!rig.wire.granted().all_multicast);
    // A tag is taken out and told of.
    rig.wire
        .send([&MAC.0[..], &PEER.0, &[0x81, 0, 0, 7, 0x88, 0xb5, 9]].concat());
    let received = loop {
        match rig.rx.pop().unwrap() {
            Some(received) => break received,
            None => rig.backing.idle(),
        }
    };
    assert_eq!((received.status.has_vlan(), received.status.vlan()), (true, 7));
    assert_eq!(received.status.length(), 15);
    assert!(rig.port.set_multicast(&[MAC]).is_err());
    assert!(rig.port.set_multicast(&[group; 31]).is_err());
    assert!(rig.port.set_vlan(4095, true).is_err());
}

#[test]
fn the_link_is_what_the_port_says() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    let link = Link {
        speed: 1000,
        is_full_duplex: true,
    };
    assert_eq!(rig.port.check().unwrap(), PortState::Up(link));
    rig.wire.set_link(false);
    rig.wire.greet();
    assert_eq!(rig.port.check().unwrap(), PortState::NoLink);
    rig.wire.set_link(true);
    assert_eq!(rig.port.check().unwrap(), PortState::Up(link));
}

#[test]
fn what_is_no_frame_is_refused_and_given_back() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    let refused = rig.tx.push_pieces([], Offload::default()).unwrap_err();
    assert_eq!(refused.why, Why::Invalid);
    let mut piece = rig.piece(&[1; 64]);
    piece.len = 2049;
    let refused = rig.tx.push(piece, Offload::default()).unwrap_err();
    assert_eq!((refused.why, refused.pieces.len()), (Why::Invalid, 1));
    let long_header = Checksums {
        mac_len: 14,
        ip_len: 512,
        is_ipv4: false,
        l4: None,
    };
    let offload = Offload {
        vlan: None,
        checksums: Some(long_header),
    };
    for (len, offload) in [(16, Offload::default()), (64, offload)] {
        let piece = rig.piece(&vec![1; len]);
        assert_eq!(rig.tx.push(piece, offload).unwrap_err().why, Why::Invalid);
    }
    let short = rig.pool.take(64).unwrap();
    while rig.rx.pop().unwrap().is_some() {}
    assert_eq!(rig.rx.post(short).unwrap_err().len(), 64);
}

#[test]
fn each_queue_has_one_owner_and_a_vector_of_its_own() {
    let with_interrupts = PortOptions {
        interrupts: true,
        ..options()
    };
    let mut rig = Rig::new(Interface::Iommufd, with_interrupts);
    assert!(rig.port.rx_queue(0, RxOptions::default()).is_err());
    assert!(rig.port.tx_queue(2, TxOptions::default()).is_err());
    let with_interrupt = TxOptions {
        interrupt: true,
        ..TxOptions::default()
    };
    // Vector 1 is receive queue 0's.
    assert!(rig.port.tx_queue(1, with_interrupt).is_err());
    let mut second = rig.port.tx_queue(1, TxOptions::default()).unwrap();
    let piece = rig.piece(&frame(PEER, MAC, b"by the second"));
    second.push(piece, Offload::default()).unwrap();
    second.ring();
    rig.backing.idle();
    assert_eq!(rig.wire.receive(), Some(frame(PEER, MAC, b"by the second")));
    assert!(second.reap().unwrap().is_some());
    drop(second);
    drop(rig.port.tx_queue(1, TxOptions::default()).unwrap());
    let bad = RxOptions {
        depth: 33,
        ..RxOptions::default()
    };
    assert!(rig.port.rx_queue(1, bad).is_err());
}

#[test]
fn interrupts_wake_who_waits() {
    for interface in [Interface::Iommufd, Interface::Type1] {
        let with_interrupts = PortOptions {
            interrupts: true,
            ..options()
        };
        let mut rig = Rig::new(interface, with_interrupts);
        let moment = Some(Duration::from_millis(1));
        assert_eq!(rig.rx.wait(moment).unwrap(), Woken::TimedOut);
        for n in 0..5 {
            rig.wire.send(frame(MAC, PEER, &[n]));
            assert_eq!(rig.rx.wait(moment).unwrap(), Woken::Signalled);
            assert_eq!(rig.receive().unwrap(), frame(MAC, PEER, &[n]));
        }
        rig.send(&frame(PEER, MAC, b"out"));
        rig.tx.ring();
        assert_eq!(rig.tx.wait(moment).unwrap(), Woken::Signalled);
        assert!(rig.tx.reap().unwrap().is_some());
        rig.wire.greet();
        rig.backing.idle();
        assert!(rig.port.event().unwrap().try_read().unwrap().is_some());
        rig.backing.removal().tell(crate::Presence::AskedBack);
        assert!(rig.rx.wait(None).unwrap_err().is_gone());
    }
}

#[test]
fn without_interrupts_there_is_only_polling() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    assert!(matches!(rig.rx.wait(None).unwrap_err().kind, ErrorKind::Unsupported(_)));
    assert!(matches!(rig.tx.wait(None).unwrap_err().kind, ErrorKind::Unsupported(_)));
    assert!(rig.port.event().is_none());
    let interrupt = RxOptions {
        interrupt: true,
        ..RxOptions::default()
    };
    let error = rig.port.rx_queue(1, interrupt).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unsupported(_)));
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn a_future_of_any_executor_waits_for_frames() {
    let with_interrupts = PortOptions {
        interrupts: true,
        ..options()
    };
    let mut rig = Rig::new(Interface::Iommufd, with_interrupts);
    let running = rig.backing.run().unwrap();
    let reactor = Reactor::new().unwrap();
    let mut signals = reactor.watch(rig.rx.event().unwrap()).unwrap();
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    for n in 0..10 {
        let (wire, body) = (rig.wire.clone(), [n]);
        let sender = std::thread::spawn(move || wire.send(frame(MAC, PEER, &body)));
        {
            let mut ready = std::pin::pin!(rig.rx.ready(&mut signals));
            while ready.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                std::thread::park();
            }
        }
        sender.join().unwrap();
        assert_eq!(rig.receive().unwrap(), frame(MAC, PEER, &[n]));
    }
    drop(running);
}

#[test]
fn queues_work_on_threads_of_their_own() {
    let mut rig = Rig::new(Interface::Iommufd, options());
    rig.wire.set_loop(true);
    let running = rig.backing.run().unwrap();
    let pieces: Vec<_> = (0..25).map(|n| rig.piece(&frame(MAC, MAC, &[n; 40]))).collect();
    let Rig { mut tx, mut rx, .. } = rig;
    let sender = std::thread::spawn(move || {
        for piece in pieces {
            tx.push(piece, Offload::default()).unwrap();
            tx.ring();
        }
        tx
    });
    let mut count = 0;
    while count < 25 {
        if let Some(received) = rx.pop().unwrap() {
            assert!(received.status.is_local());
            count += 1;
        }
    }
    drop(sender.join().unwrap());
    drop(running);
}

#[test]
fn requests_are_made_in_the_words_of_the_pf() {
    let rig = Rig::new(Interface::Iommufd, options());
    let kinds: Vec<_> = rig.wire.heard().iter().map(|message| message.header().kind()).collect();
    let expected = [
        Message::RESET,
        Message::SET_MAC,
        Message::SET_FRAME_LEN,
        Message::SET_MULTICAST,
    ];
    assert_eq!(kinds, expected);
}
