//! Frames per second of a virtual function of an 82576, from user space, polled.
//!
//! `vf-pps BDF tx --to MAC` sends frames of one size in batches; `vf-pps BDF rx` counts those that come. The function is on vfio-pci, and its PF
//! up. Prints one line.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]

mod common;
#[path = "igb/mac.rs"]
mod mac;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use common::Function;
use drivers::igbvf::{
    MacAddress, Offload, Piece, Port, PortOptions, PortState, RxOptions, RxQueue, TxOptions, TxQueue,
};
use drivers::{Backing, VfioBacking};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::pool::DmaPool;
use mac::mac;
use std::time::Duration;

/// Measure frames per second of a virtual function
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    function: Function,
    #[command(subcommand)]
    way: Way,
    /// Ethernet address to use [default: that which the PF has for the function, or a random one]
    #[arg(long, value_parser = mac, global = true)]
    mac: Option<MacAddress>,
    /// Seconds to measure
    #[arg(long, default_value_t = 5, global = true)]
    seconds: u64,
    /// Descriptors of the ring
    #[arg(long, default_value_t = 512, global = true)]
    depth: u16,
    /// Frames for each write of the tail
    #[arg(long, default_value_t = 32, global = true)]
    batch: u32,
}

#[derive(Debug, Subcommand)]
enum Way {
    /// Send
    Tx {
        /// Destination
        #[arg(long, value_parser = mac)]
        to: MacAddress,
        /// Bytes of a frame, without its check sequence
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(60..=1514))]
        len: u16,
        /// Write the headers of Ethernet, IP and UDP into each buffer anew
        #[arg(long)]
        fill: bool,
        /// Let others run for a millisecond after each batch
        #[arg(long)]
        nap: bool,
    },
    /// Receive
    Rx,
}

/// How long the link may take to come up, and the first frame to come.
const START: Duration = Duration::from_secs(30);
const BUFFER: usize = 2048;
/// Bytes of the headers of Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;

fn main() -> Result<()> {
    let args = Args::parse();
    let backing = args.function.open()?;
    let options = PortOptions {
        mac: args.mac,
        ..PortOptions::default()
    };
    let mut port = Port::open(&backing, options)?;
    while !matches!(port.check()?, PortState::Up(_)) {
        ensure!(backing.now() < START, "there is no link");
        backing.idle();
    }
    let mut pool = DmaPool::new(backing.space(), 2 << 20, BufferOptions::default())?;
    let limit = Duration::from_secs(args.seconds);
    eprintln!("{}", port.mac());
    let (way, count, time) = match args.way {
        Way::Tx { to, len, fill, nap } => {
            let options = TxOptions {
                depth: args.depth,
                ..TxOptions::default()
            };
            let mut queue = port.tx_queue(0, options)?;
            let frame = frame(to, port.mac(), len);
            let frames = frames(&mut pool, queue.room(), &frame)?;
            let plan = Plan {
                len,
                headers: frame.get(..HEADERS).filter(|_| fill).unwrap_or_default(),
                nap,
                batch: args.batch,
                limit,
            };
            let (count, time) = send(&backing, &mut queue, frames, &plan)?;
            ("tx", count, time)
        }
        Way::Rx => {
            let options = RxOptions {
                depth: args.depth,
                ..RxOptions::default()
            };
            let mut queue = port.rx_queue(0, options)?;
            let (count, busy, time) = receive(&backing, &mut queue, &mut pool, args.batch, limit)?;
            eprintln!(
                "{} ns of the driver for a frame",
                busy.as_nanos() / u128::from(count.max(1))
            );
            ("rx", count, time)
        }
    };
    let rate = f64::from(u32::try_from(count)?) / time.as_secs_f64();
    println!(
        "{way}: {count} frames in {:.3} s: {rate:.0} per second",
        time.as_secs_f64()
    );
    println!("{:?}", port.statistics());
    Ok(())
}

fn frame(to: MacAddress, from: MacAddress, len: u16) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &[0x88, 0xb5]].concat();
    frame.resize(len.into(), 0);
    frame
}

fn frames(pool: &mut DmaPool<Both>, count: u32, frame: &[u8]) -> Result<Vec<DmaBuffer<Both>>> {
    let frames = (0..count).map(|_| {
        let mut buffer = pool.take(BUFFER)?;
        buffer.write(0, frame).context("a buffer shorter than its frame")?;
        Ok(buffer)
    });
    frames.collect()
}

/// How to send.
struct Plan<'a> {
    len: u16,
    /// What is written into each buffer before it is sent.
    headers: &'a [u8],
    nap: bool,
    batch: u32,
    limit: Duration,
}

fn send(
    backing: &VfioBacking,
    queue: &mut TxQueue<VfioBacking>,
    mut free: Vec<DmaBuffer<Both>>,
    plan: &Plan<'_>,
) -> Result<(u64, Duration)> {
    let (start, len, mut count) = (backing.now(), plan.len, 0);
    loop {
        for _ in 0..plan.batch {
            let Some(mut buffer) = free.pop() else { break };
            if !plan.headers.is_empty() {
                let written = buffer.write(0, plan.headers);
                written.context("a buffer shorter than a header")?;
            }
            if let Err(refused) = queue.push(Piece { buffer, len }, Offload::default()) {
                free.extend(refused.pieces.map(|piece| piece.buffer));
                break;
            }
        }
        queue.ring();
        while let Some(buffer) = queue.reap()? {
            free.push(buffer);
            count += 1;
        }
        let time = backing.now() - start;
        if time >= plan.limit {
            return Ok((count, time));
        }
        if plan.nap {
            backing.nap();
        }
    }
}

/// How many came, how long the driver took for them, and in what time they came.
fn receive(
    backing: &VfioBacking,
    queue: &mut RxQueue<VfioBacking>,
    pool: &mut DmaPool<Both>,
    batch: u32,
    limit: Duration,
) -> Result<(u64, Duration, Duration)> {
    while queue.room() > 0 && queue.post(pool.take(BUFFER)?).is_ok() {}
    queue.ring();
    let looks = (0..1000).map(|_| backing.now()).map(|look| backing.now() - look);
    let clock = looks.min().unwrap_or_default();
    let (mut start, mut count, mut busy) = (None, 0, Duration::ZERO);
    loop {
        let begin = backing.now();
        let mut got = 0;
        while got < batch
            && let Some(received) = queue.pop()?
        {
            // It goes back as it came.
            queue
                .post(received.buffer)
                .ok()
                .context("a queue without room for its own buffer")?;
            got += 1;
        }
        queue.ring();
        let now = backing.now();
        if got > 0 {
            busy += (now - begin).saturating_sub(clock);
            count += u64::from(got);
            start = start.or(Some(now));
        }
        match start {
            Some(start) if now - start >= limit => return Ok((count, busy, now - start)),
            None => ensure!(now < START + limit, "no frame comes"),
            Some(_) => {}
        }
    }
}
