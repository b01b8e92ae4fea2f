//! Pings a host over a virtual function of an 82576, from user space: ARP, IPv4 and ICMP without the kernel.
//!
//! `vf-ping BDF TARGET`; the function is on vfio-pci, and its PF up. Prints what ping prints; exits with 1 when no answer came.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]

mod common;
#[path = "igb/host.rs"]
mod host;
#[path = "igb/mac.rs"]
mod mac;

use anyhow::Result;
use clap::Parser;
use host::{Host, HostArgs, v4};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp::{Endpoint, PacketBuffer, PacketMetadata, Socket};
use smoltcp::time::Instant;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Ipv4Address};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// Ping a host over a virtual function, without the kernel
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    host: HostArgs,
    /// Whom to ping
    target: Ipv4Address,
    /// How many requests to send
    #[arg(short, long, default_value_t = 4)]
    count: u16,
    /// Milliseconds from one request to the next
    #[arg(short, long, default_value_t = 1000)]
    interval: u64,
    /// Bytes of data in a request
    #[arg(short, long, default_value_t = 56, value_parser = clap::value_parser!(u16).range(0..=1472))]
    size: u16,
}

/// Of all requests, and chosen by nobody else here.
const IDENT: u16 = 0x5646;
/// How long to wait for the last answer.
const LAST: Duration = Duration::from_secs(2);

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut host = Host::new(&args.host)?;
    let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; 16], vec![0; 16 << 10]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.bind(Endpoint::Ident(IDENT))?;
    let handle = host.sockets.add(socket);
    println!("PING {} {}({}) bytes of data.", args.target, args.size, args.size + 28);

    let interval = Duration::from_millis(args.interval);
    let started = host.now();
    let (mut next, mut sent) = (started, 0_u16);
    let mut waiting = BTreeMap::new();
    let mut times = Vec::new();
    loop {
        let now = host.now();
        host.poll()?;
        let socket = host.sockets.get_mut::<Socket<'_>>(handle);
        if sent < args.count && now >= next && socket.can_send() {
            sent += 1;
            let data = vec![0x5a; args.size.into()];
            let request = Icmpv4Repr::EchoRequest {
                ident: IDENT,
                seq_no: sent,
                data: &data,
            };
            let bytes = socket.send(request.buffer_len(), v4(args.target))?;
            request.emit(
                &mut Icmpv4Packet::new_unchecked(bytes),
                &ChecksumCapabilities::default(),
            );
            waiting.insert(sent, now);
            next = now + interval.into();
            // It goes at once.
            continue;
        }
        while socket.can_recv() {
            let (bytes, from) = socket.recv()?;
            let packet = Icmpv4Packet::new_checked(bytes)?;
            let answer = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default())?;
            if let Icmpv4Repr::EchoReply { seq_no, data, .. } = answer
                && let Some(at) = waiting.remove(&seq_no)
            {
                let time = milliseconds(now, at);
                println!(
                    "{} bytes from {from}: icmp_seq={seq_no} time={time:.3} ms",
                    data.len() + 8
                );
                times.push(time);
            }
        }
        let is_over = sent == args.count && (waiting.is_empty() || now >= next + LAST.into());
        if is_over {
            break;
        }
        let end = if sent < args.count { next } else { next + LAST.into() };
        let left = end.max(now) - now;
        host.wait(left.into())?;
    }
    println!("\n--- {} ping statistics ---", args.target);
    let total = milliseconds(host.now(), started);
    summary(sent, &times, total);
    let statistics = host.device.port().statistics();
    println!(
        "device: {} frames, {} octets sent; {} frames, {} octets received",
        statistics.tx_frames, statistics.tx_octets, statistics.rx_frames, statistics.rx_octets
    );
    Ok(if times.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn summary(sent: u16, times: &[f64], total: f64) {
    let received = u16::try_from(times.len()).unwrap_or(u16::MAX);
    let loss = 100.0 * f64::from(sent.saturating_sub(received)) / f64::from(sent.max(1));
    println!("{sent} packets transmitted, {received} received, {loss:.0}% packet loss, time {total:.0}ms");
    if received == 0 {
        return;
    }
    let count = f64::from(received);
    let mean = times.iter().sum::<f64>() / count;
    let deviation = (times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / count).sqrt();
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let most = times.iter().copied().fold(0.0, f64::max);
    println!("rtt min/avg/max/mdev = {least:.3}/{mean:.3}/{most:.3}/{deviation:.3} ms");
}

fn milliseconds(to: Instant, from: Instant) -> f64 {
    Duration::from(to - from).as_secs_f64() * 1e3
}
