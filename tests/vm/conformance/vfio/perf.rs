//! `vfio_pci_device_init_perf_test`: devices are opened by threads of their own, all at once, into one address space.

use super::in_all_modes;
use crate::PASSED;
use crate::context::{Context, Mode};
use crate::harness::Case;
use crate::stage::Staged;
use anyhow::{Context as _, Result, ensure};
use lab::case::Outcome;
use std::sync::Barrier;
use std::time::Instant;

pub(super) fn cases(modes: &[Mode]) -> Vec<Case> {
    in_all_modes("pci_device_init_perf_test", modes, &[("init", init)])
}

/// The kernel's suite has no limit for how long it may take, and neither has this; it is for what goes wrong when it is done at once.
fn init(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let context = Context::open(mode)?;
    let devices: Vec<_> = staged.functions().collect();
    ensure!(devices.len() > 1, "one device opens by itself: {devices:?}");
    let barrier = Barrier::new(devices.len());
    let opened = std::thread::scope(|scope| {
        let threads: Vec<_> = devices
            .iter()
            .map(|bdf| {
                let (context, barrier) = (&context, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    let opened = context.device(*bdf)?;
                    let vendor = opened.device.config()?.read_u16(0)?;
                    ensure!(vendor != u16::MAX, "{bdf} does not answer");
                    anyhow::Ok((opened, start.elapsed()))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().ok().context("a thread panicked")?)
            .collect::<Result<Vec<_>>>()
    })?;
    let took: Vec<_> = opened
        .iter()
        .map(|(opened, took)| (opened.device.bdf(), *took))
        .collect();
    ensure!(took.len() == devices.len(), "{took:?}");
    PASSED
}
