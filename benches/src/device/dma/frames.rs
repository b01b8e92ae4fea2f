//! Frames from one VF of an 82576 to another one of the same PF, whose switch hands them on: from the sender's doorbell until the receiver's
//! descriptor is done. Both are driven by this thread, without interrupts.

use super::{Case, DEPTH, SUITE, Session, measure};
use anyhow::{Context, Result, ensure};
use drivers::igbvf::{MacAddress, Offload, Piece, Port, PortOptions, PortState, RxOptions, TxOptions};
use drivers::{Backing, VfioBacking};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::pool::DmaPool;
use pci::Bdf;
use std::time::Duration;

/// Bytes of a frame, without its check sequence.
const SIZES: [u16; 2] = [60, 1500];
/// Bytes of a buffer.
const BUFFER: usize = 2048;
/// A type of Ethernet frames for experiments (IEEE 802): nobody else's are counted.
const KIND: [u8; 2] = [0x88, 0xb5];
/// Where a frame says its type.
const KIND_AT: usize = 12;
/// How long the link may take to come up, and a frame to arrive.
const LIMIT: Duration = Duration::from_secs(30);

/// Measures from one to the other.
pub(super) fn run(session: &mut Session, from: Bdf, to: Bdf) -> Result<()> {
    let [from, to] = [VfioBacking::open(from)?, VfioBacking::open(to)?];
    let [mut sender, mut receiver] = [port(&from)?, port(&to)?];
    for port in [&mut sender, &mut receiver] {
        wait_for_link(port)?;
    }
    let mut tx = sender.tx_queue(0, TxOptions::default())?;
    let mut rx = receiver.rx_queue(0, RxOptions::default())?;
    let pool = |backing: &VfioBacking| DmaPool::new(backing.space(), 1 << 20, BufferOptions::default());
    let (mut of_sender, mut of_receiver) = (pool(&from)?, pool(&to)?);
    while rx.room() > 0 && rx.post(of_receiver.take(BUFFER)?).is_ok() {}
    rx.ring();
    for len in SIZES {
        let frame = frame(receiver.mac(), sender.mac(), len);
        for count in [1, DEPTH] {
            let case = Case::new(
                SUITE,
                format!("frames of {len} bytes from VF to VF, {count} at a time"),
                &[("bytes", &len.to_string()), ("depth", &count.to_string())],
            );
            if !session.wants(&case.name) {
                continue;
            }
            let mut free = (0..count)
                .map(|_| {
                    let mut buffer = of_sender.take(BUFFER)?;
                    buffer.write(0, &frame).context("a buffer shorter than its frame")?;
                    Ok(buffer)
                })
                .collect::<Result<Vec<_>>>()?;
            let (meter, mut arrived) = (session.meter, Vec::new());
            measure(
                session,
                &case,
                "ours, polled",
                (count, len.into()),
                "rate of a burst",
                || {
                    for buffer in free.drain(..) {
                        let pushed = tx.push(Piece { buffer, len }, Offload::default());
                        pushed.map_err(|refused| refused.why)?;
                    }
                    let (mut left, deadline) = (count, to.now() + LIMIT);
                    let begin = meter.look();
                    tx.ring();
                    while left > 0 {
                        match rx.pop()? {
                            Some(received) => {
                                left -= u16::from(is_ours(&received.buffer));
                                arrived.push(received.buffer);
                            }
                            None => ensure!(to.now() < deadline, "{left} frames do not arrive"),
                        }
                    }
                    let took = meter.between(begin, meter.look());
                    // They go back as they came.
                    for buffer in arrived.drain(..) {
                        rx.post(buffer)
                            .ok()
                            .context("a queue without room for its own buffer")?;
                    }
                    rx.ring();
                    while free.len() < count.into() {
                        free.extend(tx.reap()?);
                        ensure!(to.now() < deadline, "the sender does not give a buffer back");
                    }
                    Ok(took)
                },
            )?;
        }
    }
    Ok(())
}

fn port(backing: &VfioBacking) -> Result<Port<VfioBacking>> {
    let port = Port::open(backing, PortOptions::default());
    port.context("a VF whose PF has to be up")
}

fn wait_for_link(port: &mut Port<VfioBacking>) -> Result<()> {
    let begin = port.backing().now();
    while !matches!(port.check()?, PortState::Up(_)) {
        let backing = port.backing();
        ensure!(backing.now() < begin + LIMIT, "the VF has no link: its PF has to be up");
        backing.idle();
    }
    Ok(())
}

fn frame(to: MacAddress, from: MacAddress, len: u16) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &KIND].concat();
    frame.resize(len.into(), 0);
    frame
}

fn is_ours(buffer: &DmaBuffer<Both>) -> bool {
    let mut kind = [0; 2];
    buffer.read(KIND_AT, &mut kind).is_some() && kind == KIND
}
