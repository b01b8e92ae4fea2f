//! From a store into a device's register to a thread that knows of its interrupt: ours, and the same system calls without anything around
//! them.
//!
//! A VF of an 82576 raises it, when it is told to. *There already*: the thread that raises it waits for it then, and finds it: no wake is in this.
//! *Asleep*: another thread sleeps, by what the kernel says of it, before the interrupt is raised.

mod asleep;
mod waiter;

use super::meter::{Meter, distribution, median, order, percentile};
use super::{Case, Session};
use anyhow::{Context, Result, ensure};
use drivers::igbvf::regs::{EIAC, EICS, EIMS, LEN};
use drivers::{Backing, Registers, VfioBacking};
use pci::Bdf;
use std::time::Duration;
use vfio_core::mmio::Window;
use vfio_core::{EventFd, Interrupts, IrqIndex};
use waiter::{How, Way};

const SUITE: &str = "interrupt";

/// A vector for an event that blocks, and one for an event that does not.
const VECTORS: u32 = 0b11;

/// A VF that interrupts on command.
struct Raiser {
    registers: Window<Registers, LEN>,
    _interrupts: Interrupts,
    _backing: VfioBacking,
}

impl Raiser {
    fn new(function: Bdf, events: [&EventFd; 2]) -> Result<Self> {
        let backing = VfioBacking::open(function)?;
        backing.start()?;
        let interrupts = backing.device().interrupts(IrqIndex::Msix)?;
        interrupts.enable(0, &events.map(Some))?;
        let registers = backing.map_bar(0, 0..LEN as u64)?;
        let registers = Window::new(registers, 0).context("a BAR that is too small")?;
        // The message clears its cause, so that the next one is raised too.
        registers.write(EIAC, VECTORS);
        registers.write(EIMS, VECTORS);
        let raiser = Self {
            registers,
            _interrupts: interrupts,
            _backing: backing,
        };
        for (vector, event) in (0..).zip(events) {
            raiser.raise(vector);
            let came = event.wait_timeout(Duration::from_secs(5))?;
            ensure!(came == Some(1), "vector {vector} signalled {came:?} times");
        }
        Ok(raiser)
    }

    #[inline]
    fn raise(&self, vector: u32) {
        self.registers.write(EICS, 1 << vector);
    }
}

/// Measures on one function, which is a VF of an 82576.
///
/// # Errors
/// Of ours, and of system calls.
pub fn run(session: &mut Session, functions: &[Bdf]) -> Result<()> {
    let function = *functions.first().context("no function to measure on")?;
    let reason = "a guest that stamps the time in its handler is not among the programs here";
    session.miss(SUITE, "wake of a guest's handler by irqfd", "ours", reason)?;
    let events = [EventFd::new()?, EventFd::nonblocking()?];
    let raiser = match Raiser::new(function, events.each_ref()) {
        Ok(raiser) => raiser,
        Err(error) => return session.miss(SUITE, "", "ours", &format!("{function}: {error:#}")),
    };
    for how in How::ALL {
        let case = case(how, "there already");
        if session.wants(&case.name) {
            measure(session, &case, waiter::ways(how, &events)?, |meter, way| {
                let begin = meter.look();
                raiser.raise(way.vector);
                (way.wait)()?;
                Ok(vec![meter.between(begin, meter.look())])
            })?;
        }
        let case = self::case(how, "asleep");
        if how != How::Busy && session.wants(&case.name) {
            measure(session, &case, waiter::ways(how, &events)?, |meter, way| {
                asleep::measure(meter, way, |vector| raiser.raise(vector))
            })?;
        }
    }
    Ok(())
}

fn case(how: How, state: &str) -> Case {
    let name = format!("{}, {state}", how.name());
    Case::new(SUITE, name, &[("device", "82576 VF, MSI-X")])
}

/// Lets both ways take their turns. `sample` gives the figures of one wait or of several.
fn measure(
    session: &mut Session,
    case: &Case,
    mut ways: Vec<Way<'_>>,
    sample: impl Fn(Meter, &mut Way<'_>) -> Result<Vec<f64>>,
) -> Result<()> {
    let (turns, samples) = if session.is_quick { (3, 50) } else { (9, 200) };
    let mut all = vec![Vec::new(); ways.len()];
    let mut medians = vec![Vec::new(); ways.len()];
    // The first turn is for caches to fill.
    for turn in 0..=turns {
        for place in order(ways.len(), turn) {
            let (Some(way), Some(all), Some(medians)) =
                (ways.get_mut(place), all.get_mut(place), medians.get_mut(place))
            else {
                continue;
            };
            let mut figures = Vec::with_capacity(samples);
            while figures.len() < samples {
                figures.extend(sample(session.meter, way)?);
            }
            if turn > 0 {
                medians.push(median(&figures));
                all.extend(figures);
            }
        }
    }
    let (clock, unit) = (session.meter.clock(), session.meter.unit());
    for ((way, medians), all) in ways.iter().zip(medians).zip(all) {
        let name = way.name;
        session.tell_as(case, name, medians, clock, unit, distribution(&all))?;
        for percent in [90, 99] {
            let mut case = case.clone();
            case.name.push_str(&format!(", {percent}th percentile"));
            session.tell(&case, name, vec![percentile(&all, percent)])?;
        }
    }
    Ok(())
}
