//! Giving functions back to the drivers that the kernel chooses by itself.

use super::{PROBE, UNBIND, barred_by, check_leaf, check_unused, doubts, past_autoprobe, set, step};
use crate::driver::is_placeholder;
use crate::{Action, Attribute, Error, Machine, Plan, Step, Target};
use pci::Bdf;
use std::collections::BTreeMap;

/// Gives each function back: from a driver that only keeps it for user space, without an override, to whichever driver the
/// kernel finds. A native driver that has it keeps it. A function that has no driver is offered to all, each time.
///
/// The kernel offers a VF of a PF with `sriov_drivers_autoprobe` 0 to no driver, so that is 1 meanwhile.
///
/// # Errors
/// [`VfsExist`](crate::ErrorKind::VfsExist) for a PF, [`Held`](crate::ErrorKind::Held) and [`InUse`](crate::ErrorKind::InUse),
/// [`Gone`](crate::ErrorKind::Gone), or why the present driver is not known.
pub fn release(machine: &Machine, functions: &[Bdf]) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let mut taken = Vec::new();
    // Functions by the PF whose autoprobe is in their way.
    let mut by_pf: BTreeMap<Option<Bdf>, Vec<Step>> = BTreeMap::new();
    for &bdf in functions {
        let function = machine.function(bdf, PROBE)?;
        let driver = machine.driver(function, PROBE)?;
        let mut steps = Vec::new();
        let is_native = driver.is_some_and(|driver| !is_placeholder(driver));
        if driver.is_some() && !is_native {
            check_leaf(function, UNBIND)?;
            check_unused(machine, function, UNBIND)?;
            steps.push(step(Target::Function(bdf), Action::Unbind));
            taken.push(bdf);
        }
        if machine.driver_override(bdf).is_some() {
            steps.push(set(Target::Function(bdf), Attribute::DriverOverride, ""));
        }
        if is_native {
            plan.steps.extend(steps);
            continue;
        }
        if driver.is_none() {
            // Its group may be held, and then takes no drivers of the host.
            check_unused(machine, function, PROBE)?;
        }
        steps.push(step(Target::Function(bdf), Action::Probe { driver: None }));
        by_pf.entry(barred_by(machine, function)).or_default().extend(steps);
    }
    plan.steps.extend(past_autoprobe(by_pf));
    plan.warnings = doubts(machine, &taken);
    Ok(plan)
}
