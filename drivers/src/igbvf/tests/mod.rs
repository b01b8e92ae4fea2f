//! The driver on a device in memory.

mod bent;
mod faults;
mod physical;
mod recovery;
#[cfg(feature = "smoltcp")]
mod stack;
mod traffic;

use super::{MacAddress, Offload, Piece, Port, PortOptions, Report, RxOptions, RxQueue, TxOptions, TxQueue};
use crate::fake::igbvf::{IgbVf, Wire};
use crate::fake::{FakeBacking, Interface};
use crate::{Backing, Result};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::pool::DmaPool;
use std::time::Duration;

pub(super) const PEER: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
pub(super) const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

/// A port with a queue each way.
pub(super) struct Rig {
    pub(super) tx: TxQueue<FakeBacking>,
    pub(super) rx: RxQueue<FakeBacking>,
    pub(super) port: Port<FakeBacking>,
    pub(super) pool: DmaPool<Both>,
    pub(super) wire: Wire,
    pub(super) backing: FakeBacking,
}

pub(super) fn options() -> PortOptions {
    PortOptions {
        mac: Some(MAC),
        answer_limit: Duration::from_millis(20),
        reset_limit: Duration::from_millis(50),
        ..PortOptions::default()
    }
}

impl Rig {
    pub(super) fn new(interface: Interface, options: PortOptions) -> Self {
        let (device, wire) = IgbVf::new();
        let backing = FakeBacking::through(interface, device).unwrap();
        Self::over(backing, wire, options).unwrap()
    }

    pub(super) fn over(backing: FakeBacking, wire: Wire, options: PortOptions) -> Result<Self> {
        let interrupt = options.interrupts;
        let mut port = Port::open(&backing, options)?;
        let rx_options = RxOptions {
            depth: 32,
            interrupt,
            ..RxOptions::default()
        };
        let rx = port.rx_queue(0, rx_options)?;
        let tx_options = TxOptions {
            depth: 32,
            interrupt,
            // Both ways are tried.
            report: if interrupt { Report::Head } else { Report::Descriptor },
        };
        let tx = port.tx_queue(0, tx_options)?;
        let failed = |error: iommu::Error| crate::Error::new(None, "buffers", error.into());
        let pool = DmaPool::new(backing.space(), 64 << 10, BufferOptions::default()).map_err(failed)?;
        let mut rig = Self {
            tx,
            rx,
            port,
            pool,
            wire,
            backing,
        };
        while rig.rx.room() > 0 {
            let buffer = rig.pool.take(2048).map_err(failed)?;
            rig.rx.post(buffer).unwrap();
        }
        rig.rx.ring();
        Ok(rig)
    }

    pub(super) fn buffer(&mut self, bytes: &[u8]) -> DmaBuffer<Both> {
        let mut buffer = self.pool.take(2048).unwrap();
        buffer.write(0, bytes).unwrap();
        buffer
    }

    pub(super) fn send(&mut self, frame: &[u8]) {
        let piece = self.piece(frame);
        self.tx.push(piece, Offload::default()).unwrap();
    }

    pub(super) fn piece(&mut self, bytes: &[u8]) -> Piece {
        Piece {
            buffer: self.buffer(bytes),
            len: bytes.len().try_into().unwrap(),
        }
    }

    /// Pops until there is a frame.
    pub(super) fn receive(&mut self) -> Result<Vec<u8>> {
        for _ in 0..100 {
            if let Some(received) = self.rx.pop()? {
                let mut frame = vec![0; received.status.length().into()];
                received.buffer.read(0, &mut frame).unwrap();
                self.rx.post(received.buffer).unwrap();
                self.rx.ring();
                return Ok(frame);
            }
            self.backing.idle();
        }
        panic!("no frame comes");
    }

    /// Waits for all that was sent, and counts the buffers.
    pub(super) fn drain(&mut self) -> Result<u32> {
        let mut count = 0;
        for _ in 0..100 {
            while self.tx.reap()?.is_some() {
                count += 1;
            }
            self.backing.idle();
        }
        Ok(count)
    }

    pub(super) fn recover(&mut self) {
        self.port.recover().unwrap();
        self.rx.restart().unwrap();
        self.tx.restart().unwrap();
    }

    /// A frame each way.
    pub(super) fn works(&mut self) {
        self.send(&frame(PEER, MAC, b"out"));
        self.tx.ring();
        assert_eq!(self.drain().unwrap(), 1);
        assert_eq!(self.wire.receive().unwrap(), frame(PEER, MAC, b"out"));
        self.wire.send(frame(MAC, PEER, b"in"));
        assert_eq!(self.receive().unwrap(), frame(MAC, PEER, b"in"));
    }
}

pub(super) fn frame(to: MacAddress, from: MacAddress, body: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    // An experimental type (IEEE 802).
    frame.extend([0x88, 0xb5]);
    frame.extend(body);
    // The shortest that the device sends.
    frame.resize(frame.len().max(17), 0);
    frame
}
