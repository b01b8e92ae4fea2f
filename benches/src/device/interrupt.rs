//! From a store into a device's register to a thread that knows of its interrupt: ours, and the same system calls without anything around
//! them.
//!
//! A VF of an 82576 and an edu raise it when a register tells them to, an NVMe controller when it has done a flush. *There already*: the thread that raises it
//! waits for it then, and finds it: no wake is in this. *Asleep*: another thread sleeps, by what the kernel says of it, before the interrupt is
//! raised. A guest's handler is in the part of guests.

mod asleep;
mod source;
mod waiter;

use super::meter::{Meter, distribution, median, order, percentile};
use super::{Case, Session, lab};
use crate::record::Clock;
use anyhow::Result;
use pci::Bdf;
use source::Source;
use waiter::{How, Way};

const SUITE: &str = "interrupt";
const NVME: &str = "NVMe, MSI-X";

/// Opens a device, for who waits in this way.
type Open = fn(Bdf, How) -> Result<Source>;

/// Measures on one function, which is a VF of an 82576, and in the lab on an edu and an NVMe controller.
///
/// # Errors
/// Of ours, and of system calls.
pub fn run(session: &mut Session, functions: &[Bdf]) -> Result<()> {
    if let Some(function) = functions.first() {
        on_device(session, "82576 VF, MSI-X", *function, source::vf)?;
    }
    if !lab::is_here() {
        return Ok(());
    }
    on_found(session, "edu, MSI", lab::edu(), source::edu)?;
    if session.meter.clock() == Clock::Instructions {
        let reason = "a flush takes the device its time, which a clock of instructions counts, too";
        return session.miss(SUITE, NVME, "ours", &reason);
    }
    on_found(session, NVME, lab::taken("nvme"), source::nvme)
}

fn on_found(session: &mut Session, device: &str, function: Result<Bdf>, open: Open) -> Result<()> {
    match function {
        Ok(function) => on_device(session, device, function, open),
        Err(error) => session.miss(SUITE, device, "ours", &format!("{error:#}")),
    }
}

fn on_device(session: &mut Session, device: &str, function: Bdf, open: Open) -> Result<()> {
    for how in How::ALL {
        let source = match open(function, how) {
            Ok(source) => source,
            Err(error) => {
                session.miss(
                    SUITE,
                    &format!("{}, {device}", how.name()),
                    "ours",
                    &format!("{error:#}"),
                )?;
                continue;
            }
        };
        let Source { event, raise, settle } = &source;
        let case = case(how, device, "there already");
        if session.wants(&case.name) {
            measure(session, &case, waiter::ways(how, event)?, |meter, way| {
                let begin = meter.look();
                raise()?;
                (way.wait)()?;
                let took = meter.between(begin, meter.look());
                settle()?;
                Ok(vec![took])
            })?;
        }
        let case = self::case(how, device, "asleep");
        if how != How::Busy && session.wants(&case.name) {
            measure(session, &case, waiter::ways(how, event)?, |meter, way| {
                asleep::measure(meter, way, raise, settle)
            })?;
        }
    }
    Ok(())
}

fn case(how: How, device: &str, state: &str) -> Case {
    Case::new(SUITE, format!("{}, {state}", how.name()), &[("device", device)])
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
        // Of instructions, what is far from the median is a tick of the clock that fell into it.
        let percents: &[usize] = if clock == Clock::Wall { &[90, 99] } else { &[] };
        for &percent in percents {
            let mut case = case.clone();
            case.name.push_str(&format!(", {percent}th percentile"));
            session.tell(&case, name, vec![percentile(&all, percent)])?;
        }
    }
    Ok(())
}
