//! Network cards, consoles and sources of entropy.

use super::*;
use crate::ErrorKind;
use crate::fake::virtio::Fault;
use crate::virtio::spec::{ConsoleFeatures, Features, NetFeatures, net};
use crate::virtio::{Console, ConsoleOptions, Entropy, Frame, Net, NetOptions, NetRx, NetTx};

fn fill(rx: &mut NetRx<FakeBacking>, backing: &FakeBacking, len: usize) {
    while rx.room() > 0 {
        rx.post(buffer(backing, &vec![0; len])).unwrap();
    }
    rx.kick();
}

fn frame(buffer: DmaBuffer<Both>, start: usize) -> Frame {
    Frame {
        len: buffer.len() - start,
        buffer,
        start,
        header: net::Header::default(),
    }
}

fn send(tx: &mut NetTx<FakeBacking>, backing: &FakeBacking, bytes: &[u8]) {
    tx.push(frame(buffer(backing, bytes), 0)).unwrap();
    tx.kick();
}

/// The next frame, from all of its buffers.
fn receive(rx: &mut NetRx<FakeBacking>, backing: &FakeBacking) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..100 {
        while let Some(part) = rx.pop().unwrap() {
            all.extend(&bytes(&part.buffer)[part.start..part.start + part.len]);
            rx.post(part.buffer).unwrap();
            rx.kick();
            if part.more == 0 {
                return all;
            }
        }
        backing.idle();
    }
    panic!("no frame");
}

#[test]
fn frames_go_out_and_come_in_over_many_rounds() {
    for features in [Features::empty(), Features::INDIRECT_DESC, Features::EVENT_IDX] {
        each(
            || Virtio::net(MAC).without(features.bits()),
            |backing, _| {
                let options = NetOptions {
                    depth: 16,
                    ..NetOptions::default()
                };
                let (net, mut rx, mut tx) = Net::open(backing.clone(), options).unwrap();
                assert_eq!(net.mac().unwrap(), Some(MAC));
                assert_eq!((net.is_link_up().unwrap(), net.mtu().unwrap()), (true, Some(1500)));
                fill(&mut rx, &backing, 2048);
                for round in 0..40 {
                    let wanted = pattern(60 + 13 * round, round as u8);
                    send(&mut tx, &backing, &wanted);
                    assert_eq!(receive(&mut rx, &backing), wanted);
                    assert!(tx.reap().unwrap().is_some());
                }
            },
        );
    }
}

#[test]
fn a_long_frame_takes_several_buffers_and_a_received_one_is_sent_on() {
    each(
        || Virtio::net(MAC),
        |backing, _| {
            let options = NetOptions {
                mergeable: true,
                interrupts: true,
                ..NetOptions::default()
            };
            let (_net, mut rx, mut tx) = Net::open(backing.clone(), options).unwrap();
            fill(&mut rx, &backing, 128);
            let wanted = pattern(1500, 9);
            send(&mut tx, &backing, &wanted);
            rx.wait(Some(SECOND)).unwrap();
            assert_eq!(receive(&mut rx, &backing), wanted);
            send(&mut tx, &backing, &wanted[..100]);
            backing.idle();
            let part = rx.pop().unwrap().unwrap();
            tx.push(Frame {
                buffer: part.buffer,
                start: part.start,
                len: part.len,
                header: net::Header::default(),
            })
            .unwrap();
            tx.kick();
            assert_eq!(receive(&mut rx, &backing), wanted[..100]);
        },
    );
}

#[test]
fn the_link_goes_down_and_an_interrupt_says_so() {
    each(
        || Virtio::net(MAC),
        |backing, handle| {
            let options = NetOptions {
                interrupts: true,
                ..NetOptions::default()
            };
            let (net, _rx, _tx) = Net::open(backing, options).unwrap();
            assert!(net.changes().is_some());
            handle.configure(net::STATUS, 0);
            assert!(!net.is_link_up().unwrap());
        },
    );
}

#[test]
fn frames_and_buffers_that_cannot_be_are_refused() {
    each(
        || Virtio::net(MAC).without(NetFeatures::CSUM.bits()),
        |backing, _| {
            let (_net, mut rx, mut tx) = Net::open(backing.clone(), NetOptions::default()).unwrap();
            assert!(rx.post(buffer(&backing, &[0; 1000])).is_err());
            let outside = Frame {
                len: 100,
                ..frame(buffer(&backing, &[0; 64]), 0)
            };
            let refused = tx.push(outside).unwrap_err();
            assert!(tx.push(frame(refused.payload, 64)).is_err());
            let mut checksum = frame(buffer(&backing, &[0; 64]), 0);
            checksum.header.flags = net::NEEDS_CSUM;
            let refused = tx.push(checksum).unwrap_err();
            assert!(matches!(refused.error.kind, ErrorKind::Unsupported(_)));
        },
    );
}

#[test]
fn buffers_are_as_long_as_the_networks_frames() {
    each(
        || {
            let device = Virtio::net(MAC);
            for (byte, offset) in 9000_u16.to_le_bytes().into_iter().zip(net::MTU..) {
                device.handle().configure(offset, byte);
            }
            device
        },
        |backing, _| {
            let (_net, mut rx, mut tx) = Net::open(backing.clone(), NetOptions::default()).unwrap();
            assert_eq!(rx.shortest(), net::HEADER_LEN + 14 + 9000);
            assert!(rx.post(buffer(&backing, &[0; 2048])).is_err());
            rx.post(buffer(&backing, &vec![0; rx.shortest()])).unwrap();
            rx.kick();
            let wanted = pattern(9014, 1);
            send(&mut tx, &backing, &wanted);
            assert_eq!(receive(&mut rx, &backing), wanted);
        },
    );
}

#[test]
fn a_header_says_what_was_settled_and_no_more() {
    each(
        || Virtio::net(MAC).faulty(Fault::StrayHeader),
        |backing, _| {
            let (_net, mut rx, mut tx) = Net::open(backing.clone(), NetOptions::default()).unwrap();
            fill(&mut rx, &backing, 2048);
            send(&mut tx, &backing, &[1; 64]);
            backing.idle();
            let header = rx.pop().unwrap().unwrap().header;
            assert_eq!((header.flags, header.segmentation), (0, 0));
        },
    );
    each(
        || Virtio::net(MAC).faulty(Fault::StrayHeader),
        |backing, _| {
            let options = NetOptions {
                checksums: true,
                ..NetOptions::default()
            };
            let (_net, mut rx, mut tx) = Net::open(backing.clone(), options).unwrap();
            fill(&mut rx, &backing, 2048);
            send(&mut tx, &backing, &[1; 64]);
            backing.idle();
            let error = rx.pop().unwrap_err();
            assert!(error.to_string().contains("checksum"), "{error}");
        },
    );
}

#[test]
fn whatever_is_pulled_out_says_so_and_gives_everything_back() {
    for interrupts in [false, true] {
        each(
            || Virtio::net(MAC).faulty(Fault::Mute),
            |backing, _| {
                let options = NetOptions {
                    interrupts,
                    ..NetOptions::default()
                };
                let (net, mut rx, mut tx) = Net::open(backing.clone(), options).unwrap();
                fill(&mut rx, &backing, 2048);
                send(&mut tx, &backing, &[1; 64]);
                backing.machine().remove(backing.bdf().unwrap());
                assert!((0..10_000).find_map(|_| rx.pop().err()).unwrap().is_gone());
                assert!((0..10_000).find_map(|_| tx.reap().err()).unwrap().is_gone());
                assert!(net.is_link_up().unwrap_err().is_gone());
                if interrupts {
                    assert!(rx.wait(None).unwrap_err().is_gone());
                }
                net.stop().unwrap();
                assert_eq!((rx.take_back().unwrap().len(), tx.take_back().unwrap().len()), (64, 1));
            },
        );
        each(
            || Virtio::console().faulty(Fault::Mute),
            |backing, _| {
                let options = ConsoleOptions {
                    interrupts,
                    ..ConsoleOptions::default()
                };
                let mut console = Console::open(backing.clone(), options).unwrap();
                console.write(b"on its way", SECOND).unwrap();
                backing.machine().remove(backing.bdf().unwrap());
                assert!(console.write(&[0; 10_000], 60 * SECOND).unwrap_err().is_gone());
                assert!(console.flush(60 * SECOND).unwrap_err().is_gone());
                assert!(console.read(&mut [0; 8]).unwrap_err().is_gone());
            },
        );
        each(
            || Virtio::entropy().faulty(Fault::Mute),
            |backing, _| {
                let mut source = Entropy::open(backing.clone(), interrupts).unwrap();
                backing.machine().remove(backing.bdf().unwrap());
                for _ in 0..2 {
                    assert!(source.fill(&mut [0; 64], 60 * SECOND).unwrap_err().is_gone());
                }
            },
        );
    }
}

#[test]
fn a_frame_in_no_buffers_or_without_its_header_ends_the_card() {
    for (fault, mergeable) in [(Fault::NoBuffers, true), (Fault::Nothing, false)] {
        each(
            || Virtio::net(MAC).faulty(fault),
            |backing, _| {
                let options = NetOptions {
                    mergeable,
                    ..NetOptions::default()
                };
                let (net, mut rx, mut tx) = Net::open(backing.clone(), options).unwrap();
                fill(&mut rx, &backing, 2048);
                send(&mut tx, &backing, &[1; 64]);
                backing.idle();
                for _ in 0..2 {
                    assert!(matches!(rx.pop().unwrap_err().kind, ErrorKind::Failed(_)));
                }
                net.stop().unwrap();
                assert!(!rx.take_back().unwrap().is_empty());
            },
        );
    }
}

#[test]
fn a_console_says_what_it_hears() {
    for interrupts in [false, true] {
        // As few vectors as QEMU's console has.
        each(
            || Virtio::console().vectors(2),
            |backing, _| {
                let options = ConsoleOptions {
                    depth: 2,
                    buffer_len: 16,
                    interrupts,
                };
                let mut console = Console::open(backing.clone(), options).unwrap();
                assert_eq!(console.size().unwrap(), Some((80, 25)));
                let wanted = pattern(200, 1);
                console.write(&wanted, SECOND).unwrap();
                console.flush(SECOND).unwrap();
                let mut got: Vec<u8> = Vec::new();
                while got.len() < wanted.len() {
                    let mut part = [0; 7];
                    let len = console.read(&mut part).unwrap();
                    got.extend(&part[..len]);
                    if len == 0 && interrupts {
                        console.wait(Some(SECOND)).unwrap();
                    }
                    backing.idle();
                }
                assert_eq!(got, wanted);
                console.write_emergency(b'!').unwrap();
            },
        );
    }
    let plain = Virtio::console().without(ConsoleFeatures::all().bits());
    let console = Console::open(FakeBacking::new(plain).unwrap(), ConsoleOptions::default()).unwrap();
    assert_eq!(console.size().unwrap(), None);
    assert!(console.write_emergency(b'!').is_err());
}

#[test]
fn entropy_comes_in_as_many_pieces_as_the_device_likes() {
    for interrupt in [false, true] {
        each(Virtio::entropy, |backing, handle| {
            let mut source = Entropy::open(backing, interrupt).unwrap();
            let (mut first, mut second) = ([0; 333], [0; 333]);
            source.fill(&mut first, SECOND).unwrap();
            handle.set(Fault::Mute, true);
            assert!(matches!(
                source.fill(&mut second, SHORT).unwrap_err().kind,
                ErrorKind::Timeout(_)
            ));
            handle.set(Fault::Mute, false);
            source.fill(&mut second, SECOND).unwrap();
            assert_ne!(first, second);
            handle.set(Fault::Nothing, true);
            assert!(matches!(
                source.fill(&mut second, SECOND).unwrap_err().kind,
                ErrorKind::Failed(_)
            ));
        });
    }
}
