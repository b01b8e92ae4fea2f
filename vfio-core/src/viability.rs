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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::create_dir_all;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    const IDS: [(&str, &str); 3] = [("vendor", "0x8086"), ("device", "0x10c9"), ("class", "0x020000")];

    fn function(root: &Path, bdf: &str, driver: Option<&str>) {
        let directory = root.join("sys/bus/pci/devices").join(bdf);
        let (group, drivers) = (root.join("sys/kernel/iommu_groups/7"), root.join("sys/bus/pci/drivers"));
        create_dir_all(&directory).unwrap();
        create_dir_all(group.join("devices")).unwrap();
        for (name, value) in IDS {
            std::io::Write::write_all(
                &mut std::fs::File::create(directory.join(name)).unwrap(),
                value.as_bytes(),
            )
            .unwrap();
        }
        symlink("../../../../kernel/iommu_groups/7", directory.join("iommu_group")).unwrap();
        symlink(&directory, group.join("devices").join(bdf)).unwrap();
        if let Some(driver) = driver {
            create_dir_all(drivers.join(driver)).unwrap();
            symlink(format!("../../drivers/{driver}"), directory.join("driver")).unwrap();
        }
    }

    #[test]
    fn who_is_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        for (bdf, driver) in [
            ("0000:01:00.0", Some("vfio-pci")),
            ("0000:01:00.1", Some("igb")),
            ("0000:01:00.2", None),
        ] {
            function(root.path(), bdf, driver);
        }
        let sysfs = Sysfs::at(root.path());
        let culprit: Bdf = "0000:01:00.1".parse().unwrap();
        let expected = Some((GroupId(7), vec![culprit]));
        assert_eq!(spoilers(&sysfs, None, Some(GroupId(7))), expected);
        assert_eq!(spoilers(&sysfs, "0000:01:00.0".parse().ok(), None), expected);
        assert_eq!(spoilers(&sysfs, None, Some(GroupId(8))), None);
    }
}
