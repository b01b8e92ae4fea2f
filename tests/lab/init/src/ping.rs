//! One ICMP echo and its reply (RFC 792).

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// Sends an echo request each second until one is answered; returns the number of requests and the round trip of the
/// answered one.
pub(crate) fn ping(to: Ipv4Addr, patience: Duration) -> Result<(u16, Duration)> {
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).context("open an ICMP socket")?;
    let start = Instant::now();
    for sequence in 1..=u16::MAX {
        let request = echo_request(sequence);
        let sent = Instant::now();
        sendto(&socket, &request, SendFlags::empty(), &SocketAddrV4::new(to, 0)).context("send an echo request")?;
        while sent.elapsed() < Duration::from_secs(1) {
            let mut wait = [PollFd::new(&socket, PollFlags::IN)];
            poll(
                &mut wait,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 100_000_000,
                }),
            )?;
            let mut packet = [0; 2048];
            if let Ok((len, _)) = recv(&socket, &mut packet, RecvFlags::DONTWAIT)
                && packet.get(..len).is_some_and(|packet| is_reply(packet, to, sequence))
            {
                return Ok((sequence, sent.elapsed()));
            }
        }
        if start.elapsed() > patience {
            bail!("no reply from {to} to {sequence} requests in {} s", patience.as_secs());
        }
    }
    bail!("no reply from {to}")
}

fn echo_request(sequence: u16) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    let mut packet = vec![ECHO_REQUEST, 0, 0, 0, b'l', b'b', high, low];
    packet.extend_from_slice(&[0x5a; 48]);
    let [a, b] = checksum(&packet).to_be_bytes();
    packet.splice(2..4, [a, b]);
    packet
}

/// Internet checksum (RFC 1071) of a packet whose checksum field is zero.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            pair.iter()
                .zip([8, 0])
                .map(|(byte, shift)| u32::from(*byte) << shift)
                .sum::<u32>()
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// A raw socket sees the IPv4 header too.
fn is_reply(packet: &[u8], from: Ipv4Addr, sequence: u16) -> bool {
    let header_len = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let source = packet.get(12..16);
    let [high, low] = sequence.to_be_bytes();
    source == Some(&from.octets())
        && packet.get(header_len) == Some(&ECHO_REPLY)
        && packet.get(header_len + 4..header_len + 8) == Some(&[b'l', b'b', high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_valid_checksum() {
        // Summing a packet together with its checksum gives all ones.
        assert_eq!(checksum(&echo_request(7)), 0);
        assert_eq!(echo_request(0x0102)[6..8], [1, 2]);
    }

    #[test]
    fn only_the_answer_to_this_request_counts() {
        let mut packet = vec![0x45; 20];
        packet.splice(12..16, [10, 0, 2, 2]);
        packet.extend_from_slice(&[0, 0, 0, 0, b'l', b'b', 0, 3]);
        assert!(is_reply(&packet, Ipv4Addr::new(10, 0, 2, 2), 3));
        assert!(!is_reply(&packet, Ipv4Addr::new(10, 0, 2, 2), 4));
        assert!(!is_reply(&packet, Ipv4Addr::new(10, 0, 2, 3), 3));
        assert!(!is_reply(&packet[..22], Ipv4Addr::new(10, 0, 2, 2), 3));
        assert!(!is_reply(&[], Ipv4Addr::new(10, 0, 2, 2), 3));
    }
}
