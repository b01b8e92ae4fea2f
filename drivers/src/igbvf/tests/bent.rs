//! A backing that does not do as a kernel that works.

use super::{MAC, PEER, frame, options};
use crate::fake::FakeBacking;
use crate::fake::igbvf::{Fault, IgbVf, Wire};
use crate::igbvf::{Offload, Piece, Port, PortState, TxOptions};
use crate::{Backing, Error, ErrorKind, Presence, Quiet, Registers, Removal, Result, Vectors, Woken};
use iommu::buffer::{Both, BufferOptions, DmaBuffer};
use iommu::space::AddressSpace;
use pci::{Bdf, ConfigSpace};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vfio_core::EventFd;

#[derive(Debug, Clone)]
struct Bent {
    inner: FakeBacking,
    /// It cannot be made quiet.
    is_stubborn: Arc<AtomicBool>,
    /// Its configuration space reads as all ones.
    is_hidden: Arc<AtomicBool>,
}

impl Bent {
    fn new() -> (Self, Wire) {
        let (device, wire) = IgbVf::new();
        let bent = Self {
            inner: FakeBacking::new(device).unwrap(),
            is_stubborn: Arc::default(),
            is_hidden: Arc::default(),
        };
        (bent, wire)
    }
}

impl Backing for Bent {
    fn bdf(&self) -> Option<Bdf> {
        self.inner.bdf()
    }

    fn config(&self) -> Result<ConfigSpace> {
        self.inner.config()
    }

    fn bar_len(&self, bar: u8) -> Result<u64> {
        self.inner.bar_len(bar)
    }

    fn map_bar(&self, bar: u8, part: Range<u64>) -> Result<Registers> {
        self.inner.map_bar(bar, part)
    }

    fn space(&self) -> &AddressSpace {
        self.inner.space()
    }

    fn vectors(&self, count: usize) -> Result<Vectors> {
        self.inner.vectors(count)
    }

    fn start(&self) -> Result<()> {
        self.inner.start()
    }

    fn quiesce(&self) -> Result<Quiet> {
        if self.is_stubborn.load(Ordering::Relaxed) {
            let kind = ErrorKind::Timeout(Duration::ZERO);
            return Err(Error::new(self.bdf(), "switch bus mastering off", kind));
        }
        self.inner.quiesce()
    }

    fn reset(&self) -> Result<()> {
        self.inner.reset()
    }

    fn removal(&self) -> &Removal {
        self.inner.removal()
    }

    fn presence(&self) -> Presence {
        if self.is_hidden.load(Ordering::Relaxed) {
            return Presence::Gone;
        }
        self.inner.presence()
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn idle(&self) {
        self.inner.idle();
    }

    fn wait(&self, event: &EventFd, timeout: Option<Duration>) -> Result<Woken> {
        self.inner.wait(event, timeout)
    }
}

#[test]
fn without_proof_that_the_device_stopped_its_memory_is_kept() {
    let (bent, wire) = Bent::new();
    let mut port = Port::open(&bent, options()).unwrap();
    let mut tx = port.tx_queue(0, TxOptions::default()).unwrap();
    let bytes = frame(PEER, MAC, b"out");
    let mut buffer = DmaBuffer::<Both>::new(bent.space(), 2048, &BufferOptions::default()).unwrap();
    buffer.write(0, &bytes).unwrap();
    let len = bytes.len().try_into().unwrap();
    tx.push(Piece { buffer, len }, Offload::default()).unwrap();
    tx.ring();
    wire.fault(Fault::QueueStaysOn);
    bent.is_stubborn.store(true, Ordering::Relaxed);
    assert!(tx.stop().is_err());
    let machine = bent.inner.machine().clone();
    drop((port, bent));
    assert_ne!(machine.leaks(), Vec::<String>::new());
}

#[test]
fn a_function_that_is_hidden_for_a_while_comes_back_and_one_that_stays_so_is_gone() {
    let (bent, wire) = Bent::new();
    let mut port = Port::open(&bent, options()).unwrap();
    wire.fault(Fault::Unreachable);
    bent.is_hidden.store(true, Ordering::Relaxed);
    // As while the PF has its function level reset.
    assert_eq!(port.check().unwrap(), PortState::Reset);
    wire.repair(Fault::Unreachable);
    bent.is_hidden.store(false, Ordering::Relaxed);
    port.recover().unwrap();
    assert!(matches!(port.check().unwrap(), PortState::Up(_)));
    wire.fault(Fault::Unreachable);
    bent.is_hidden.store(true, Ordering::Relaxed);
    let start = bent.now();
    assert!(port.recover().unwrap_err().is_gone());
    assert!(bent.now() - start >= options().reset_limit);
    wire.repair(Fault::Unreachable);
    assert!(port.recover().unwrap_err().is_gone());
    assert!(port.check().unwrap_err().is_gone());
}
