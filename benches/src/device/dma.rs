//! DMA of a device, polled: an NVMe controller writes what it reads into memory, a VF of an 82576 reads a frame from memory and another one writes it
//! there. Latency with one command or frame at a time, and bandwidth with many.
//!
//! Ours alone: what peers make of it say `cargo lab bench nvme` and `packets`, on the same devices. QEMU's edu is no device for this: a timer of
//! its model begins the DMA 100 ms after the register asked for it, whatever the software does.

mod frames;
mod nvme;

use super::meter::{distribution, median};
use super::{Case, Session, lab};
use crate::record::Clock;
use anyhow::{Context, Result};
use pci::Bdf;

const SUITE: &str = "dma";
/// Commands or frames that are outstanding when bandwidth is measured.
const DEPTH: u16 = 16;
/// What the class of an NVMe controller begins with.
const NVME: &str = "0x010802";

/// Measures on the first NVMe controller of these functions and on the first two others, which are VFs of an 82576 whose PF is up; on the lab's when
/// there are none.
///
/// # Errors
/// Of ours.
pub fn run(session: &mut Session, functions: &[Bdf]) -> Result<()> {
    if session.meter.clock() != Clock::Wall {
        return session.miss(SUITE, "", "ours", "a device's DMA takes no instructions");
    }
    let why = "its model begins 100 ms after it was asked to, by a timer";
    session.miss(SUITE, "edu", "ours", why)?;
    let (controller, connected) = if functions.is_empty() && lab::is_here() {
        (lab::taken("nvme"), lab::connected())
    } else {
        super::ready(functions)?;
        let is_nvme = |bdf: &Bdf| {
            let class = super::file(&format!("/sys/bus/pci/devices/{bdf}/class"));
            class.is_some_and(|class| class.starts_with(NVME))
        };
        let (controllers, others): (Vec<Bdf>, Vec<Bdf>) = functions.iter().partition(|bdf| is_nvme(bdf));
        let controller = controllers.first().copied();
        (controller.context("none was given: --device BDF"), Ok(others))
    };
    match controller {
        Ok(controller) => nvme::run(session, controller)?,
        Err(error) => session.miss(SUITE, "NVMe", "ours", &format!("{error:#}"))?,
    }
    match connected.as_deref() {
        Ok([from, to, ..]) => frames::run(session, *from, *to),
        Ok(_) => session.miss(
            SUITE,
            "82576",
            "ours",
            "no two VFs were given: --device BDF --device BDF",
        ),
        Err(error) => session.miss(SUITE, "82576", "ours", &format!("{error:#}")),
    }
}

/// Takes the turns of a case, in each of which `once` moves `count` times `bytes`, and tells how long one took and how many bytes went in a second,
/// which is called `rate`.
fn measure(
    session: &mut Session,
    case: &Case,
    way: &str,
    (count, bytes): (u16, u32),
    rate: &str,
    mut once: impl FnMut() -> Result<f64>,
) -> Result<()> {
    let (turns, rounds) = if session.is_quick { (3, 20) } else { (7, 100) };
    let (mut all, mut medians) = (Vec::new(), Vec::new());
    // The first turn is for caches to fill.
    for turn in 0..=turns {
        let figures = (0..rounds).map(|_| Ok(once()? / f64::from(count)));
        let figures = figures.collect::<Result<Vec<f64>>>()?;
        if turn > 0 {
            medians.push(median(&figures));
            all.extend(figures);
        }
    }
    let rates = medians.iter().map(|nanos| f64::from(bytes) * 1e9 / nanos.max(1.0));
    let rates = rates.collect();
    session.tell_as(case, way, medians, Clock::Wall, "ns/op", distribution(&all))?;
    let mut case = case.clone();
    case.name = format!("{}, {rate}", case.name);
    session.tell_as(&case, way, rates, Clock::Wall, "bytes/s", Vec::new())
}
