//! Giving functions to a driver, and taking them from any.

use super::{PROBE, UNBIND, check_iommu, check_leaf, check_unused, doubts, hazards, offer, release, set, step};
use crate::driver::is_vfio;
use crate::{Action, Attribute, Error, Machine, Plan, Target, WantedDriver};
use pci::Bdf;

/// Gives each function to `driver`. A function that the driver has already keeps it; only an override for another driver is
/// corrected, since it would matter when the function is next probed.
///
/// # Errors
/// [`UnknownDriver`](crate::ErrorKind::UnknownDriver), [`NoIommu`](crate::ErrorKind::NoIommu),
/// [`VfsExist`](crate::ErrorKind::VfsExist) for a PF, [`Held`](crate::ErrorKind::Held) and [`InUse`](crate::ErrorKind::InUse),
/// [`Gone`](crate::ErrorKind::Gone), or why the present driver is not known.
pub fn bind(machine: &Machine, functions: &[Bdf], driver: &WantedDriver) -> Result<Plan, Error> {
    let driver = match driver {
        WantedDriver::Native => return release(machine, functions),
        WantedDriver::Named(name) => name,
    };
    let mut plan = Plan::default();
    let mut taken = Vec::new();
    for &bdf in functions {
        let function = machine.function(bdf, PROBE)?;
        machine.check_driver(bdf, PROBE, driver)?;
        check_iommu(function, driver, PROBE)?;
        let target = Target::Function(bdf);
        let current_override = machine.driver_override(bdf);
        match machine.driver(function, PROBE)? {
            Some(current) if current == driver => {
                if current_override.is_some_and(|name| name != driver) {
                    plan.steps.push(set(target, Attribute::DriverOverride, driver));
                }
                continue;
            }
            Some(_) => {
                check_leaf(function, UNBIND)?;
                check_unused(machine, function, UNBIND)?;
                plan.steps.push(step(target, Action::Unbind));
                taken.push(bdf);
            }
            // Nobody can have a function without a driver; but its group may be held, and then takes no other drivers.
            None if is_vfio(driver) => check_leaf(function, PROBE)?,
            None => check_unused(machine, function, PROBE)?,
        }
        plan.steps.extend(offer(machine, target, driver, current_override));
    }
    plan.warnings = doubts(machine, &taken);
    if is_vfio(driver) {
        plan.warnings.extend(hazards(machine, functions));
    }
    Ok(plan)
}

/// Takes each function from the driver that has it. Overrides stay.
///
/// # Errors
/// [`VfsExist`](crate::ErrorKind::VfsExist) for a PF, [`Held`](crate::ErrorKind::Held) and [`InUse`](crate::ErrorKind::InUse),
/// [`Gone`](crate::ErrorKind::Gone), or why the present driver is not known.
pub fn unbind(machine: &Machine, functions: &[Bdf]) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let mut taken = Vec::new();
    for &bdf in functions {
        let function = machine.function(bdf, UNBIND)?;
        if machine.driver(function, UNBIND)?.is_some() {
            check_leaf(function, UNBIND)?;
            check_unused(machine, function, UNBIND)?;
            plan.steps.push(step(Target::Function(bdf), Action::Unbind));
            taken.push(bdf);
        }
    }
    plan.warnings = doubts(machine, &taken);
    Ok(plan)
}
