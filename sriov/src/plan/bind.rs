//! Giving functions to a driver, and taking them from any.

use super::{
    UNBIND, barred_by, check_iommu, check_leaf, check_unused, doubts, hazards, links_lost, offer, past_autoprobe,
    release, set, step,
};
use crate::driver::{is_vfio, override_for};
use crate::{Action, Attribute, Error, Machine, Plan, Step, Target, WantedDriver};
use pci::Bdf;
use std::collections::BTreeMap;

/// Gives each function to `driver`. A function that the driver has already keeps it; only an override for another driver is
/// corrected, since it would matter when the function is next probed.
///
/// Only drivers of VFIO and their like are set as `driver_override`; others must know the function by its ids, which turns out
/// when the plan is run, and get a VF of a PF with `sriov_drivers_autoprobe` 0 only while that is 1.
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
    let probe = Action::Probe {
        driver: Some(driver.clone()),
    };
    let probe = &probe.to_string();
    let wanted_override = override_for(driver);
    // Functions by the PF whose autoprobe is in their way.
    let mut by_pf: BTreeMap<Option<Bdf>, Vec<Step>> = BTreeMap::new();
    for &bdf in functions {
        let function = machine.function(bdf, probe)?;
        machine.check_driver(bdf, probe, driver)?;
        check_iommu(function, driver, probe)?;
        let mut steps = Vec::new();
        let target = Target::Function(bdf);
        let current_override = machine.driver_override(bdf);
        match machine.driver(function, probe)? {
            Some(current) if current == driver => {
                if current_override.is_some_and(|name| name != driver) {
                    let value = wanted_override.unwrap_or_default();
                    plan.steps.push(set(target, Attribute::DriverOverride, value));
                }
                continue;
            }
            Some(_) => {
                check_leaf(function, UNBIND)?;
                check_unused(machine, function, UNBIND)?;
                steps.push(step(target, Action::Unbind));
                taken.push(bdf);
            }
            // Nobody can have a function without a driver; but its group may be held, and then takes no other drivers.
            None if is_vfio(driver) => check_leaf(function, probe)?,
            None => check_unused(machine, function, probe)?,
        }
        steps.extend(offer(machine, target, driver, current_override));
        let barred_by = match wanted_override {
            Some(_) => None,
            None => barred_by(machine, function),
        };
        by_pf.entry(barred_by).or_default().extend(steps);
    }
    plan.steps.extend(past_autoprobe(by_pf));
    plan.warnings = doubts(machine, &taken);
    plan.warnings.extend(links_lost(machine, &taken));
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
    plan.warnings.extend(links_lost(machine, &taken));
    Ok(plan)
}
