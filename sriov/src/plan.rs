//! From a wish and the [`Machine`] as it is to a [`Plan`](crate::Plan). Pure: reads nothing, changes nothing.
//!
//! Every plan is empty where the machine is as wished already, and refused where something is in the way, with all reasons.
//! `sriov_numvfs` goes only from 0 to N and from N to 0, as the kernel demands, and never to 0 while anybody holds or uses one
//! of the VFs. A function is bound by name, to drivers of VFIO and their like through `driver_override`, so that no driver takes others of its
//! kind or what it does not know.

mod bind;
mod count;
mod release;

pub use bind::{bind, unbind};
pub use count::{create_vfs, delete_vfs};
pub use release::release;

use crate::driver::{is_placeholder, is_vfio, override_for};
use crate::{Action, Attribute, Condition, Coverage, Error, ErrorKind, Machine, Step, Target, guard};
use pci::{Bdf, Function, Group, ReservedKind, ReservedRegion, Viability};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SET_COUNT: &str = "write sriov_numvfs";
const UNBIND: &str = "write driver/unbind";
const PROBE: &str = "write drivers_probe";

/// For what the kernel makes within its own call, or udev right after it.
const NODE_DEADLINE: Duration = Duration::from_secs(10);

fn step(target: Target, action: Action) -> Step {
    Step { target, action }
}

fn set(target: Target, attribute: Attribute, value: impl Into<String>) -> Step {
    let value = value.into();
    step(target, Action::Set { attribute, value })
}

fn set_autoprobe(pf: Bdf, on: bool) -> Step {
    set(
        Target::Function(pf),
        Attribute::DriversAutoprobe,
        if on { "1" } else { "0" },
    )
}

fn wait(target: Target, condition: Condition) -> Step {
    let deadline = NODE_DEADLINE;
    step(target, Action::Wait { condition, deadline })
}

/// The steps that give a function without a driver to `driver`, and wait for what user space opens.
fn offer(machine: &Machine, target: Target, driver: &str, current_override: Option<&str>) -> Vec<Step> {
    let mut steps = Vec::new();
    let wanted_override = override_for(driver);
    if current_override != wanted_override {
        steps.push(set(
            target,
            Attribute::DriverOverride,
            wanted_override.unwrap_or_default(),
        ));
    }
    let wanted = Some(driver.to_owned());
    steps.push(step(target, Action::Probe { driver: wanted }));
    if is_vfio(driver) {
        if machine.has_group_nodes {
            steps.push(wait(target, Condition::GroupNode));
        }
        if machine.has_device_nodes {
            steps.push(wait(target, Condition::DeviceNode));
        }
    }
    steps
}

/// The PF of a VF that no driver may have without an override (`pci_device_can_probe`).
fn barred_by(machine: &Machine, function: &Function) -> Option<Bdf> {
    let pf = function.vf_of.as_ref().ok()?.as_ref()?.pf;
    (!machine.autoprobes(pf)).then_some(pf)
}

/// Steps by the PF whose `sriov_drivers_autoprobe` is in their way, which is 1 meanwhile.
fn past_autoprobe(steps: BTreeMap<Option<Bdf>, Vec<Step>>) -> impl Iterator<Item = Step> {
    steps.into_iter().flat_map(|(pf, steps)| {
        let on = pf.map(|pf| set_autoprobe(pf, true));
        let off = pf.map(|pf| set_autoprobe(pf, false));
        on.into_iter().chain(steps).chain(off)
    })
}

/// Refuses to take a function from its driver while somebody uses it.
fn check_unused(machine: &Machine, function: &Function, step: &str) -> Result<(), Error> {
    guard::check(function.bdf, &[function], &machine.usage, &machine.holders)
        .map_err(|refusal| refusal.into_error(step))
}

/// Refuses to take a function away that others depend on: a PF with VFs, which would go with it, or a bridge.
fn check_leaf(function: &Function, step: &str) -> Result<(), Error> {
    let refuse = |kind| Err(Error::new(function.bdf, step, kind));
    if let Ok(Some(sriov)) = &function.sriov
        && let enabled @ 1.. = sriov.virtual_functions.len()
    {
        let enabled = u16::try_from(enabled).unwrap_or(u16::MAX);
        return refuse(ErrorKind::VfsExist { enabled });
    }
    if function.class.as_ref().is_ok_and(|class| class.is_pci_bridge()) {
        let uses = vec!["it is a bridge: other functions are reached through it".to_owned()];
        return refuse(ErrorKind::InUse { uses });
    }
    Ok(())
}

/// Refuses a driver of VFIO for a function without an IOMMU.
fn check_iommu(function: &Function, driver: &str, step: &str) -> Result<(), Error> {
    match &function.iommu_group {
        _ if !is_vfio(driver) => Ok(()),
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Error::new(function.bdf, step, ErrorKind::NoIommu)),
        Err(unknown) => Err(crate::machine::from_unknown(function.bdf, step, unknown)),
    }
}

/// Interfaces that are up and go with their functions: each is made anew when its driver comes back, down. Networks are configured by others.
fn links_lost(machine: &Machine, taken: &[Bdf]) -> Vec<String> {
    let interfaces = taken.iter().flat_map(|bdf| machine.usage.interfaces(*bdf));
    let up = interfaces.filter(|interface| interface.is_up == Some(true));
    let text = |name| {
        format!(
            "{name} is up and goes: when its driver has the function again it is down until somebody runs ip link set {name} up"
        )
    };
    up.map(|interface| text(&interface.name)).collect()
}

/// What a plan that takes `taken` away could not find out.
fn doubts(machine: &Machine, taken: &[Bdf]) -> Vec<String> {
    let mut doubts = Vec::new();
    if taken.is_empty() {
        return doubts;
    }
    match &machine.holders.coverage {
        Coverage::Full => {}
        Coverage::Partial { unreadable: 0, .. } => {
            doubts.push("processes of others are hidden: one of them may hold the function; root sees all".to_owned());
        }
        Coverage::Partial { unreadable, .. } => doubts.push(format!(
            "{unreadable} processes may not be looked into: one of them may hold the function; root sees all"
        )),
        Coverage::Nothing(unknown) => doubts.push(format!("who holds the function is not known: {unknown}")),
    }
    let unknown = machine.usage.unknown.iter();
    doubts.extend(unknown.map(|unknown| format!("whether the machine uses the function is not certain: {unknown}")));
    for function in taken.iter().filter_map(|bdf| machine.topology.function(*bdf)) {
        /// Ethernet controller.
        const ETHERNET: (u8, u8) = (0x02, 0x00);
        let is_ethernet = function
            .class
            .as_ref()
            .is_ok_and(|class| (class.base(), class.sub()) == ETHERNET);
        let Ok(Some(driver)) = &function.driver else { continue };
        if is_ethernet && !is_placeholder(driver) && machine.usage.interfaces(function.bdf).is_empty() {
            doubts.push(format!(
                "{}: {driver} has it, but no interface is to be seen: a container may have it in its network namespace",
                function.bdf
            ));
        }
    }
    doubts
}

/// What is to be known of functions that go to VFIO: groups that it will not hand out, devices that nothing can reset, and
/// what the administrator has switched off.
fn hazards(machine: &Machine, bound: &[Bdf]) -> Vec<String> {
    let functions: Vec<&Function> = bound.iter().filter_map(|bdf| machine.topology.function(*bdf)).collect();
    let groups: BTreeSet<_> = functions
        .iter()
        .filter_map(|function| function.iommu_group.as_ref().ok()?.as_ref())
        .collect();
    let groups = groups.into_iter().filter_map(|id| machine.topology.group(*id));
    let mut hazards: Vec<String> = groups.flat_map(|group| group_hazards(machine, group, bound)).collect();
    for function in functions {
        if function.reset_methods.as_ref().is_ok_and(Vec::is_empty) {
            hazards.push(format!(
                "{}: the kernel has no way to reset it: each user finds it as the last one left it",
                function.bdf
            ));
        }
    }
    hazards.extend(machine.hazards.iter().map(|hazard| (*hazard).to_owned()));
    hazards
}

fn group_hazards(machine: &Machine, group: &Group, bound: &[Bdf]) -> Vec<String> {
    let mut hazards = Vec::new();
    let id = group.id;
    if let Viability::Spoiled(spoilers) = machine.topology.viability(group) {
        let others = spoilers.iter().filter(|spoiler| !bound.contains(&spoiler.bdf));
        let others: Vec<String> = others
            .map(|spoiler| match &spoiler.driver {
                Ok(driver) => format!("{} is on {}", spoiler.bdf, driver.as_deref().unwrap_or("no driver")),
                Err(unknown) => format!("the driver of {} is not known: {unknown}", spoiler.bdf),
            })
            .collect();
        if !others.is_empty() {
            hazards.push(format!(
                "VFIO will not hand out IOMMU group {id} yet: {}",
                others.join(", ")
            ));
        }
    }
    let is_direct = |regions: &Vec<ReservedRegion>| regions.iter().any(|region| region.kind == ReservedKind::Direct);
    if group.reserved_regions.as_ref().is_ok_and(is_direct) {
        hazards.push(format!(
            "VFIO will refuse IOMMU group {id}: the firmware demands a 1:1 mapping (RMRR or IVMD)"
        ));
    }
    hazards
}

#[cfg(test)]
mod tests;
