//! Why the kernel does not hand out a device: other functions of its group, or interrupts that cannot be isolated.

use crate::{ErrorKind, System};
use pci::{Bdf, Fields, GroupId, Sysfs, Topology, Viability};
use rustix::io::Errno;

/// What EPERM of binding or of setting an IOMMU means.
pub(crate) fn explain_denied(system: &System, bdf: Option<Bdf>, group: Option<GroupId>) -> ErrorKind {
    let found = system.sysfs().and_then(|sysfs| spoilers(sysfs, bdf, group));
    match found {
        Some((group, culprits)) if !culprits.is_empty() => ErrorKind::GroupNotViable { group, culprits },
        _ => ErrorKind::Unsafe(Errno::PERM),
    }
}

/// The functions that keep a group from being handed out.
pub(crate) fn culprits(system: &System, group: GroupId) -> Vec<Bdf> {
    let found = system.sysfs().and_then(|sysfs| spoilers(sysfs, None, Some(group)));
    found.map(|(_, culprits)| culprits).unwrap_or_default()
}

fn spoilers(sysfs: &Sysfs, bdf: Option<Bdf>, group: Option<GroupId>) -> Option<(GroupId, Vec<Bdf>)> {
    let topology = Topology::read_fields(
        sysfs,
        Fields::ID | Fields::DRIVER | Fields::GROUP | Fields::CLASS_DEVICES,
    )
    .ok()?;
    let of_function = || {
        let holds = |group: &&pci::Group| bdf.is_some_and(|bdf| group.functions.contains(&bdf));
        topology.groups().find(holds)
    };
    let group = group.map_or_else(of_function, |id| topology.group(id))?;
    let culprits = match topology.viability(group) {
        Viability::Viable => Vec::new(),
        Viability::Spoiled(spoilers) => spoilers.into_iter().map(|spoiler| spoiler.bdf).collect(),
    };
    Some((group.id, culprits))
}
