//! `vfio_pci_driver_test`: a device copies memory by DMA, also where it may not, and interrupts.

use super::in_all_modes;
use crate::PASSED;
use crate::context::{Context, DmaMemory, Mode, Opened};
use crate::harness::Case;
use crate::igb::{CHUNK, DEPTH, Igb};
use crate::stage::Staged;
use anyhow::{Context as _, Result, ensure};
use lab::case::Outcome;
use vfio_core::{Iova, PageSize};

pub(super) fn cases(modes: &[Mode]) -> Vec<Case> {
    in_all_modes(
        "pci_driver_test",
        modes,
        &[
            ("init_remove", init_remove),
            ("memcpy_success", memcpy_success),
            ("memcpy_from_unmapped_iova", memcpy_from_unmapped_iova),
            ("memcpy_to_unmapped_iova", memcpy_to_unmapped_iova),
            ("send_msi", send_msi),
            ("mix_and_match", mix_and_match),
            ("memcpy_storm", memcpy_storm),
        ],
    )
}

/// Bytes of a copy: four frames.
const LEN: u64 = 4 * CHUNK;
/// Bytes of the memory that is copied in: a page of its own for source and destination.
const MEMORY: u64 = 32 << 20;

struct Bench {
    igb: Igb,
    memory: DmaMemory,
    context: Context,
    _opened: Opened,
}

impl Bench {
    fn new(staged: &Staged, mode: Mode) -> Result<Self> {
        let context = Context::open(mode)?;
        let opened = context.device(staged.pf()?)?;
        let memory = context.dma(MEMORY, PageSize::Huge2M)?;
        let igb = Igb::start(&opened.device, &context)?;
        Ok(Self {
            igb,
            memory,
            context,
            _opened: opened,
        })
    }

    fn source(&self) -> Iova {
        self.memory.iova()
    }

    fn destination(&self) -> Iova {
        Iova(self.memory.iova().0 + MEMORY / 2)
    }

    /// An address that nothing is mapped at.
    fn unmapped(&self) -> Result<Iova> {
        self.context.place(1 << 30, 1)
    }

    /// Copies, and compares; the destination held something else before.
    fn good_copy(&mut self) -> Result<()> {
        let (len, half) = (usize::try_from(LEN)?, usize::try_from(MEMORY / 2)?);
        self.memory.memory().fill(0, len, b'x').context("inside")?;
        self.memory.memory().fill(half, len, b'y').context("inside")?;
        let arrived = self.igb.copy(self.source(), self.destination(), LEN)?;
        ensure!(arrived, "the copy does not arrive");
        let mut found = vec![0; len];
        self.memory.memory().read(half, &mut found).context("inside")?;
        ensure!(
            found.iter().all(|byte| *byte == b'x'),
            "what arrived is not what was sent"
        );
        Ok(())
    }

    fn no_interrupt(&self) -> Result<()> {
        let signals = self.igb.event.try_read()?;
        ensure!(signals.is_none(), "{signals:?} interrupts that nobody asked for");
        Ok(())
    }

    fn one_interrupt(&self) -> Result<()> {
        self.igb.interrupt();
        let signals = self.igb.event.wait()?;
        ensure!(signals == 1, "{signals} interrupts");
        Ok(())
    }
}

fn init_remove(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let mut bench = Bench::new(staged, mode)?;
    for _ in 0..10 {
        bench.igb.restart()?;
    }
    bench.good_copy()?;
    PASSED
}

fn memcpy_success(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let mut bench = Bench::new(staged, mode)?;
    bench.good_copy()?;
    bench.no_interrupt()?;
    PASSED
}

/// Whether such a copy arrives is the device's affair; that nothing else happens is not.
fn memcpy_from_unmapped_iova(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let mut bench = Bench::new(staged, mode)?;
    let (from, to) = (bench.unmapped()?, bench.destination());
    bench.igb.copy(from, to, LEN)?;
    bench.no_interrupt()?;
    PASSED
}

fn memcpy_to_unmapped_iova(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let mut bench = Bench::new(staged, mode)?;
    let (from, to) = (bench.source(), bench.unmapped()?);
    bench.igb.copy(from, to, LEN)?;
    bench.no_interrupt()?;
    PASSED
}

fn send_msi(staged: &Staged, mode: Mode) -> Result<Outcome> {
    Bench::new(staged, mode)?.one_interrupt()?;
    PASSED
}

fn mix_and_match(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let mut bench = Bench::new(staged, mode)?;
    for round in 0..10 {
        bench.good_copy().with_context(|| format!("round {round}"))?;
        let (from, to) = (bench.unmapped()?, bench.destination());
        bench.igb.copy(from, to, LEN)?;
        bench.one_interrupt().with_context(|| format!("round {round}"))?;
    }
    PASSED
}

/// As many copies as the ring holds, at once.
fn memcpy_storm(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let mut bench = Bench::new(staged, mode)?;
    let (from, to) = (bench.source(), bench.destination());
    bench.igb.queue(from, to, CHUNK, DEPTH)?;
    ensure!(bench.igb.wait()?, "the last copy does not arrive");
    bench.no_interrupt()?;
    PASSED
}
