//! A driver of the 82576 that does one thing: its transmitter is wired to its receiver, so that a frame sent from one place in
//! memory is received at another. That makes it a device which copies memory by DMA, and interrupts on command.
//!
//! Register names and bits are those of Intel's 82576 datasheet, chapter 8. The MAC's own loopback (RCTL.LBM), which the datasheet
//! does not offer for this part, is what QEMU's model has.

use crate::context::{Context, DmaMemory};
use anyhow::{Context as _, Result, ensure};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vfio_core::mmio::{ReadOnly, ReadWrite, Reg, Window, WriteOnly};
use vfio_core::{BoundDevice, EventFd, Interrupts, Iova, IrqIndex, PageSize, RegionIndex, RegionMap};

const CTRL: Reg<u32, ReadWrite, 0x0000> = Reg::new();
const STATUS: Reg<u32, ReadOnly, 0x0008> = Reg::new();
const CTRL_EXT: Reg<u32, ReadWrite, 0x0018> = Reg::new();
const MDIC: Reg<u32, ReadWrite, 0x0020> = Reg::new();
const RCTL: Reg<u32, ReadWrite, 0x0100> = Reg::new();
const TCTL: Reg<u32, ReadWrite, 0x0400> = Reg::new();
const IMC: Reg<u32, WriteOnly, 0x150c> = Reg::new();
const GPIE: Reg<u32, ReadWrite, 0x1514> = Reg::new();
const EICS: Reg<u32, WriteOnly, 0x1520> = Reg::new();
const EIMS: Reg<u32, ReadWrite, 0x1524> = Reg::new();
const EIMC: Reg<u32, WriteOnly, 0x1528> = Reg::new();
const EIAC: Reg<u32, ReadWrite, 0x152c> = Reg::new();
const EIAM: Reg<u32, ReadWrite, 0x1530> = Reg::new();
const EICR: Reg<u32, ReadWrite, 0x1580> = Reg::new();
const IVAR0: Reg<u32, ReadWrite, 0x1700> = Reg::new();
const RDBAL: Reg<u32, ReadWrite, 0xc000> = Reg::new();
const RDBAH: Reg<u32, ReadWrite, 0xc004> = Reg::new();
const RDLEN: Reg<u32, ReadWrite, 0xc008> = Reg::new();
const SRRCTL: Reg<u32, ReadWrite, 0xc00c> = Reg::new();
const RDH: Reg<u32, ReadWrite, 0xc010> = Reg::new();
const RDT: Reg<u32, ReadWrite, 0xc018> = Reg::new();
const RXDCTL: Reg<u32, ReadWrite, 0xc028> = Reg::new();
const TDBAL: Reg<u32, ReadWrite, 0xe000> = Reg::new();
const TDBAH: Reg<u32, ReadWrite, 0xe004> = Reg::new();
const TDLEN: Reg<u32, ReadWrite, 0xe008> = Reg::new();
const TDH: Reg<u32, ReadWrite, 0xe010> = Reg::new();
const TDT: Reg<u32, ReadWrite, 0xe018> = Reg::new();
const TXDCTL: Reg<u32, ReadWrite, 0xe028> = Reg::new();

const CTRL_FD: u32 = 1 << 0;
const CTRL_SLU: u32 = 1 << 6;
const CTRL_SPEED: u32 = 3 << 8;
const CTRL_SPEED_1000: u32 = 2 << 8;
const CTRL_FORCE: u32 = 3 << 11;
const CTRL_RST: u32 = 1 << 26;
const STATUS_LU: u32 = 1 << 1;
const CTRL_EXT_LINK_MODE: u32 = 3 << 22;
const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;
/// Write register 0 of PHY 1: autonegotiate now.
const MDIC_RESTART_LINK: u32 = 0x1200 | 1 << 21 | 1 << 26;
const MDIC_READY: u32 = 1 << 28;
/// Receive everything, also what is addressed to nobody here; from our own transmitter; without the checksum.
const RCTL_LOOPBACK: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 15 | 1 << 26;
const TCTL_ON: u32 = 1 << 1 | 1 << 3;
const QUEUE_ENABLE: u32 = 1 << 25;
const SRRCTL_ONE_BUFFER: u32 = 1 << 25;
/// Vectors by cause, and masked as they are sent.
const GPIE_MSIX: u32 = 1 << 4 | 1 << 30;
const IVAR_VALID: u32 = 0x80;
const VECTOR: u32 = 1;

/// A data descriptor with the checksum added, of a whole packet.
const TX_COMMAND: u64 = 3 << 20 | 1 << 24 | 1 << 25 | 1 << 29;
const RX_DONE: u32 = 1;

const RING: u32 = 4096;
const RING_BYTES: u32 = RING * 16;
/// Where the receive ring begins in the memory of both.
const RX_RING: u32 = RING_BYTES;

/// The longest copy that is one frame.
pub(crate) const CHUNK: u64 = 1024;
/// How many copies can be under way.
pub(crate) const DEPTH: u32 = RING - 1;

/// The card, started. Dropping it stops its DMA.
#[derive(Debug)]
pub(crate) struct Igb {
    device: BoundDevice,
    registers: Window<RegionMap, 0x1_0000>,
    rings: DmaMemory,
    interrupts: Option<Interrupts>,
    /// Signalled by vector 0.
    pub(crate) event: EventFd,
    tail: u32,
}

impl Igb {
    pub(crate) fn start(device: &BoundDevice, context: &Context) -> Result<Self> {
        let bar = device.region(RegionIndex::BAR0)?;
        let map = bar.map(0..bar.size())?;
        let registers = Window::new(map, 0).context("BAR 0 is smaller than an 82576's")?;
        let mut igb = Self {
            device: device.clone(),
            registers,
            rings: context.dma(2 << 20, PageSize::Base)?,
            interrupts: None,
            event: EventFd::new()?,
            tail: 0,
        };
        igb.reset()?;
        igb.program()?;
        Ok(igb)
    }

    /// Copies memory, in frames, and waits until the last one has arrived; whether it has.
    pub(crate) fn copy(&mut self, from: Iova, to: Iova, len: u64) -> Result<bool> {
        let mut arrived = true;
        for at in (0..len).step_by(usize::try_from(CHUNK)?) {
            let part = CHUNK.min(len - at);
            let place = |iova: Iova| iova.checked_add(at).context("past the end of the address space");
            self.queue(place(from)?, place(to)?, part, 1)?;
            arrived &= self.wait()?;
        }
        Ok(arrived)
    }

    /// Queues the same copy `count` times.
    pub(crate) fn queue(&mut self, from: Iova, to: Iova, len: u64, count: u32) -> Result<()> {
        ensure!(
            (60..=CHUNK).contains(&len) && count <= DEPTH,
            "no frame has {len} bytes, no ring {count}"
        );
        self.registers.write(EIMC, VECTOR);
        for _ in 0..count {
            // The receiver writes its descriptor when a frame has arrived: one is made clean, and pointed at the destination.
            self.put(RX_RING, to.0, 0)?;
            self.put(0, from.0, TX_COMMAND | len | len << (32 + 14))?;
            self.tail = (self.tail + 1) % RING;
        }
        self.registers.write(RDT, self.tail);
        self.registers.write(TDT, self.tail);
        Ok(())
    }

    /// Waits until the last frame that was queued has arrived. If it does not, the card is reset and started again, and keeps its event.
    pub(crate) fn wait(&mut self) -> Result<bool> {
        let last = (self.tail + RING - 1) % RING;
        let status = usize::try_from(RX_RING + last * 16 + 8)?;
        let status = self.rings.memory().atomic_u32(status).context("outside the ring")?;
        let arrived = until(Duration::from_secs(20), || {
            u32::from_le(status.load(Ordering::Acquire)) & RX_DONE != 0
        });
        self.registers.write(EICR, u32::MAX);
        self.registers.write(EIMS, VECTOR);
        if !arrived {
            self.recover()?;
        }
        Ok(arrived)
    }

    /// Lets the card send its interrupt.
    pub(crate) fn interrupt(&self) {
        self.registers.write(EIMS, VECTOR);
        self.registers.write(EICS, VECTOR);
    }

    /// Stops the card and starts it again.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.stop();
        self.reset()?;
        self.program()
    }

    /// From whatever state it is in: a function level reset, which also takes the interrupts away, and everything anew. The event stays.
    fn recover(&mut self) -> Result<()> {
        self.interrupts = None;
        self.device.reset()?;
        self.program()
    }

    /// The card's own reset.
    fn reset(&mut self) -> Result<()> {
        self.registers.write(CTRL, self.registers.read(CTRL) | CTRL_RST);
        let done = until(Duration::from_secs(1), || self.registers.read(CTRL) & CTRL_RST == 0);
        ensure!(done, "the card does not come out of its reset");
        self.registers.write(IMC, u32::MAX);
        Ok(())
    }

    fn program(&mut self) -> Result<()> {
        let registers = &self.registers;
        self.device.config()?.set_bus_master(true)?;
        self.interrupts = None;
        let interrupts = self.device.interrupts(IrqIndex::Msix)?;
        interrupts.enable(0, &[Some(&self.event)])?;
        self.interrupts = Some(interrupts);
        let link_mode = registers.read(CTRL_EXT) & !CTRL_EXT_LINK_MODE;
        registers.write(CTRL_EXT, link_mode | CTRL_EXT_DRV_LOAD);

        // Without a link the receiver drops what it gets, from its own transmitter too.
        registers.write(MDIC, MDIC_RESTART_LINK);
        ensure!(
            until(Duration::from_secs(1), || registers.read(MDIC) & MDIC_READY != 0),
            "the PHY does not answer"
        );
        let forced = registers.read(CTRL) & !CTRL_SPEED;
        registers.write(CTRL, forced | CTRL_FORCE | CTRL_SPEED_1000 | CTRL_FD | CTRL_SLU);
        ensure!(
            until(Duration::from_secs(10), || registers.read(STATUS) & STATUS_LU != 0),
            "the link does not come up"
        );

        let place = |offset: u32| self.rings.iova().checked_add(offset.into()).map(|iova| iova.0);
        let (tx, rx) = (place(0).context("tx ring")?, place(RX_RING).context("rx ring")?);
        registers.write(TDBAL, low(tx));
        registers.write(TDBAH, low(tx >> 32));
        registers.write(TDLEN, RING_BYTES);
        registers.write(TDH, 0);
        registers.write(TDT, 0);
        registers.write(TXDCTL, QUEUE_ENABLE);
        registers.write(RDBAL, low(rx));
        registers.write(RDBAH, low(rx >> 32));
        registers.write(RDLEN, RING_BYTES);
        registers.write(RDH, 0);
        registers.write(RDT, 0);
        registers.write(SRRCTL, SRRCTL_ONE_BUFFER);
        registers.write(RXDCTL, QUEUE_ENABLE);
        registers.write(RCTL, RCTL_LOOPBACK);
        registers.write(TCTL, TCTL_ON);
        let both = || registers.read(TXDCTL) & registers.read(RXDCTL) & QUEUE_ENABLE != 0;
        ensure!(until(Duration::from_secs(1), both), "the queues do not start");

        registers.write(GPIE, GPIE_MSIX);
        registers.write(EIAC, VECTOR);
        registers.write(EIAM, VECTOR);
        registers.write(IVAR0, IVAR_VALID);
        registers.write(EIMS, VECTOR);
        self.tail = 0;
        Ok(())
    }

    fn stop(&mut self) {
        self.registers.write(RCTL, 0);
        self.registers.write(TCTL, 0);
        self.interrupts = None;
    }

    /// Fills the descriptor at the tail of a ring.
    fn put(&self, ring: u32, address: u64, rest: u64) -> Result<()> {
        let at = usize::try_from(ring + self.tail * 16)?;
        let memory = self.rings.memory();
        memory
            .write_value(at, &[address.to_le(), rest.to_le()])
            .context("outside the ring")
    }
}

impl Drop for Igb {
    fn drop(&mut self) {
        self.stop();
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn low(value: u64) -> u32 {
    value as u32
}

/// Waits for a condition, of which the card gives no sign; whether it came about.
fn until(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return condition();
        }
        std::thread::yield_now();
    }
    true
}
