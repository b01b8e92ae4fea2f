//! TCP over the driver, with another stack at the other end of the wire.

use super::super::phy::Device;
use super::{MAC, PEER, frame, options};
use crate::Backing;
use crate::fake::FakeBacking;
use crate::fake::igbvf::{Fault, IgbVf, Wire};
use crate::igbvf::PortOptions;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use std::time::Duration;

/// The other end of the wire.
struct End(Wire);
struct Frame(Vec<u8>);
struct Out<'a>(&'a Wire);

impl phy::RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.send(frame);
        result
    }
}

impl phy::Device for End {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Out<'_>)> {
        self.0.receive().map(|frame| (Frame(frame), Out(&self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        Some(Out(&self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

fn interface(device: &mut impl phy::Device, mac: [u8; 6], last: u8) -> Interface {
    let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
    let mut interface = Interface::new(config, device, Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, last), 24)).unwrap();
    });
    interface
}

fn socket(sockets: &mut SocketSet<'_>) -> SocketHandle {
    let buffer = || tcp::SocketBuffer::new(vec![0; 16 << 10]);
    sockets.add(tcp::Socket::new(buffer(), buffer()))
}

/// Bytes that a connection carries, with something done to the device on the way.
fn exchange(total: usize, mut disturb: impl FnMut(usize, &Wire)) -> u64 {
    let (device, wire) = IgbVf::new();
    let backing = FakeBacking::new(device).unwrap();
    let mut device = Device::open(&backing, options(), 32).unwrap();
    assert_eq!(device.address(), EthernetAddress(MAC.0));
    let mut end = End(wire.clone());
    let (mut near, mut far) = (interface(&mut device, MAC.0, 1), interface(&mut end, PEER.0, 2));
    let (mut near_sockets, mut far_sockets) = (SocketSet::new(vec![]), SocketSet::new(vec![]));
    let (client, server) = (socket(&mut near_sockets), socket(&mut far_sockets));
    far_sockets.get_mut::<tcp::Socket<'_>>(server).listen(80).unwrap();
    let connecting = near_sockets.get_mut::<tcp::Socket<'_>>(client);
    connecting
        .connect(near.context(), (IpAddress::v4(10, 0, 0, 2), 80), 50000)
        .unwrap();
    let (mut sent, mut echoed) = (0_usize, 0_usize);
    for turn in 0..200_000_i64 {
        let now = Instant::from_micros(turn * 1000);
        device.poll(now, &mut near, &mut near_sockets).unwrap();
        backing.idle();
        far.poll(now, &mut end, &mut far_sockets);
        let socket = near_sockets.get_mut::<tcp::Socket<'_>>(client);
        while sent < total && socket.can_send() {
            let chunk: Vec<u8> = (sent..total.min(sent + 999)).map(|at| at.to_le_bytes()[0]).collect();
            sent += socket.send_slice(&chunk).unwrap();
        }
        while socket.can_recv() {
            let got = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap();
            for byte in got {
                assert_eq!(byte, echoed.to_le_bytes()[0]);
                echoed += 1;
            }
        }
        let socket = far_sockets.get_mut::<tcp::Socket<'_>>(server);
        while socket.can_recv() && socket.can_send() {
            let room = socket.send_capacity() - socket.send_queue();
            let got = socket
                .recv(|bytes| (bytes.len().min(room), bytes[..bytes.len().min(room)].to_vec()))
                .unwrap();
            socket.send_slice(&got).unwrap();
            if got.is_empty() {
                break;
            }
        }
        disturb(echoed, &wire);
        if echoed == total {
            return device.resets();
        }
    }
    panic!("{echoed} of {total} bytes came back");
}

#[test]
fn a_connection_carries_its_bytes_with_the_devices_checksums() {
    assert_eq!(exchange(300_000, |_, _| ()), 0);
}

#[test]
fn a_connection_outlives_a_reset_of_the_pf_and_frames_that_are_wrong() {
    let mut stage = 0;
    let resets = exchange(300_000, |echoed, wire| {
        if stage == 0 && echoed > 100_000 {
            wire.begin_reset();
            wire.end_reset();
            stage = 1;
        } else if stage == 1 && echoed > 200_000 {
            wire.fault(Fault::WrongChecksum);
            wire.fault(Fault::WrongLength);
            stage = 2;
        }
    });
    assert_eq!((resets, stage), (2, 2));
}

#[test]
fn the_tail_of_a_frame_that_is_too_long_is_no_frame() {
    let (device, wire) = IgbVf::new();
    let backing = FakeBacking::new(device).unwrap();
    let mut device = Device::open(&backing, options(), 32).unwrap();
    let mut near = interface(&mut device, MAC.0, 1);
    device
        .poll(Instant::ZERO, &mut near, &mut SocketSet::new(vec![]))
        .unwrap();
    wire.fault(Fault::TakesGiants);
    wire.send(frame(MAC, PEER, &[1; 5000]));
    wire.send(frame(MAC, PEER, b"whole"));
    backing.idle();
    let (token, _) = phy::Device::receive(&mut device, Instant::ZERO).unwrap();
    let got = phy::RxToken::consume(token, <[u8]>::to_vec);
    assert_eq!(got, frame(MAC, PEER, b"whole"));
    assert!(phy::Device::receive(&mut device, Instant::ZERO).is_none());
}

#[test]
fn an_interface_gets_the_address_that_a_recovery_brings() {
    let (device, wire) = IgbVf::new();
    wire.set_address(Some(MAC));
    let backing = FakeBacking::new(device).unwrap();
    let given = PortOptions { mac: None, ..options() };
    let mut device = Device::open(&backing, given, 32).unwrap();
    let mut near = interface(&mut device, MAC.0, 1);
    let mut sockets = SocketSet::new(vec![]);
    device.poll(Instant::ZERO, &mut near, &mut sockets).unwrap();
    wire.set_address(Some(PEER));
    wire.begin_reset();
    wire.end_reset();
    // Nothing but the clock says that it is time to look.
    let moment = Some(Duration::from_millis(20));
    backing.wait(backing.removal().event(), moment).unwrap();
    device.poll(Instant::ZERO, &mut near, &mut sockets).unwrap();
    assert_eq!(device.resets(), 1);
    assert_eq!(near.hardware_addr(), HardwareAddress::Ethernet(EthernetAddress(PEER.0)));
}
