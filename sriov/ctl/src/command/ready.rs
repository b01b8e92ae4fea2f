//! Whether a guest can have a function: on a VFIO driver, in a viable group, held by nobody.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::snapshot::{self, Snapshot};
use pci::{Bdf, Function, Group, GroupId, Viability};
use sriov::{Holder, Holders};

/// Refuses what a VMM would refuse with less to say about it. What `vmm` holds is in nobody's way: it is to
/// have this function too, and it knows which ones it has.
pub(super) fn check(
    snapshot: &Snapshot,
    function: &Function,
    step: &'static str,
    vmm: Option<u32>,
) -> Result<GroupId, Failure> {
    let bdf = function.bdf;
    let refuse = |exit, kind, message: String| Failure::new(exit, kind, message).device(bdf).step(step);
    if !snapshot::is_on_vfio(function) {
        let message = match &function.driver {
            Ok(Some(driver)) => format!("is on {driver}, not on a VFIO driver"),
            Ok(None) => "has no driver, and needs a VFIO driver".to_owned(),
            Err(unknown) => format!("may be on any driver: {unknown}"),
        };
        let failure = refuse(Exit::Failed, "not_on_vfio", message);
        return Err(failure.fix(format!("sriovctl bind {bdf} --driver vfio-pci")));
    }
    let group = function
        .iommu_group
        .as_ref()
        .ok()
        .and_then(Option::as_ref)
        .and_then(|id| snapshot.topology.group(*id));
    let Some(group) = group else {
        let failure = refuse(Exit::Failed, "no_iommu", "has no IOMMU group".to_owned()).code("P01");
        return Err(failure.fix("enable the IOMMU in the firmware and in the kernel"));
    };
    if let Viability::Spoiled(spoilers) = snapshot.topology.viability(group) {
        let message = format!("IOMMU group {} is not viable", group.id.0);
        let mut failure = refuse(Exit::Failed, "group_not_viable", message).code("P06");
        failure.causes = spoilers
            .iter()
            .map(|spoiler| match &spoiler.driver {
                Ok(driver) => format!("{} is on {}", spoiler.bdf, driver.as_deref().unwrap_or("no driver")),
                Err(unknown) => format!("{} may be on any driver: {unknown}", spoiler.bdf),
            })
            .collect();
        return Err(failure.fix("bind these functions to vfio-pci too, or unbind them"));
    }
    let mut held_by = match &snapshot.holders {
        Some(found) => holders(found, group),
        None => Vec::new(),
    };
    held_by.retain(|holder| Some(holder.pid) != vmm);
    match held_by.is_empty() {
        true => Ok(group.id),
        false => Err(held(bdf, step, held_by)),
    }
}

/// Who holds a function of a group, or may.
pub(super) fn holders(found: &Holders, group: &Group) -> Vec<Holder> {
    let mut held_by: Vec<_> = group.functions.iter().flat_map(|member| found.of(*member)).collect();
    held_by.extend(found.unnamed());
    held_by.sort_unstable();
    held_by.dedup();
    held_by
}

/// The refusal of a function that somebody has: these, or a process that the kernel has not ended yet.
pub(super) fn held(bdf: Bdf, step: &'static str, held_by: Vec<Holder>) -> Failure {
    let message = match held_by.is_empty() {
        true => "device or resource busy, and no process is found that holds it",
        false => "device or resource busy",
    };
    let failure = Failure::new(Exit::Busy, "held", message).device(bdf).step(step);
    let failure = failure.code("B06").held_by(held_by);
    failure.fix("stop that process, or choose a free function: sriovctl list --free")
}
