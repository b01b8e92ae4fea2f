//! Creating and deleting all VFs of a PF.

use super::{SET_COUNT, bind, check_iommu, doubts, hazards, offer, set, set_autoprobe, wait};
use crate::driver::{is_vfio, override_for};
use crate::{Attribute, Condition, Error, ErrorKind, Machine, PhysicalFunction, Plan, Target, WantedDriver, guard};
use pci::{Bdf, VfIndex};
use std::num::NonZeroU16;

/// Creates `count` VFs of `pf` and gives each to `driver`; where there are `count` of them already, only the latter. Without a
/// driver the VFs get whatever `sriov_drivers_autoprobe` gives them.
///
/// # Errors
/// [`NotPf`](ErrorKind::NotPf), [`TooManyVfs`](ErrorKind::TooManyVfs), [`NoDriver`](ErrorKind::NoDriver),
/// [`VfsExist`](ErrorKind::VfsExist) when there are others, [`UnknownDriver`](ErrorKind::UnknownDriver),
/// [`NoIommu`](ErrorKind::NoIommu), and for VFs that exist the errors of [`bind`](super::bind()).
pub fn create_vfs(machine: &Machine, pf: Bdf, count: NonZeroU16, driver: Option<&WantedDriver>) -> Result<Plan, Error> {
    let refuse = |kind| Err(Error::new(pf, SET_COUNT, kind));
    let count = count.get();
    let physical = machine.physical_function(pf, SET_COUNT)?;
    let total = physical.sriov.total.as_ref();
    let total = *total.map_err(|unknown| crate::machine::from_unknown(pf, SET_COUNT, unknown))?;
    match physical.enabled() {
        0 => {}
        enabled if enabled == count => {
            let vfs = physical.virtual_functions();
            return driver.map_or_else(|| Ok(Plan::default()), |driver| bind(machine, &vfs, driver));
        }
        enabled => return refuse(ErrorKind::VfsExist { enabled }),
    }
    if count > total {
        return refuse(ErrorKind::TooManyVfs { wanted: count, total });
    }
    if machine.driver(physical.function, SET_COUNT)?.is_none() {
        return refuse(ErrorKind::NoDriver { driver: None });
    }
    let autoprobe = machine.autoprobes(pf);
    // While VFs are made the kernel must not choose their driver; afterwards only drivers with an override get past 0.
    let (making, offering) = match driver {
        None => (autoprobe, autoprobe),
        Some(WantedDriver::Native) => (true, true),
        Some(WantedDriver::Named(name)) => {
            machine.check_driver(pf, SET_COUNT, name)?;
            // VFs are behind the IOMMU of their PF.
            check_iommu(physical.function, name, SET_COUNT)?;
            (false, override_for(name).is_none())
        }
    };

    let mut plan = Plan::default();
    let change = |from, to| (from != to).then(|| set_autoprobe(pf, to));
    plan.steps.extend(change(autoprobe, making));
    plan.steps
        .push(set(Target::Function(pf), Attribute::NumVfs, count.to_string()));
    plan.steps
        .push(wait(Target::Function(pf), Condition::VirtualFunctions { count }));
    plan.steps.extend(change(making, offering));
    if let Some(WantedDriver::Named(name)) = driver {
        for index in (0..count).map(VfIndex) {
            plan.steps
                .extend(offer(machine, Target::VirtualFunction { pf, index }, name, None));
        }
    }
    plan.steps.extend(change(offering, autoprobe));
    plan.warnings = creation_warnings(machine, &physical, driver, autoprobe);
    Ok(plan)
}

fn creation_warnings(
    machine: &Machine,
    physical: &PhysicalFunction<'_>,
    driver: Option<&WantedDriver>,
    autoprobe: bool,
) -> Vec<String> {
    let pf = physical.function.bdf;
    let mut warnings = Vec::new();
    for interface in machine
        .usage
        .interfaces(pf)
        .iter()
        .filter(|interface| interface.is_up == Some(false))
    {
        let name = &interface.name;
        warnings.push(format!(
            "{name} is down: its VFs have no carrier until it is up, and some drivers create none before: ip link set {name} up"
        ));
    }
    match driver {
        None if !autoprobe => {
            warnings.push(format!("sriov_drivers_autoprobe of {pf} is 0: the VFs get no driver"));
        }
        Some(WantedDriver::Named(name)) if is_vfio(name) => {
            let driver = physical.function.driver.as_ref().ok().and_then(Option::as_deref);
            if driver.is_some_and(is_vfio) {
                warnings.push(format!(
                    "{pf} is itself on a driver of VFIO: whoever opens a VF needs the PF's VF token"
                ));
            }
            warnings.extend(hazards(machine, &[]));
        }
        _ => {}
    }
    warnings
}

/// Deletes all VFs of `pf`; the kernel takes them from their drivers.
///
/// # Errors
/// [`NotPf`](ErrorKind::NotPf); [`Held`](ErrorKind::Held) and [`InUse`](ErrorKind::InUse) for any of the VFs.
pub fn delete_vfs(machine: &Machine, pf: Bdf) -> Result<Plan, Error> {
    let physical = machine.physical_function(pf, SET_COUNT)?;
    let vfs = physical.virtual_functions();
    if vfs.is_empty() {
        return Ok(Plan::default());
    }
    let functions = vfs.iter().map(|vf| machine.function(*vf, SET_COUNT));
    let functions = functions.collect::<Result<Vec<_>, _>>()?;
    guard::check(pf, &functions, &machine.usage, &machine.holders).map_err(|refusal| refusal.into_error(SET_COUNT))?;
    Ok(Plan {
        steps: vec![set(Target::Function(pf), Attribute::NumVfs, "0")],
        warnings: doubts(machine, &vfs),
    })
}
