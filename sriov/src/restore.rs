//! Takes one change back, as far as the machine still shows it.
//!
//! What has become different from both the former state and what the operation made of it was changed by someone else and is left
//! alone, where that can be told: a driver that the kernel chose by itself cannot.

use crate::apply::Loss;
use crate::bus::Bus;
use crate::{
    Action, Attribute, Binding, Change, Error, ErrorKind, Former, Guard, Stage, Step, Target, VirtualFunctions,
};
use pci::{Bdf, VfIndex};

/// Takes a change back; `false` when all was as before already, or the function is gone.
pub(crate) fn restore(bus: &mut Bus<'_>, guard: &mut Guard<'_>, step: &Step, change: &Change) -> Result<bool, Error> {
    let Some(function) = unless_gone(bus.resolve(&step.target))? else {
        return Ok(false);
    };
    let is_done = change.stage == Stage::Done;
    match (&step.action, &change.former) {
        (Action::Set { attribute, value }, Former::Value(former)) => {
            if *attribute == Attribute::DriverOverride {
                bus.ask(function)?;
            }
            put_back(bus, function, *attribute, former, is_done.then_some(value))
        }
        (Action::Set { value, .. }, Former::VirtualFunctions(former)) => {
            recreate(bus, guard, function, former, is_done.then_some(value))
        }
        (action, Former::Binding(former)) => {
            let made = match action {
                Action::Probe { driver } if is_done => driver.clone(),
                Action::Unbind if is_done => Some(String::new()),
                _ => None,
            };
            // What may still happen to it would come after what is done here.
            bus.ask(function)?;
            rebind(bus, guard, function, former, made.as_ref())
        }
        // The journal is read with such pairs refused.
        (Action::Unbind | Action::Probe { .. } | Action::Wait { .. }, _) => Ok(false),
    }
}

/// Writes the former value of an attribute. `made` is what the operation is known to have made of it.
fn put_back(
    bus: &mut Bus<'_>,
    function: Bdf,
    attribute: Attribute,
    former: &str,
    made: Option<&String>,
) -> Result<bool, Error> {
    let now = bus.read(function, attribute)?;
    if now == former {
        return Ok(false);
    }
    check_unchanged(function, made, &now)?;
    bus.write(function, attribute, former)?;
    Ok(true)
}

/// Makes deleted VFs again, each with the driver and override that it had. Meanwhile the kernel gives none to a driver by itself.
fn recreate(
    bus: &mut Bus<'_>,
    guard: &mut Guard<'_>,
    pf: Bdf,
    former: &VirtualFunctions,
    made: Option<&String>,
) -> Result<bool, Error> {
    let count = former.bindings.len().to_string();
    let now = bus.read(pf, Attribute::NumVfs)?;
    let mut changed = now != count;
    if changed {
        check_unchanged(pf, made, &now)?;
        let autoprobe = bus.read(pf, Attribute::DriversAutoprobe)?;
        put_back(bus, pf, Attribute::DriversAutoprobe, "0", None)?;
        if let Err(error) = bus.write(pf, Attribute::NumVfs, &count) {
            // A write that may be under way must not find it on: it would give the VFs to their native drivers.
            if !matches!(
                error.kind,
                ErrorKind::TimedOut { .. } | ErrorKind::Worker(_) | ErrorKind::Unanswered
            ) {
                put_back(bus, pf, Attribute::DriversAutoprobe, &autoprobe, None)?;
            }
            return Err(error);
        }
    }
    for (index, binding) in (0..).map(VfIndex).zip(&former.bindings) {
        let vf = bus.resolve(&Target::VirtualFunction { pf, index })?;
        changed |= rebind(bus, guard, vf, binding, None)?;
    }
    Ok(put_back(bus, pf, Attribute::DriversAutoprobe, &former.autoprobe, None)? || changed)
}

/// Brings a function back to a driver: refuses first, then takes it from the driver it has, then offers it. The override names the
/// former driver meanwhile, whatever it was before: one that came through `new_id` or a since cleared override would not be found
/// otherwise.
fn rebind(
    bus: &mut Bus<'_>,
    guard: &mut Guard<'_>,
    function: Bdf,
    former: &Binding,
    made: Option<&String>,
) -> Result<bool, Error> {
    let now = bus.binding(function)?;
    if now == *former {
        return Ok(false);
    }
    let mut driver_override = now.driver_override;
    if now.driver != former.driver {
        let has_driver = now.driver.is_some();
        check_unchanged(function, made, &now.driver.unwrap_or_default())?;
        if has_driver {
            // A PF's driver would take its VFs along.
            if let Some(enabled) = bus.enabled_vfs(function)? {
                let kind = ErrorKind::VfsExist { enabled };
                return Err(Error::new(function, "write driver/unbind", kind));
            }
            guard(Loss::Driver(function))?;
            bus.unbind(function)?;
        }
        if let Some(driver) = &former.driver {
            if driver_override != *driver {
                bus.write(function, Attribute::DriverOverride, driver)?;
                driver_override.clone_from(driver);
            }
            bus.bind(function, driver)?;
        }
    }
    if driver_override != former.driver_override {
        bus.write(function, Attribute::DriverOverride, &former.driver_override)?;
    }
    Ok(true)
}

fn check_unchanged(function: Bdf, made: Option<&String>, found: &str) -> Result<(), Error> {
    match made {
        Some(left) if left != found => {
            let kind = ErrorKind::ChangedSince {
                left: left.clone(),
                found: found.to_owned(),
            };
            Err(Error::new(function, "undo", kind))
        }
        _ => Ok(()),
    }
}

/// A function that is gone has nothing to restore.
pub(crate) fn unless_gone(resolved: Result<Bdf, Error>) -> Result<Option<Bdf>, Error> {
    match resolved {
        Ok(function) => Ok(Some(function)),
        Err(error) if error.kind == ErrorKind::Gone => Ok(None),
        Err(error) => Err(error),
    }
}
