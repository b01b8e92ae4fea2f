//! Frames through an 82576's virtual function in memory, 32 at a time. Times are those of driver and model together; instructions are the driver's
//! alone.

use super::{OURS, Operation, Subject, metered};
use crate::record::Clock;
use anyhow::{Context, Result, anyhow, ensure};
use drivers::Backing;
use drivers::fake::FakeBacking;
use drivers::fake::igbvf::{IgbVf, Wire};
use drivers::igbvf::{MacAddress, Offload, Piece, Port, PortOptions, RxOptions, RxQueue, TxOptions, TxQueue};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::pool::DmaPool;
use vfio_core::fake::Machine;

const BURST: u32 = 32;
const FRAME: u16 = 64;
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
const CLOCKS: &[Clock] = &[Clock::Wall, Clock::Instructions, Clock::Count];

struct Rig {
    tx: TxQueue<FakeBacking>,
    rx: RxQueue<FakeBacking>,
    pool: DmaPool<Both>,
    wire: Wire,
    backing: FakeBacking,
    machine: Machine,
    // Outlives its queues.
    _port: Port<FakeBacking>,
}

pub(super) fn operations() -> Vec<Operation> {
    [
        Operation::new("igbvf", "send 32 frames of 64 bytes", OURS, BURST, send),
        Operation::new("igbvf", "receive 32 frames of 64 bytes", OURS, BURST, receive),
    ]
    .map(|operation| operation.by(CLOCKS).allocates(false))
    .into()
}

impl Rig {
    fn new() -> Result<Self> {
        let (device, wire) = IgbVf::new();
        let backing = FakeBacking::new(device)?;
        let options = PortOptions {
            mac: Some(MAC),
            ..PortOptions::default()
        };
        let mut port = Port::open(&backing, options)?;
        Ok(Self {
            rx: port.rx_queue(0, RxOptions::default())?,
            tx: port.tx_queue(0, TxOptions::default())?,
            pool: DmaPool::new(backing.space(), 2 << 20, BufferOptions::default())?,
            machine: backing.machine().clone(),
            wire,
            backing,
            _port: port,
        })
    }

    fn buffer(&mut self) -> Result<DmaBuffer<Both>> {
        let mut buffer = self.pool.take(2048)?;
        buffer.write(0, &frame()).context("a frame in a buffer")?;
        Ok(buffer)
    }
}

/// To the function itself.
fn frame() -> Vec<u8> {
    let mut frame = MAC.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xB5]);
    frame.resize(FRAME.into(), 0);
    frame
}

fn send() -> Result<Subject> {
    let mut rig = Rig::new()?;
    let mut buffers = (0..BURST).map(|_| rig.buffer()).collect::<Result<Vec<_>>>()?;
    let machine = rig.machine.clone();
    let cycle = move || {
        metered(|| -> Result<()> {
            while let Some(buffer) = buffers.pop() {
                let piece = Piece { buffer, len: FRAME };
                let pushed = rig.tx.push(piece, Offload::default());
                pushed.map_err(|refused| anyhow!("{:?}", refused.why))?;
            }
            rig.tx.ring();
            Ok(())
        })?;
        let mut sent = 0;
        for _ in 0..4 * BURST {
            rig.backing.poke();
            sent += std::iter::from_fn(|| rig.wire.receive()).count();
            if sent == BURST as usize {
                break;
            }
        }
        metered(|| -> Result<()> {
            while let Some(buffer) = rig.tx.reap()? {
                buffers.push(buffer);
            }
            Ok(())
        })?;
        ensure!(buffers.len() == BURST as usize, "{} frames are sent", buffers.len());
        Ok(())
    };
    Ok(Subject::new(cycle).with_calls_of(machine))
}

fn receive() -> Result<Subject> {
    let mut rig = Rig::new()?;
    while rig.rx.room() > 0 {
        let buffer = rig.buffer()?;
        ensure!(rig.rx.post(buffer).is_ok(), "no room");
    }
    rig.rx.ring();
    let machine = rig.machine.clone();
    let mut buffers = Vec::with_capacity(BURST as usize);
    let cycle = move || {
        for _ in 0..BURST {
            rig.wire.send(frame());
        }
        for _ in 0..4 {
            rig.backing.poke();
        }
        metered(|| -> Result<()> {
            while let Some(received) = rig.rx.pop()? {
                buffers.push(received.buffer);
            }
            Ok(())
        })?;
        ensure!(buffers.len() == BURST as usize, "{} frames came", buffers.len());
        metered(|| -> Result<()> {
            for buffer in buffers.drain(..) {
                ensure!(rig.rx.post(buffer).is_ok(), "no room");
            }
            rig.rx.ring();
            Ok(())
        })
    };
    Ok(Subject::new(cycle).with_calls_of(machine))
}
